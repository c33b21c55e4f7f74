/** The cost model against numbers worked out by hand, and against the scheduler's rules stepped through one by one. */
import { describe, expect, it } from 'vitest';
import { requestId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import { estimateSplit, estimateWhole } from '../../src/router/estimate.js';
import { decodeForecast, prefillForecast } from '../../src/router/forecast.js';
import { stepMs } from '../../src/router/step-cost.js';
import { prefillPairCountOf } from '../../src/router/step-work.js';
import { SteppedWorker } from '../../src/router/stepped-worker.js';
import { costs, facts, held, loadOf, worker } from './workers.js';

const whole = (request: ReturnType<typeof facts>, on: ReturnType<typeof worker>) =>
  estimateWhole(request, on, prefillForecast(request, on), decodeForecast(request, on, 'its_prefill'));

describe('by hand', () => {
  it('an idle worker: messages, the prompt, then steps alone', () => {
    // rows(100) = 10 + 0.1 · 84; pairs 5050 · 1e-6; a step of one row: 10 + 0.05 + (100 + 25) · 1e-4
    const estimate = whole(facts(), worker('a', 'any'));
    expect(estimate.prefillMs).toBeCloseTo(18.4 + 0.00505, 6);
    expect(estimate.ttftMs).toBeCloseTo(1 + 18.40505 + 0.5, 6);
    expect(estimate.stepMs).toBeCloseTo(10.05 + 0.0125, 6);
    expect(estimate.e2elMs).toBeCloseTo(estimate.ttftMs + 49 * estimate.stepMs, 6);
    expect(estimate.transferMs).toBe(0);
    expect(estimate.inflictedMs).toBe(0);
  });

  it('a queue of 1,024 tokens: two full steps go first, less what the first has behind it', () => {
    const queued = worker('a', 'any', { queuedTokenCount: 1024 });
    const full = 2 * 59.6 + prefillPairCountOf(0, 1024) * 1e-6;
    expect(prefillForecast(facts(), queued).waitMs).toBeCloseTo(full, 6);
    expect(prefillForecast(facts({ nowMs: 30 }), queued).waitMs).toBeCloseTo(full - 30, 6);
    expect(prefillForecast(facts({ nowMs: 5000 }), queued).waitMs).toBeCloseTo(0, 6);
  });

  it('eight who decode lose what the prompt adds to their steps', () => {
    const crowd = worker('a', 'any', { decodingCount: 8 });
    const forecast = prefillForecast(facts({ promptTokenCount: 504 }), crowd); // with them exactly one full step
    const step = 10 + 8 * 0.05 + 1600 * 1e-4;
    expect(forecast.prefillMs).toBeCloseTo(59.6 + 8 * 0.05 + 0.16 + prefillPairCountOf(0, 504) * 1e-6, 6);
    expect(forecast.addedMs).toBeCloseTo(forecast.prefillMs - step, 6);
    expect(forecast.waitMs).toBeCloseTo(1.5 * step, 6);
  });

  it('KV that moves slower than it is computed is felt by the difference; what decode holds does not move', () => {
    const slow = { ...costs, links: [{ connector: 'tcp', latencyMs: 2, bytesPerSecond: 1e8 }] }; // 100 kB: 1 ms a token
    const [prefill, decode] = [worker('p', 'any', { costs: slow }), worker('d', 'any')];
    const split = (request: ReturnType<typeof facts>) =>
      estimateSplit(
        request,
        [prefill, prefillForecast(request, prefill)],
        [decode, decodeForecast(request, decode, 'other_prompts')],
      );
    expect(split(facts()).transferMs).toBeCloseTo(1 + 2 + 100 - 18.40505, 4);
    expect(split(facts(held('d', 96))).transferMs).toBeCloseTo(1 + 2, 4);
    expect(split(facts()).joinMs).toBe(0);
  });

  it('prefix hits shorten the prompt, not its keys', () => {
    const forecast = prefillForecast(facts({ promptTokenCount: 1000, ...held('a', 960) }), worker('a', 'any'));
    expect(forecast.tokenCount).toBe(40);
    expect(forecast.prefillMs).toBeCloseTo(10 + 0.1 * 24 + prefillPairCountOf(960, 40) * 1e-6, 6);
    expect(forecast.unloadedTtftMs).toBeGreaterThan(forecast.prefillMs); // limits are those of the whole prompt
  });

  it('a full batch makes it wait for ends', () => {
    const full = worker('a', 'any', { decodingCount: 8, remainingEach: 40, seatCount: 8 });
    const step = 10 + 0.4 + 0.16;
    expect(prefillForecast(facts(), full).waitMs).toBeCloseTo(1.5 * step + (40 * step) / 8, 6);
  });
});

describe('against the scheduler, step by step', () => {
  /** Runs a worker with this load and one more request until that has its first and its last token. */
  function stepped(load: { queued: readonly number[]; decoding: number }, promptTokenCount: number, outputTokenCount: number) {
    const target = new SteppedWorker(costs);
    const onTokens = () => {};
    for (let i = 0; i < load.decoding; i++) {
      const id = requestId(`d${i}`);
      target.addSequence({ id, kvTokenCount: 200, leftCount: 100_000, onTokens, onEnd: () => {} }, 0);
    }
    for (const [i, count] of load.queued.entries()) {
      target.addPrompt({ id: requestId(`q${i}`), promptTokenCount: count, computedCount: 0, onFirstToken: () => {} }, 0);
    }
    const times = { firstMs: 0, lastMs: 0 };
    const onEnd = (nowMs: number) => {
      times.lastMs = nowMs;
    };
    const onFirstToken = (nowMs: number) => {
      times.firstMs = nowMs;
      target.continueSequence({
        id: requestId('own'),
        kvTokenCount: promptTokenCount,
        leftCount: outputTokenCount - 1,
        onTokens,
        onEnd,
      });
    };
    target.addPrompt({ id: requestId('own'), promptTokenCount, computedCount: 0, onFirstToken }, 0);
    while (times.lastMs === 0) target.finish(target.endMs);
    return times;
  }

  it('first token within 15 % and two steps, time per token within 5 %, for any load that stays', () => {
    const prng = new Prng(11);
    for (let round = 0; round < 300; round++) {
      const decoding = prng.integer(0, 40);
      const queued = Array.from({ length: prng.integer(0, 3) }, () => prng.integer(16, 2500));
      const promptTokenCount = prng.integer(16, 3000);
      const outputTokenCount = prng.integer(20, 200);
      const real = stepped({ queued, decoding }, promptTokenCount, outputTokenCount);
      const load = loadOf({ decodingCount: decoding, remainingEach: 100_000 });
      for (const [i, tokenCount] of queued.entries()) {
        const pairCount = prefillPairCountOf(0, tokenCount);
        load.addPrompt(requestId(`q${i}`), { tokenCount, pairCount, addedMs: 0, unloadedTtftMs: 100 }, 0);
      }
      const on = worker('a', 'any', { load });
      const forecast = prefillForecast(facts({ promptTokenCount }), on);
      const step = stepMs(costs.step, {
        decodeCount: decoding,
        decodeKvTokenCount: 200 * decoding,
        prefillTokenCount: 0,
        prefillPairCount: 0,
      });
      const ttftMs = forecast.waitMs + forecast.prefillMs;
      expect(Math.abs(ttftMs - real.firstMs)).toBeLessThan(0.15 * real.firstMs + 2 * step + 1);
      if (queued.length > 0) continue; // they decode too by then: another load
      const realStepMs = (real.lastMs - real.firstMs) / (outputTokenCount - 1);
      const later = facts({ promptTokenCount, expectedTokenCount: outputTokenCount, nowMs: 1e6 }); // the load has long been so
      expect(Math.abs(decodeForecast(later, on, 'its_prefill').stepMs / realStepMs - 1)).toBeLessThan(0.05);
    }
  });
});
