/** What the adaptive policy must do whatever its constants: and what keeps it from being worse than a static mode. */
import { describe, expect, it } from 'vitest';
import { workerId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import { nameOf } from '../../src/router/arrangement.js';
import { Arranger } from '../../src/router/arranger.js';
import { candidatesOf } from '../../src/router/candidates.js';
import { chooseRoute } from '../../src/router/choose-route.js';
import type { KvClaim } from '../../src/router/kv-growth.js';
import { LengthPredictor } from '../../src/router/length-predictor.js';
import { type ReplayRequest, replay } from '../../src/router/replay.js';
import { uncorrected } from '../../src/router/request-correction.js';
import { workersOf } from '../../src/router/route.js';
import { Shortfalls } from '../../src/router/shortfall.js';
import { asCosted } from '../../src/router/unloaded-ratios.js';
import { costs, facts, held, kvTokensNeeded, worker } from './workers.js';

const adaptive = (request: ReturnType<typeof facts>, workers: readonly ReturnType<typeof worker>[]) =>
  chooseRoute(request, workers, 'adaptive');

describe('adaptive, one request', () => {
  it('idle workers: a short prompt stays whole', () => {
    for (const promptTokenCount of [8, 64, 256]) {
      expect(adaptive(facts({ promptTokenCount }), [worker('a', 'any'), worker('b', 'any')])).toMatchObject({
        path: 'collocated',
      });
    }
  });

  it('a crowd that decodes and a long prompt: computed apart, told with both estimates', () => {
    const workers = [worker('a', 'any', { decodingCount: 24, remainingEach: 200 }), worker('b', 'prefill')];
    const route = adaptive(facts({ promptTokenCount: 3000 }), workers);
    expect(route).toMatchObject({ path: 'disaggregated', prefillWorker: 'b', decodeWorker: 'a' });
    expect(route?.other?.estimate.cost).toBeGreaterThan(route?.estimate.cost ?? Number.POSITIVE_INFINITY);
  });

  it('a slow link: never apart', () => {
    const slow = { ...costs, links: [{ connector: 'tcp', latencyMs: 50, bytesPerSecond: 1e7 }] };
    const workers = [
      worker('a', 'any', { decodingCount: 24, remainingEach: 200, costs: slow }),
      worker('b', 'prefill', { costs: slow }),
    ];
    expect(adaptive(facts({ promptTokenCount: 3000 }), workers)).toMatchObject({ path: 'collocated', worker: 'a' });
  });

  it('a dead worker gets nothing; a held prefix draws', () => {
    const dead = worker('a', 'any', { isLive: false });
    expect(adaptive(facts(), [dead, worker('b', 'any', { decodingCount: 30 })])).toMatchObject({ worker: 'b' });
    const workers = [worker('a', 'any'), worker('b', 'any', { decodingCount: 2 })];
    const [first] = workersOf(
      adaptive(facts({ promptTokenCount: 2000, ...held('b', 1984) }), workers) ?? {
        path: 'collocated',
        worker: workerId('none'),
      },
    );
    expect(first).toBe('b');
  });
});

describe('the arranger', () => {
  const two = [worker('a', 'any'), worker('b', 'any')];
  const traffic = (gapMs: number, promptTokenCount: number, outputTokenCount: number, count: number): ReplayRequest[] => {
    const prng = new Prng(5);
    let arrivalMs = 0;
    return Array.from({ length: count }, () => {
      arrivalMs += -Math.log(1 - prng.uniform()) * gapMs;
      return { arrivalMs, promptTokenCount, outputTokenCount, expectedTokenCount: outputTokenCount };
    });
  };
  function compare(arranger: Arranger, workers: typeof two): void {
    arranger.look(workers);
    for (const _ of arranger.comparison(workers));
  }
  function arranged(requests: readonly ReplayRequest[], workers = two): Arranger {
    const arranger = new Arranger();
    for (const request of requests) {
      arranger.remember({ ...request });
      if (arranger.isDue) compare(arranger, workers);
    }
    return arranger;
  }
  const both = candidatesOf(two);
  if (both === null) throw new Error('two live workers');

  it('whole before anything is known, and where prefill fills both workers', () => {
    expect(new Arranger().current(both)).toEqual({ kind: 'whole' });
    expect(arranged(traffic(150, 2000, 8, 150)).current(both)).toEqual({ kind: 'whole' });
  });

  it('apart where decoding suffers from prompts and one worker can compute them all', () => {
    const arranger = arranged(traffic(600, 2500, 20, 150));
    expect(arranger.current(both).kind).not.toBe('whole');
    const [split] = arranger.standings.filter(({ name }) => name === 'split 1');
    const [whole] = arranger.standings.filter(({ name }) => name === 'whole');
    expect(split?.score).toBeGreaterThan(whole?.score ?? 1);
  });

  it('beside gateway and messages on the same processors, whole is left only for far more', () => {
    const slight = traffic(450, 2200, 24, 150);
    const left = arranged(slight);
    expect(left.current(both).kind).not.toBe('whole');
    const kept = arranged(
      slight,
      two.map((each) => ({ ...each, isOnHost: true })),
    );
    expect(kept.current(both)).toEqual({ kind: 'whole' });
    const scoreOf = (arranger: Arranger, wanted: string) =>
      arranger.standings.find(({ name }) => name === wanted)?.score ?? Number.NaN;
    expect(scoreOf(kept, 'split 1') - scoreOf(kept, 'whole')).toBeLessThan(0.25);
  });

  it('is steady while the load stays and the same is picked again', () => {
    const arranger = arranged(traffic(150, 2000, 8, 150));
    expect(arranger.isSteady).toBe(true);
    for (const request of traffic(40, 2000, 8, 128)) arranger.remember({ ...request, arrivalMs: 1e6 + request.arrivalMs });
    arranger.look(two);
    expect(arranger.isSteady).toBe(false);
    expect(new Arranger().isSteady).toBe(false);
  });

  it('what fails in reality is left, however well it replays, and tried again much later', () => {
    const arranger = new Arranger();
    const used: string[] = [];
    for (const request of traffic(600, 2500, 20, 1200)) {
      const arrangement = arranger.current(both);
      const arrangementName = nameOf(arrangement);
      arranger.remember({ ...request, arrangementName, realScore: arrangement.kind === 'whole' ? 0.9 : 0.1 });
      if (arranger.isDue) compare(arranger, two);
      used.push(arrangementName);
    }
    expect(new Set(used).size).toBeGreaterThan(1);
    expect(used.filter((name) => name === 'whole').length).toBeGreaterThan(0.6 * used.length);
    expect(used.slice(-200).filter((name) => name !== 'whole').length).toBeLessThan(100);
  });

  it('what it uses is never worse in its own replay than the better static mode', () => {
    const prng = new Prng(3);
    for (let round = 0; round < 6; round++) {
      const requests = traffic(prng.integer(80, 800), prng.integer(64, 2500), prng.integer(8, 120), 100);
      const { standings, ...arranger } = { standings: arranged(requests).standings, current: arranged(requests).current(both) };
      const statics = standings.filter(({ arrangement: { kind } }) => kind === 'whole' || kind === 'split');
      const used = standings.find(({ arrangement }) => JSON.stringify(arrangement) === JSON.stringify(arranger.current));
      const better = Math.max(...statics.map(({ score }) => score));
      expect(used?.score).toBeGreaterThan(better - (2.5 * 0.3) / Math.sqrt(128)); // what it takes to be the better of equals
    }
  });

  it('forgets: memory does not grow', () => {
    const arranger = new Arranger();
    for (let i = 0; i < 5000; i++)
      arranger.remember({ arrivalMs: i, promptTokenCount: 9, expectedTokenCount: 9, outputTokenCount: 9 });
    expect(arranger.rememberedCount).toBeLessThanOrEqual(256);
  });
});

describe('shortfalls', () => {
  const scores = (score: number) => new Array<number>(30).fill(score);

  it('what was never used falls as short as whole; what was, by what it did, the more certainly the more requests there were', () => {
    const shortfalls = new Shortfalls();
    expect(shortfalls.of('split 1')).toBe(0);
    shortfalls.judge('whole', 0.9, scores(0.7));
    expect(shortfalls.of('whole')).toBeCloseTo((0.2 * 30) / (30 + 64), 9);
    for (let i = 0; i < 40; i++) shortfalls.judge('whole', 0.9, scores(0.7));
    expect(shortfalls.of('whole')).toBeCloseTo((0.2 * 512) / (512 + 64), 9);
    expect(shortfalls.of('split 1')).toBe(shortfalls.of('whole'));
    shortfalls.judge('split 1', 0.95, scores(0.15));
    expect(shortfalls.of('split 1')).toBeCloseTo((0.8 * 30) / (30 + 64), 9);
    expect(shortfalls.of('leaning 1')).toBe(shortfalls.of('whole'));
  });

  it('better than replayed counts as well; no requests say nothing, and time forgives', () => {
    const shortfalls = new Shortfalls();
    shortfalls.judge('whole', 0.5, scores(1));
    expect(shortfalls.of('whole')).toBeCloseTo((-0.5 * 30) / (30 + 64), 9);
    shortfalls.judge('whole', 0.5, scores(0));
    expect(shortfalls.of('whole')).toBe(0);
    shortfalls.judge('split 1', 0.9, []);
    expect(shortfalls.of('split 1')).toBe(0);
    for (let i = 0; i < 4; i++) shortfalls.judge('split 1', 0.9, scores(0));
    const found = shortfalls.of('split 1');
    expect(found).toBeGreaterThan(0.5);
    for (let i = 0; i < 40; i++) shortfalls.judge('whole', 0.5, scores(0.5));
    expect(shortfalls.of('split 1')).toBeLessThan(found);
    expect(shortfalls.of('split 1')).toBeGreaterThan(0.2);
    for (let i = 0; i < 200; i++) shortfalls.judge('whole', 0.5, scores(0.5));
    expect(shortfalls.of('split 1')).toBeLessThan(0.02);
  });
});

it('a replay ends every request, whatever the arrangement, and the same way every time', () => {
  const prng = new Prng(8);
  const requests = Array.from({ length: 200 }, (_, i) => {
    const outputTokenCount = prng.integer(1, 80);
    return { arrivalMs: i * 40, promptTokenCount: prng.integer(1, 3000), outputTokenCount, expectedTokenCount: 40 };
  });
  for (const [roles, strategy] of [
    [['any', 'any'], 'adaptive'],
    [['prefill', 'decode'], 'disaggregated'],
    [['any', 'prefill', 'decode', 'decode'], 'adaptive'],
  ] as const) {
    const workers = roles.map((role, i) => ({
      id: workerId(`w${i}`),
      role,
      costs,
      corrections: uncorrected,
      unloaded: asCosted,
    }));
    const run = () => replay(requests, workers, (request, snapshots) => chooseRoute(request, snapshots, strategy));
    const outcomes = run();
    expect(outcomes.every(({ ttftMs, tpotMs }) => ttftMs > 0 && Number.isFinite(ttftMs) && tpotMs >= 0)).toBe(true);
    expect(run().map(({ ttftMs }) => ttftMs)).toEqual(outcomes.map(({ ttftMs }) => ttftMs));
  }
});

describe('memory to decode in', () => {
  it('nine times in ten the sequences stay within what was counted, and it is not counted twice over', () => {
    const prng = new Prng(21);
    const predictor = new LengthPredictor();
    const draw = () => Math.max(1, Math.round(Math.exp(4 + 0.8 * prng.normal())));
    const request = { promptTokenCount: 100, maxTokenCount: 4096 };
    for (let i = 0; i < 3000; i++) predictor.observe(request, { tokenCount: draw(), isCensored: false });
    const lengths = predictor.predict(request);
    let [withinCount, slack] = [0, 0];
    const trialCount = 400;
    for (let trial = 0; trial < trialCount; trial++) {
      const claims: KvClaim[] = Array.from({ length: 24 }, () => ({
        ...{ promptTokenCount: 100, choiceCount: 1, generatedTokenCount: 0, lengths },
      }));
      const counted = kvTokensNeeded(claims, 16) - 24 * 8;
      const held = claims.reduce((sum) => sum + 100 + draw(), 0);
      if (held <= counted) withinCount++;
      slack += counted / held / trialCount;
    }
    expect(withinCount / trialCount).toBeGreaterThan(0.82);
    expect(slack).toBeLessThan(1.4);
  });
});
