/** Memory in the choice of workers: who has no room for a request to its end is not the cheapest place for it. */
import { describe, expect, it } from 'vitest';
import { requestId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import { type Arrangement, routeWithin } from '../../src/router/arrangement.js';
import { candidatesOf } from '../../src/router/candidates.js';
import { chooseRoute } from '../../src/router/choose-route.js';
import { decodeForecast, roomWaitMs } from '../../src/router/forecast.js';
import { demandOf, type KvClaim, tokensFor } from '../../src/router/kv-growth.js';
import { LengthPredictor } from '../../src/router/length-predictor.js';
import { Placement } from '../../src/router/placement.js';
import { WorkerLoad } from '../../src/router/worker-load.js';
import { facts, kvTokensNeeded, worker } from './workers.js';

/** 16,000 tokens, all claimed by ten sequences that are half done: they hold 800 each, and 800 are to come. */
const full = { decodingCount: 10, kvTokensEach: 800, remainingEach: 800 };
/** The same crowd with little to come. */
const roomy = { decodingCount: 10, kvTokensEach: 800, remainingEach: 40 };

describe('the wait for room', () => {
  it('is by hand: what is missing, in sequences that leave one after the other', () => {
    const stepMs = 10 + 10 * 0.05 + 8000 * 1e-4;
    const leaveMs = (800 * stepMs) / 10;
    expect(roomWaitMs(facts(), worker('a', 'any', roomy))).toBe(0);
    expect(roomWaitMs(facts(), worker('a', 'any', full))).toBeCloseTo(leaveMs, 6); // 150 tokens missing: one that ends
    expect(roomWaitMs(facts({ promptTokenCount: 3000 }), worker('a', 'any', full))).toBeCloseTo(2 * leaveMs, 6);
    expect(roomWaitMs(facts({ promptTokenCount: 20_000 }), worker('a', 'any'))).toBe(0); // who holds nobody takes anybody
    const doubtful = facts({ growth: { tokenCount: 50, variance: 8000 ** 2 } });
    expect(roomWaitMs(doubtful, worker('a', 'any', roomy))).toBeGreaterThan(0);
  });

  it('is of the decode side, whichever side computes the prompt', () => {
    const crowd = worker('d', 'decode', full);
    expect(decodeForecast(facts(), crowd, 0, 'other_prompts').roomWaitMs).toBe(roomWaitMs(facts(), crowd));
    const [route, free] = [full, roomy].map((load) =>
      chooseRoute(facts(), [worker('p', 'prefill'), worker('d', 'decode', load)], 'disaggregated'),
    );
    expect((route?.estimate.ttftMs ?? 0) - (free?.estimate.ttftMs ?? 0)).toBeCloseTo(roomWaitMs(facts(), crowd), 6);
  });
});

describe('the choice', () => {
  it.each(['collocated', 'disaggregated', 'adaptive'] as const)('%s passes by who has no room', (strategy) => {
    const workers = [
      worker('p', strategy === 'collocated' ? 'any' : 'prefill', strategy === 'collocated' ? full : {}),
      worker('a', 'any', full),
      worker('b', 'any', { ...roomy, decodingCount: 12 }),
    ];
    const route = chooseRoute(facts(), workers, strategy);
    expect(route?.path === 'disaggregated' ? route.decodeWorker : route?.worker).toBe('b');
  });

  it('among many, where a glance leaves few', () => {
    const workers = Array.from({ length: 40 }, (_, i) => worker(`w${i}`, 'any', i === 33 ? roomy : full));
    expect(chooseRoute(facts(), workers, 'collocated')).toMatchObject({ worker: 'w33' });
  });

  it('an arrangement does not bind whom it has no room for', () => {
    const arrangements: readonly Arrangement[] = [
      { kind: 'leaning', prefillCount: 1, ttftWeight: 1 },
      { kind: 'split', prefillCount: 1 },
    ];
    for (const arrangement of arrangements) {
      const decodeWorkerOf = (load: object) => {
        const candidates = candidatesOf([worker('a', 'any', { decodingCount: 1 }), worker('b', 'any', load)]);
        const route = routeWithin(arrangement, facts(), candidates!);
        return route.path === 'disaggregated' ? route.decodeWorker : route.worker;
      };
      expect(decodeWorkerOf(roomy)).toBe('b');
      expect(decodeWorkerOf(full)).toBe('a');
    }
  });
});

describe('what is claimed', () => {
  const predictor = new LengthPredictor();
  const lengths = predictor.predict({ promptTokenCount: 100, maxTokenCount: 400 });
  const claimed = (prefill: WorkerLoad, decode: WorkerLoad, claim: KvClaim, id: string) => {
    const prompt = { tokenCount: 100, pairCount: 5050, roomTokenCount: 512, addedMs: 1, unloadedTtftMs: 10 };
    const more = { promptTokenCount: 100, choiceCount: 1, lengths, generatedTokenCount: 0, prefill, decode };
    return new Placement({ id: requestId(id), prompt, ...more, demandNow: () => demandOf(claim, 16) });
  };

  it('is what admission would count, from the instant of the choice until the end, on either side', () => {
    const [prefill, decode] = [new WorkerLoad(), new WorkerLoad()];
    const prng = new Prng(4);
    const open = Array.from({ length: 30 }, (_, i) => {
      const claim = { promptTokenCount: 100, choiceCount: 1, generatedTokenCount: 0, lengths };
      return { claim, placement: claimed(prefill, decode, claim, `r${i}`) };
    });
    const counted = () => tokensFor(decode.claimed);
    const needed = () =>
      kvTokensNeeded(
        open.map(({ claim }) => claim),
        16,
      );
    expect(counted()).toBeCloseTo(needed(), 6);
    expect(decode.expected.rowCount).toBe(0); // nobody was let in yet
    expect(prefill.lined.tokenCount).toBe(3000);
    for (const { placement } of open) placement.onAdmitted(0);
    expect([prefill.claimed.tokenCount, prefill.lined.promptCount, decode.expected.rowCount]).toEqual([3000, 0, 30]);
    for (const { claim, placement } of open) {
      for (let count = prng.integer(1, 200); count > 0; count--) {
        claim.generatedTokenCount++;
        placement.onTokens(1, 1);
      }
    }
    expect(prefill.claimed).toEqual({ tokenCount: 0, variance: 0 });
    expect(counted() / needed()).toBeGreaterThan(0.9); // asked again now and then, not with every token
    expect(counted() / needed()).toBeLessThan(1.1);
    for (const { placement } of open) placement.leave(2);
    expect([decode.claimed, decode.claimCount]).toEqual([{ tokenCount: 0, variance: 0 }, 0]);
  });

  it('goes when it leaves before it was let in', () => {
    const load = new WorkerLoad();
    const claim = { promptTokenCount: 100, choiceCount: 1, generatedTokenCount: 0, lengths };
    const placement = claimed(load, load, claim, 'gone');
    placement.leave(0);
    placement.onAdmitted(1);
    expect([load.claimCount, load.lined.promptCount, load.queued.promptCount, load.expected.rowCount]).toEqual([0, 0, 0, 0]);
  });
});
