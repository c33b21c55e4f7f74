/** The planner: Little's law gives the decodes, their steps give the room for prompts, and the count with the
 *  most room is taken, seldom. */
import { describe, expect, it } from 'vitest';
import { workerId } from '../../src/base/ids.js';
import { Planner } from '../../src/router/planner.js';
import type { RequestFacts, WorkerSnapshot } from '../../src/router/snapshot.js';
import { costs, facts, worker } from './workers.js';

const many = (count: number, more: object = {}) =>
  Array.from({ length: count }, (_, i) => worker(`w${i}`, 'any', more));

/** Traffic: one request every `gapMs` with so many tokens out. */
interface Traffic {
  readonly gapMs: number;
  readonly outputTokenCount: number;
}

/** A gateway's planner under traffic; every request asks for the plan, as routing.ts does. */
class Watched {
  readonly planner = new Planner();
  nowMs = 0;
  /** Each change: when, and to how many. */
  readonly changes: [atMs: number, count: number][] = [];
  #last: ReadonlySet<string> = new Set();

  run(
    { gapMs, outputTokenCount }: Traffic,
    forMs: number,
    workers: readonly WorkerSnapshot[],
  ): ReadonlySet<string> {
    for (const untilMs = this.nowMs + forMs; this.nowMs < untilMs; this.nowMs += gapMs) {
      this.planner.observe(request({ expectedTokenCount: outputTokenCount, nowMs: this.nowMs }));
      const now = this.planner.prefillFirst(workers, this.nowMs);
      if (now !== this.#last) this.changes.push([this.nowMs, now.size]);
      this.#last = now;
    }
    return this.#last;
  }
}

const request = (more: Partial<RequestFacts>) =>
  facts({ promptTokenCount: 1000, slo: { ttftMs: 1000, tpotMs: 20 }, ...more });

/** 12 rows at a TPOT of 20 ms. */
const light: Traffic = { gapMs: 100, outputTokenCount: 60 };
/** 60 rows. */
const heavy: Traffic = { gapMs: 10, outputTokenCount: 30 };

describe('the choice', () => {
  it('nothing has come: nobody is prefill-first', () => {
    expect(new Planner().prefillFirst(many(4), 0).size).toBe(0);
  });

  it('Little by hand: tokens a second times TPOT are under way, and the best division of them is taken', () => {
    // 10 requests/s of 60 tokens at 20 ms are 12 rows of 1,030 keys. On one worker they take 11.8 of the 19.4
    // ms that a step may take, which leaves 64 prompt tokens, 3.6 a ms; a worker without decodes computes 8.6
    // a ms. Six on each of two: 4.7 a ms twice.
    expect(new Watched().run(light, 60_000, many(2)).size).toBe(1);
  });

  it('decodes that fill what one worker can hold leave nobody for prompts alone', () => {
    // thirty on each of two take 16 of 19.4 ms, sixty on one 24
    expect(new Watched().run(heavy, 60_000, many(2)).size).toBe(0);
  });

  it('more workers are prefill-first the fewer rows there are, and never all who decode', () => {
    const countOf = (outputTokenCount: number) =>
      new Watched().run({ gapMs: 20, outputTokenCount }, 60_000, many(8)).size;
    const counts = [40, 80, 120, 200, 280].map(countOf); // as many rows
    expect(counts).toEqual([...counts].sort((a, b) => b - a));
    expect(counts[0]).toBe(7);
    expect(counts.at(-1)).toBeLessThan(3);
    expect(new Watched().run(light, 60_000, many(1)).size).toBe(0);
    const beside = [...many(1), worker('d', 'decode')];
    expect(new Watched().run(light, 60_000, beside).size).toBe(1); // somebody else decodes
  });

  it('nobody while a hand-over takes more of the decode time than the 3 % that pacing leaves', () => {
    // 59 further tokens at 20 ms: 1,180 ms, 3 % are 35.4, and 1.1 × as much has to be saved to begin with it.
    // Until a step takes it up one and a half of 11.8 ms pass: 17.7.
    const ofHandOver = (handOverMs: number) =>
      many(2, { costs: { ...costs, request: { ...costs.request, handOverMs } } });
    const watched = new Watched();
    expect(watched.run(light, 60_000, ofHandOver(18)).size).toBe(0);
    expect(watched.run(light, 60_000, ofHandOver(13)).size).toBe(1);
    expect(watched.run(light, 60_000, ofHandOver(16)).size).toBe(1);
    expect(watched.run(light, 60_000, ofHandOver(19)).size).toBe(0);
  });

  it('those are taken that decode least', () => {
    const workers = [worker('w0', 'any', { decodingCount: 9 }), worker('w1', 'any', { decodingCount: 2 })];
    expect([...new Watched().run(light, 60_000, workers)]).toEqual(['w1']);
  });
});

describe('changes', () => {
  it('come at most once in ten seconds, however the load changes', () => {
    const watched = new Watched();
    const workers = many(2);
    for (let i = 0; i < 12; i++) watched.run(i % 2 === 0 ? light : heavy, 45_000, workers);
    expect(watched.changes.length).toBeGreaterThan(2);
    const gaps = watched.changes.slice(1).map(([atMs], i) => atMs - watched.changes[i]![0]);
    expect(Math.min(...gaps)).toBeGreaterThanOrEqual(10_000);
  });

  it('need a clear gain: a load at the border between two counts does not go to and fro', () => {
    const counts = new Set<number>();
    for (let outputTokenCount = 10; outputTokenCount < 160; outputTokenCount += 4) {
      const watched = new Watched();
      const wobble = (sign: number) => ({
        gapMs: 20,
        outputTokenCount: outputTokenCount * (1 + 0.03 * sign),
      });
      watched.run(wobble(0), 100_000, many(4));
      const settled = watched.changes.length;
      for (let i = 0; i < 8; i++) watched.run(wobble(i % 2 === 0 ? 1 : -1), 60_000, many(4));
      // it may settle on the better of two equals
      expect(watched.changes.length - settled).toBeLessThanOrEqual(1);
      counts.add(watched.changes.at(-1)?.[1] ?? 0);
    }
    expect(counts.size).toBeGreaterThan(1); // there were borders on the way
  });

  it('follow the load within a dwell and its memory', () => {
    const watched = new Watched();
    expect(watched.run(light, 60_000, many(2)).size).toBe(1);
    expect(watched.run(heavy, 60_000, many(2)).size).toBe(0);
  });

  it('do not wait when a prefill-first worker has died', () => {
    const watched = new Watched();
    const [first] = [...watched.run(light, 60_000, many(2))];
    const left = many(2).map((each) => ({ ...each, isLive: each.id !== first }));
    expect(watched.planner.prefillFirst(left, watched.nowMs).size).toBe(0); // the only one left decodes
    const three = new Watched();
    const [dead] = [...three.run(light, 60_000, many(3))];
    const now = three.planner.prefillFirst(
      many(3).map((each) => ({ ...each, isLive: each.id !== dead })),
      three.nowMs,
    );
    expect(now.size).toBe(1);
    expect(now.has(workerId(dead!))).toBe(false);
  });
});
