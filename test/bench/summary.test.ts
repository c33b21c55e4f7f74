/** Figures of a run from records whose answers are known by hand. */
import { describe, expect, it } from 'vitest';
import { resultJson } from '../../src/bench/result-json.js';
import { meets, meetsItsClass, parseGoodput, scaledSlo } from '../../src/bench/slo.js';
import { summariseRun } from '../../src/bench/summary.js';
import { summaryText } from '../../src/bench/text-table.js';
import { record } from './records.js';

const records = [
  record({ index: 0, scheduledMs: 0, ttftMs: 100, gapMs: 10, tokenCount: 11 }), // ends at 200
  record({ index: 1, scheduledMs: 500, ttftMs: 300, gapMs: 20, tokenCount: 11 }), // ends at 1000
  record({ index: 2, scheduledMs: 900, outcome: 'rejected' }),
  record({ index: 3, scheduledMs: 950, outcome: 'failed' }),
  record({ index: 4, scheduledMs: 960, outcome: 'unfinished', extra: { endMs: 2000 } }),
  record({ index: 5, scheduledMs: 0, ttftMs: 5, extra: { phase: 'warmup' } }),
];

describe('summariseRun', () => {
  const summary = summariseRun(records, parseGoodput(['ttft:200']));

  it('counts every measured request once', () => {
    expect(summary).toMatchObject({
      requestCount: 5,
      completedCount: 2,
      rejectedCount: 1,
      failedCount: 1,
      unfinishedCount: 1,
    });
  });

  it('takes throughput over the time from the first arrival to the last end', () => {
    expect(summary.durationSeconds).toBe(2);
    expect(summary.requestsPerSecond).toBe(1);
    expect(summary.outputTokensPerSecond).toBe(11);
    expect(summary.totalTokensPerSecond).toBe(111);
  });

  it('takes latencies of completed requests', () => {
    expect(summary.ttftMs).toMatchObject({ count: 2, mean: 200, std: 100, p50: 200, p99: 298 });
    expect(summary.tpotMs).toMatchObject({ mean: 15, p50: 15 });
    expect(summary.itlMs).toMatchObject({ count: 20, mean: 15 });
    expect(summary.e2elMs).toMatchObject({ mean: 350 });
  });

  it('counts what did not complete as a missed target', () => {
    expect(summary.goodRequestsPerSecond).toBe(0.5);
    expect(summary.sloAttainment).toBe(0.2);
  });

  it('is void when the generator was late at p99', () => {
    const late = (delayMs: number) => summariseRun([record({ delayMs }), record({ delayMs })], null);
    expect(late(5).isVoid).toBe(false);
    expect(late(5.1).isVoid).toBe(true);
    expect(late(5.1).generatorDelayMsP99).toBeCloseTo(5.1, 9);
  });

  it("has vLLM's names in JSON and every metric in the table", () => {
    const facts = {
      date: 'today',
      model: 'm',
      endpointType: 'openai',
      numPrompts: 6,
      requestRate: Number.POSITIVE_INFINITY,
      burstiness: 1,
      maxConcurrency: null,
      coreShare: 0.05,
    };
    const json = JSON.parse(JSON.stringify(resultJson(summary, facts, ['ttft', 'tpot']))) as Record<
      string,
      unknown
    >;
    expect(json).toMatchObject({
      completed: 2,
      request_rate: 'inf',
      mean_ttft_ms: 200,
      median_tpot_ms: 15,
      request_goodput: 0.5,
      void: false,
    });
    expect(json).not.toHaveProperty('mean_itl_ms');
    const text = summaryText(summary, ['ttft', 'e2el'], 0.05);
    expect(text).toMatch(/Rejected \/ failed \/ unfinished +1 \/ 1 \/ 1/);
    expect(text).toMatch(/Time to first token \(ms\)/);
    expect(text).not.toMatch(/Inter-token/);
  });
});

describe('targets', () => {
  it('parses --goodput as vLLM does', () => {
    const all = { ttftMs: 500, tpotMs: 20.5, e2elMs: 9000 };
    const words = ['ttft:500', 'tpot:20.5', 'e2el:9000'];
    expect(parseGoodput(words)).toEqual({ short: all, medium: all, long: all, huge: all });
    expect(parseGoodput(['long.ttft:2000', ...words])).toMatchObject({
      short: all,
      long: { ...all, ttftMs: 2000 },
    });
    for (const bad of ['ttft', 'ttft:', 'ttft:-1', 'itl:5', 'ttft:x', 'tiny.ttft:5', '.ttft:5'])
      expect(() => parseGoodput([bad])).toThrow(/--goodput/);
  });

  it.each([
    [{ ttftMs: 50 }, true],
    [{ ttftMs: 49 }, false],
    [{ tpotMs: 10 }, true],
    [{ tpotMs: 9.9 }, false],
    [{ e2elMs: 90 }, true],
    [{ e2elMs: 89 }, false],
    [{ ttftMs: 50, tpotMs: 9 }, false],
    [{}, true],
  ] as const)('%j is met: %s', (slo, isMet) => expect(meets(record(), slo)).toBe(isMet));

  it('an answer of one token cannot miss TPOT; one that did not complete misses everything', () => {
    expect(meets(record({ tokenCount: 1 }), { tpotMs: 0.1 })).toBe(true);
    expect(meets(record({ outcome: 'rejected' }), {})).toBe(false);
  });

  it('are scaled and looked up by class', () => {
    const slos = scaledSlo({ short: { ttftMs: 20, tpotMs: 3 }, long: { ttftMs: 100 } }, 2);
    expect(slos).toEqual({ short: { ttftMs: 40, tpotMs: 6 }, long: { ttftMs: 200 } });
    const long = record({ promptTokenCount: 2000, ttftMs: 150 });
    expect(meetsItsClass(long, slos)).toBe(true);
    expect(meetsItsClass({ ...long, lengthClass: 'short' }, slos)).toBe(false);
  });
});
