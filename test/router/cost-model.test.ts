/** The cost model against numbers worked out by hand, and against the engine itself on a device that takes
 *  what the costs say. */
import { describe, expect, it } from 'vitest';
import { at } from '../../src/base/assert.js';
import { requestId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import type { GenerationRequest } from '../../src/engine/engine.js';
import type { CostParameters } from '../../src/router/cost-parameters.js';
import { estimateRoute } from '../../src/router/estimate.js';
import { predictDecode, predictPrefill } from '../../src/router/prediction.js';
import { prefillPairCountOf } from '../../src/router/step-work.js';
import { WorkerLoad } from '../../src/router/worker-load.js';
import { asked, cost, TimedEngine } from '../engine/timed-engine.js';
import { costs, facts, held, loadOf, worker } from './workers.js';

type Facts = ReturnType<typeof facts>;
type Worker = ReturnType<typeof worker>;

const whole = (request: Facts, on: Worker) => pair(request, on, on);
function pair(request: Facts, prefillWorker: Worker, decodeWorker: Worker) {
  const prefill = predictPrefill(request, prefillWorker);
  const beside = prefillWorker === decodeWorker ? 'its_prefill' : 'other_prompts';
  return estimateRoute(request, {
    prefill,
    prefillWorker,
    decode: predictDecode(request, decodeWorker, 0, beside),
    decodeWorker,
  });
}

describe('by hand', () => {
  it('an idle worker: messages, the prompt, then steps alone', () => {
    // rows(100) = 10 + 0.1 · 84; pairs 5050 · 1e-6; a step of one row: 10 + 0.05 + (100 + 25) · 1e-4
    const estimate = whole(facts(), worker('a', 'any'));
    expect(estimate.prefillMs).toBeCloseTo(18.4 + 0.00505, 6);
    expect(estimate.ttftMs).toBeCloseTo(1 + 18.40505 + 0.5, 6);
    expect(estimate.stepMs).toBeCloseTo(10.05 + 0.0125, 6);
    expect(estimate.e2elMs).toBeCloseTo(estimate.ttftMs + 49 * estimate.stepMs, 6);
    expect(estimate.transferMs).toBe(0);
    expect([estimate.ttftUse, estimate.tpotUse]).toEqual([estimate.ttftMs / 1000, estimate.stepMs / 40]);
  });

  it('a queue of 1,024 tokens: what is due before goes first, less what the steps in flight take of it', () => {
    // a step that runs is a full one, and half of the time over; the one behind it is planned: together they
    // take 768 tokens
    const queued = worker('a', 'any', { queuedTokenCount: 1024 });
    const fullMs = 59.6 + (512 / 1024) * prefillPairCountOf(0, 1024) * 1e-6;
    const restMs = 10 + 0.1 * 240 + (256 / 1024) * prefillPairCountOf(0, 1024) * 1e-6;
    expect(predictPrefill(facts(), queued).waitMs).toBeCloseTo(1.5 * fullMs + restMs, 6);
  });

  it('of a queue only what is due before; unpaced, all of it', () => {
    const due = { queuedTokenCount: 3000, queuedDueMs: 900 };
    const waitOf = (ttftMs: number, more: object = {}) =>
      predictPrefill(facts({ slo: { ttftMs, tpotMs: 40 } }), worker('a', 'any', { ...due, ...more })).waitMs;
    expect(waitOf(800)).toBeLessThan(100); // steps in flight are not to be had back
    expect(waitOf(1000)).toBeGreaterThan(300);
    expect(waitOf(800, { pacing: 'off' })).toBeCloseTo(waitOf(1000), 6);
  });

  it('beside eight who decode a prompt takes as many steps as their TPOT leaves room for', () => {
    const crowd = worker('a', 'any', { decodingCount: 8 });
    const step = 10 + 8 * 0.05 + 1600 * 1e-4;
    // 38.8 ms: 288 tokens make rows(296) = 38; 304 would make 39.6
    const paced = predictPrefill(facts({ promptTokenCount: 576, slo: { ttftMs: 1000, tpotMs: 40 } }), crowd);
    expect(paced.prefillMs).toBeCloseTo(2 * (38 + 8 * 0.05 + 0.16) + prefillPairCountOf(0, 576) * 1e-6, 6);
    expect(paced.addedMs).toBeCloseTo(paced.prefillMs - 2 * step, 6);
    expect(paced.waitMs).toBeCloseTo(1.5 * step, 6);
    const unpaced = predictPrefill(
      facts({ promptTokenCount: 504 }),
      worker('a', 'any', { decodingCount: 8, pacing: 'off' }),
    );
    expect(unpaced.prefillMs).toBeCloseTo(59.6 + 8 * 0.05 + 0.16 + prefillPairCountOf(0, 504) * 1e-6, 6);
  });

  it('KV that moves slower than it is computed is felt by the difference; what decode holds does not move', () => {
    const slow = { ...costs, links: [{ connector: 'tcp', latencyMs: 2, bytesPerSecond: 1e8 }] }; // 100 kB: 1 ms a token
    const [prefill, decode] = [worker('p', 'any', { costs: slow }), worker('d', 'any')];
    expect(pair(facts(), prefill, decode).transferMs).toBeCloseTo(1 + 2 + 100 - 18.40505, 4);
    expect(pair(facts(held('d', 96)), prefill, decode).transferMs).toBeCloseTo(1 + 2, 4);
    expect(pair(facts(), prefill, decode).joinMs).toBe(0);
    const { transferMs, stepMs, tpotMs } = pair(facts(), prefill, decode);
    expect(tpotMs).toBeCloseTo(stepMs + transferMs / 49, 6);
  });

  it('prefix hits shorten the prompt, not its keys', () => {
    const prediction = predictPrefill(
      facts({ promptTokenCount: 1000, ...held('a', 960) }),
      worker('a', 'any'),
    );
    expect(prediction.tokenCount).toBe(40);
    expect(prediction.prefillMs).toBeCloseTo(10 + 0.1 * 24 + prefillPairCountOf(960, 40) * 1e-6, 6);
  });

  it('a full batch makes it wait for ends', () => {
    const full = worker('a', 'any', { decodingCount: 8, remainingEach: 40, batchSlotCount: 8 });
    const step = 10 + 0.4 + 0.16;
    expect(predictPrefill(facts(), full).roomWaitMs).toBeCloseTo((40 * step) / 8, 6);
  });
});

describe('against the engine, step by step', () => {
  const quiet: CostParameters = {
    ...costs,
    step: cost,
    tokenBudget: 2048,
    prefillChunkTokenCount: 2048,
    request: { ...costs.request, arrivalMs: 0, tokenMs: 0 },
  };

  /** An engine, and a load that is told what a gateway would be told of it. */
  class Told {
    readonly timed: TimedEngine;
    readonly load = new WorkerLoad();
    readonly worker: Worker;

    constructor(pacing: 'on' | 'off') {
      this.timed = new TimedEngine({ pacing, proofs: 'off' });
      this.worker = worker('a', 'any', { load: this.load, costs: quiet, pacing, blockCount: 1e6 });
    }

    /** Comes now, and decodes until the test is over. */
    ask(promptTokenCount: number, ttftMs: number, outputTokenCount = 1000): GenerationRequest {
      const nowMs = this.timed.clock.nowMs();
      const request = asked({ promptTokenCount, outputTokenCount, ttftMs, tpotMs });
      const known = facts({ promptTokenCount, nowMs, slo: { ttftMs, tpotMs } });
      const { prefillMs } = predictPrefill(known, this.worker);
      const pairCount = prefillPairCountOf(0, promptTokenCount);
      this.load.addPrompt(
        request.id,
        { tokenCount: promptTokenCount, pairCount, prefillMs, addedMs: 0, dueMs: nowMs + ttftMs },
        nowMs,
      );
      const work = { rowCount: 1, kvTokenCount: promptTokenCount, remainingTokenCount: outputTokenCount };
      this.load.changeExpected(work);
      const before = this.timed.onEvent;
      let isFirst = true;
      this.timed.onEvent = (event) => {
        if (event.requestId !== request.id) return before(event);
        const atMs = this.timed.clock.nowMs();
        if (event.kind === 'cached') this.load.startPrompt(request.id, atMs);
        if (event.kind !== 'tokens') return;
        if (!isFirst)
          return this.load.changeDecoding({ rowCount: 0, kvTokenCount: 1, remainingTokenCount: -1 }, atMs);
        isFirst = false;
        this.load.removePrompt(request.id);
        this.load.changeExpected({
          rowCount: -1,
          kvTokenCount: -promptTokenCount,
          remainingTokenCount: -outputTokenCount,
        });
        this.load.changeDecoding(work, atMs);
      };
      return this.timed.comes(0, request);
    }
  }

  const tpotMs = 20;

  /** |predicted / real − 1| of a prompt's first token at random moments of random loads, ascending. */
  async function errorsOf(pacing: 'on' | 'off', rounds: number): Promise<readonly number[]> {
    const prng = new Prng(11);
    const errors: number[] = [];
    for (let round = 0; round < rounds; round++) {
      const told = new Told(pacing);
      for (let i = prng.integer(0, 40); i > 0; i--) told.ask(16, 1000);
      await told.timed.run(60 + 30 * prng.uniform());
      for (
        const endMs = told.timed.clock.nowMs() + 100 + 300 * prng.uniform();
        told.timed.clock.nowMs() < endMs;
      ) {
        told.ask(
          prng.uniform() < 0.5 ? prng.integer(16, 256) : prng.integer(256, 2500),
          prng.integer(300, 1500),
        );
        await told.timed.run(prng.exponential(60));
      }
      const [promptTokenCount, ttftMs] = [prng.integer(16, 4000), prng.integer(300, 1500)];
      const nowMs = told.timed.clock.nowMs();
      const known = facts({ promptTokenCount, nowMs, slo: { ttftMs, tpotMs } });
      const { waitMs, prefillMs } = predictPrefill(known, told.worker);
      const own = told.ask(promptTokenCount, ttftMs);
      while (Number.isNaN(told.timed.firstMs(own))) await told.timed.run(5);
      errors.push(Math.abs((waitMs + prefillMs) / (told.timed.firstMs(own) - nowMs) - 1));
    }
    return errors.sort((a, b) => a - b);
  }

  // measured: 4 and 12 % paced, 5 and 14 % without; half a step in flight is not known better, nor what comes
  // later and is due before
  it.each(['on', 'off'] as const)(
    'first token at any moment under any load, pacing %s: half within 7 percent, nine in ten within 20',
    async (pacing) => {
      const errors = await errorsOf(pacing, 60);
      expect(at(errors, 30)).toBeLessThan(0.07);
      expect(at(errors, 54)).toBeLessThan(0.2);
    },
    120_000,
  );

  it('time per token within half a percent, for any batch that stays', async () => {
    const prng = new Prng(12);
    for (let round = 0; round < 20; round++) {
      const [decodingCount, promptTokenCount, outputTokenCount] = [
        prng.integer(0, 40),
        prng.integer(16, 3000),
        prng.integer(20, 200),
      ];
      const told = new Told('on');
      for (let i = decodingCount; i > 0; i--) told.ask(200, 1000);
      await told.timed.run(100);
      const own = told.ask(promptTokenCount, 1000, outputTokenCount);
      while (told.timed.tokensMs.get(own.id)![0]!.length < outputTokenCount) await told.timed.run(50);
      const on = worker('a', 'any', {
        load: loadOf({ decodingCount, kvTokensEach: 300, remainingEach: 100_000 }),
        costs: quiet,
      });
      // the load has long been so
      const later = facts({ promptTokenCount, expectedTokenCount: outputTokenCount, nowMs: 1e6 });
      expect(
        Math.abs(predictDecode(later, on, 0, 'its_prefill').stepMs / told.timed.tpotMs(own) - 1),
      ).toBeLessThan(0.005);
    }
  }, 120_000);

  it('prompts to come: their share of the time is shared by all who decode', () => {
    const load = loadOf({ decodingCount: 4, remainingEach: 100_000 });
    const work = { tokenCount: 500, pairCount: 125_250, prefillMs: 60, addedMs: 50, dueMs: 0 };
    for (let i = 1; i <= 400; i++) {
      load.addPrompt(requestId(`p${i}`), work, 1000 * i); // 50 ms of each 1000
      load.removePrompt(requestId(`p${i}`));
    }
    const on = worker('a', 'any', { load });
    const { stepMs, aloneMs } = predictDecode(
      facts({ expectedTokenCount: 1000, nowMs: 400_500 }),
      on,
      0,
      'its_prefill',
    );
    expect(aloneMs).toBeCloseTo(10 + 5 * 0.05 + (4 * 200 + 600) * 1e-4, 6);
    expect(stepMs / aloneMs).toBeCloseTo(1 / 0.95, 1);
  });

  it('who waits for a prefill elsewhere does not decode yet', () => {
    const load = new WorkerLoad();
    load.changeExpected({ rowCount: 50, kvTokenCount: 50 * 200, remainingTokenCount: 50 * 20 });
    const on = worker('d', 'any', { load });
    const soon = predictDecode(facts({ expectedTokenCount: 20 }), on, 1, 'other_prompts');
    const late = predictDecode(facts({ expectedTokenCount: 20 }), on, 20_000, 'other_prompts');
    const none = predictDecode(facts({ expectedTokenCount: 20 }), worker('d', 'any'), 0, 'other_prompts');
    expect(soon.aloneMs - none.aloneMs).toBeGreaterThan(20 * 0.05);
    // one after the other in 20 s, each there for 0.2 s
    expect(late.aloneMs - none.aloneMs).toBeLessThan(1 * 0.07);
  });
});
