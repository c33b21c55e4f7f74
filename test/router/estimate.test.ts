/** Both halves of a route put together, and what share of an SLO that is. */
import { describe, expect, it } from 'vitest';
import { estimateRoute } from '../../src/router/estimate.js';
import { predictDecode, predictPrefill } from '../../src/router/prediction.js';
import { uncorrected } from '../../src/router/request-correction.js';
import type { RequestFacts, WorkerSnapshot } from '../../src/router/snapshot.js';
import { facts, worker } from './workers.js';

function estimate(request: RequestFacts, prefillWorker: WorkerSnapshot, decodeWorker = prefillWorker) {
  const prefill = predictPrefill(request, prefillWorker);
  const beside = prefillWorker === decodeWorker ? 'its_prefill' : 'other_prompts';
  const decode = predictDecode(request, decodeWorker, prefill.waitMs + prefill.prefillMs, beside);
  return estimateRoute(request, { prefill, prefillWorker, decode, decodeWorker });
}

const busy = { queuedTokenCount: 900, decodingCount: 12 };

describe('an estimate', () => {
  it('is the sum of its parts, on one worker and on two', () => {
    for (const [source, target] of [
      [worker('a', 'any', busy), undefined],
      [worker('p', 'any', busy), worker('d', 'any', busy)],
    ] as const) {
      const { ttftMs, messagesMs, waitMs, prefillMs, transferMs, joinMs, stepMs, tpotMs, e2elMs } = estimate(
        facts(),
        source,
        target,
      );
      expect(ttftMs).toBeCloseTo(messagesMs + waitMs + prefillMs, 9);
      expect(tpotMs).toBeCloseTo(stepMs + (transferMs + joinMs) / 49, 9);
      expect(e2elMs).toBeCloseTo(ttftMs + 49 * tpotMs, 9);
      expect(transferMs > 0 && joinMs > 0).toBe(target !== undefined);
    }
  });

  it('uses an SLO by its share', () => {
    const on = worker('a', 'any', busy);
    const of = (ttftMs: number, tpotMs: number) => estimate(facts({ slo: { ttftMs, tpotMs } }), on);
    const { ttftMs } = of(1000, 1e6);
    expect(of(1000, 1e6).ttftUse).toBeCloseTo(ttftMs / 1000, 9);
    expect(of(2000, 1e6).ttftUse).toBeLessThan(of(1000, 1e6).ttftUse);
    // steps are paced by it, which moves when it decodes
    expect(of(1000, 20).tpotUse / of(1000, 40).tpotUse).toBeCloseTo(2, 1);
  });

  it('of TPOT counts no prompts beside it: they are paced', () => {
    const [calm, queued] = [{ decodingCount: 12 }, busy].map((load) =>
      estimate(facts(), worker('a', 'any', load)),
    );
    expect(queued!.tpotUse / calm!.tpotUse).toBeCloseTo(1, 1);
    expect(queued!.ttftUse).toBeGreaterThan(1.5 * calm!.ttftUse);
  });

  it('is corrected by what requests of that worker took: each part by its own factor', () => {
    const corrected = (more: Partial<typeof uncorrected>) =>
      estimate(
        facts(),
        worker('p', 'any', { ...busy, corrections: { ...uncorrected, ...more } }),
        worker('d', 'any', { corrections: { ...uncorrected, step: more.step ?? 1 } }),
      );
    const plain = corrected({});
    expect(corrected({ messages: 2 }).messagesMs).toBeCloseTo(2 * plain.messagesMs, 9);
    expect(corrected({ wait: 2 }).waitMs).toBeCloseTo(2 * plain.waitMs, 9);
    expect(corrected({ prefill: 2 }).prefillMs).toBeCloseTo(2 * plain.prefillMs, 9);
    expect(corrected({ transfer: 2 }).transferMs).toBeGreaterThan(1.5 * plain.transferMs);
    expect(corrected({ step: 2 }).stepMs).toBeCloseTo(2 * plain.stepMs, 6);
  });

  it('waits for KV where it decodes, behind those who wait for it already', () => {
    const full = worker('d', 'decode', { decodingCount: 10, kvTokensEach: 800, remainingEach: 800 });
    const waitOf = (target: WorkerSnapshot) => estimate(facts(), worker('p', 'prefill'), target).waitMs;
    expect(waitOf(full)).toBeGreaterThan(waitOf(worker('d', 'decode', { decodingCount: 10 })) + 100);
  });
});
