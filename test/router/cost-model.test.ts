/** The cost model against numbers worked out by hand, and against the scheduler's rules stepped through one by one. */
import { describe, expect, it } from 'vitest';
import { at } from '../../src/base/assert.js';
import { type RequestId, requestId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import type { CostParameters } from '../../src/router/cost-parameters.js';
import { estimateSplit, estimateWhole } from '../../src/router/estimate.js';
import { decodeForecast, prefillForecast } from '../../src/router/forecast.js';
import { prefillPairCountOf } from '../../src/router/step-work.js';
import { SteppedWorker } from '../../src/router/stepped-worker.js';
import { WorkerLoad } from '../../src/router/worker-load.js';
import { costs, facts, held, loadOf, worker } from './workers.js';

const whole = (request: ReturnType<typeof facts>, on: ReturnType<typeof worker>) =>
  estimateWhole(request, on, prefillForecast(request, on), decodeForecast(request, on, 0, 'its_prefill'));

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

  it('a queue of 1,024 tokens: two full steps go first, less what has been computed since they began', () => {
    const load = loadOf({ queuedTokenCount: 1024 });
    const queued = worker('a', 'any', { load });
    const full = 2 * 59.6 + prefillPairCountOf(0, 1024) * 1e-6;
    expect(prefillForecast(facts(), queued).waitMs).toBeCloseTo(full, 6);
    expect(prefillForecast(facts({ nowMs: 30 }), queued).waitMs).toBeCloseTo(full, 6); // on its way still, as far as one knows
    load.report(8.5);
    load.startPrompt(requestId('queued'), 8.5); // told half a millisecond late, and the request takes one to get there
    expect(prefillForecast(facts({ nowMs: 37 }), queued).waitMs).toBeCloseTo(full - 30, 6);
    expect(prefillForecast(facts({ nowMs: 5000 }), queued).waitMs).toBe(0);
  });

  it('eight who decode lose what the prompt adds to their steps', () => {
    const crowd = worker('a', 'any', { decodingCount: 8 });
    const forecast = prefillForecast(facts({ promptTokenCount: 504 }), crowd); // with them exactly one full step
    const step = 10 + 8 * 0.05 + 1600 * 1e-4;
    expect(forecast.prefillMs).toBeCloseTo(59.6 + 8 * 0.05 + 0.16 + prefillPairCountOf(0, 504) * 1e-6, 6);
    expect(forecast.addedMs).toBeCloseTo(forecast.prefillMs - step, 6);
    expect(forecast.waitMs).toBeCloseTo(2 * step - 1.5, 6); // the step that runs, begun when it was told of, and the one planned behind it
    expect(prefillForecast(facts({ nowMs: 3.5 * step }), crowd).waitMs).toBeCloseTo(1.5 * step - 1.5, 6);
  });

  it('KV that moves slower than it is computed is felt by the difference; what decode holds does not move', () => {
    const slow = { ...costs, links: [{ connector: 'tcp', latencyMs: 2, bytesPerSecond: 1e8 }] }; // 100 kB: 1 ms a token
    const [prefill, decode] = [worker('p', 'any', { costs: slow }), worker('d', 'any')];
    const split = (request: ReturnType<typeof facts>) =>
      estimateSplit(
        request,
        [prefill, prefillForecast(request, prefill)],
        [decode, decodeForecast(request, decode, 0, 'other_prompts')],
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
    expect(prefillForecast(facts(), full).waitMs).toBeCloseTo(2 * step - 1.5, 6);
    expect(prefillForecast(facts(), full).roomWaitMs).toBeCloseTo((40 * step) / 8, 6);
  });
});

describe('against the scheduler, step by step', () => {
  const quiet: CostParameters = { ...costs, request: { ...costs.request, arrivalMs: 0, tokenMs: 0 } };

  /** A worker that steps, with rows that decode for ever, and a load that is told what a gateway would be told. */
  class Told {
    readonly load = new WorkerLoad();
    readonly stepped = new SteppedWorker(quiet);

    constructor(decodingCount: number) {
      for (let i = 0; i < decodingCount; i++) this.#decode(requestId(`d${i}`), 200, 0, 'arrives');
    }

    prompt(name: string, tokenCount: number, nowMs: number, onFirstToken: (nowMs: number) => void = () => {}): void {
      const id = requestId(name);
      const work = {
        tokenCount,
        pairCount: prefillPairCountOf(0, tokenCount),
        roomTokenCount: 512,
        addedMs: 0,
        unloadedTtftMs: 100,
      };
      this.load.addPrompt(id, work, nowMs);
      this.load.changeExpected({ rowCount: 1, kvTokenCount: tokenCount, remainingTokenCount: 1e5 });
      const onStart = (atMs: number) => {
        this.load.report(atMs);
        this.load.startPrompt(id, atMs);
      };
      const onDone = (atMs: number) => {
        this.load.removePrompt(id, atMs);
        this.load.report(atMs);
        this.load.changeExpected({ rowCount: -1, kvTokenCount: -tokenCount, remainingTokenCount: -1e5 });
        this.#decode(id, tokenCount, atMs, 'goes_on');
        onFirstToken(atMs);
      };
      this.stepped.addPrompt({ promptTokenCount: tokenCount, computedCount: 0, onStart, onFirstToken: onDone }, nowMs);
    }

    runUntil(untilMs: number): void {
      while (this.stepped.endMs <= untilMs) this.stepped.finish(this.stepped.endMs);
    }

    #decode(id: RequestId, kvTokenCount: number, nowMs: number, how: 'arrives' | 'goes_on'): void {
      const onTokens = (_count: number, atMs: number) => this.load.report(atMs);
      const sequence = { id, kvTokenCount, leftCount: 100_000, onTokens, onEnd: () => {} };
      this.load.changeDecoding({ rowCount: 1, kvTokenCount, remainingTokenCount: 1e5 }, nowMs);
      if (how === 'arrives') this.stepped.addSequence(sequence, nowMs);
      else this.stepped.continueSequence(sequence);
    }
  }

  it('first token: half within half a percent, nine in ten within 8 %, at any moment under any load', () => {
    const prng = new Prng(11);
    const errors: number[] = [];
    for (let round = 0; round < 400; round++) {
      const told = new Told(prng.integer(0, 40));
      const askMs = 100 + 400 * prng.uniform();
      let arrivalMs = 0;
      for (let i = 0; arrivalMs < askMs; i++) {
        told.runUntil(arrivalMs);
        told.prompt(`q${i}`, prng.uniform() < 0.5 ? prng.integer(16, 256) : prng.integer(256, 1500), arrivalMs);
        arrivalMs += prng.exponential(150);
      }
      told.runUntil(askMs);
      const promptTokenCount = prng.integer(16, 2000);
      const on = worker('a', 'any', { load: told.load, costs: quiet });
      const { waitMs, prefillMs } = prefillForecast(facts({ promptTokenCount, nowMs: askMs }), on);
      let firstMs = 0;
      told.prompt('own', promptTokenCount, askMs, (nowMs) => {
        firstMs = nowMs;
      });
      while (firstMs === 0) told.stepped.finish(told.stepped.endMs);
      errors.push(Math.abs((waitMs + prefillMs) / (firstMs - askMs) - 1));
    }
    errors.sort((a, b) => a - b);
    expect(at(errors, 200)).toBeLessThan(0.005);
    expect(at(errors, 360)).toBeLessThan(0.08);
  });

  it('time per token within 5 %, for any batch that stays', () => {
    const prng = new Prng(12);
    for (let round = 0; round < 100; round++) {
      const decodingCount = prng.integer(0, 40);
      const [promptTokenCount, outputTokenCount] = [prng.integer(16, 3000), prng.integer(20, 200)];
      const told = new Told(decodingCount);
      let firstMs = 0;
      told.prompt('own', promptTokenCount, 0, (nowMs) => {
        firstMs = nowMs;
      });
      while (firstMs === 0) told.stepped.finish(told.stepped.endMs);
      for (let i = 1; i < outputTokenCount; i++) told.stepped.finish(told.stepped.endMs);
      const realMs = (told.stepped.endMs - firstMs) / outputTokenCount;
      const on = worker('a', 'any', { load: loadOf({ decodingCount, remainingEach: 100_000 }), costs: quiet });
      const later = facts({ promptTokenCount, expectedTokenCount: outputTokenCount, nowMs: 1e6 }); // the load has long been so
      expect(Math.abs(decodeForecast(later, on, 0, 'its_prefill').stepMs / realMs - 1)).toBeLessThan(0.05);
    }
  });

  it('prompts to come: the mean counts them all, the median those that most will meet', () => {
    const load = loadOf({ decodingCount: 4, remainingEach: 100_000 });
    const work = { tokenCount: 500, pairCount: 125_250, roomTokenCount: 512, addedMs: 50, unloadedTtftMs: 100 };
    for (let i = 1; i <= 400; i++) {
      load.addPrompt(requestId(`p${i}`), work, 1000 * i); // 50 ms of each 1000
      load.removePrompt(requestId(`p${i}`), 1000 * i);
    }
    const on = worker('a', 'any', { load, costs: quiet });
    const of = (expectedTokenCount: number) =>
      decodeForecast(facts({ expectedTokenCount, nowMs: 400_500 }), on, 0, 'its_prefill');
    const [short, long] = [of(10), of(1000)];
    const alone = 10 + 5 * 0.05 + (4 * 200 + 105) * 1e-4;
    expect(short.meanStepMs / alone).toBeCloseTo(1 / 0.95, 1);
    expect(short.stepMs).toBeCloseTo(alone, 6); // 0.1 s: nine in ten meet none
    expect(long.stepMs / long.meanStepMs).toBeCloseTo(1, 1);
  });

  it('who waits for a prefill elsewhere does not decode yet', () => {
    const load = new WorkerLoad();
    load.changeExpected({ rowCount: 50, kvTokenCount: 50 * 200, remainingTokenCount: 50 * 20 });
    const on = worker('d', 'any', { load, costs: quiet });
    const soon = decodeForecast(facts({ expectedTokenCount: 20 }), on, 1, 'other_prompts');
    const late = decodeForecast(facts({ expectedTokenCount: 20 }), on, 20_000, 'other_prompts');
    expect(soon.otherRowCount).toBeGreaterThan(20);
    expect(late.otherRowCount).toBeLessThan(1); // one after the other in 20 s, each there for 0.2 s
  });
});
