/** KV memory in estimates and loads: what a request is expected to hold to its end, and how long it waits for
 *  that. */
import { describe, expect, it } from 'vitest';
import { requestId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import { chooseRoute } from '../../src/router/choose-route.js';
import { demandOf, type KvClaim, tokensFor } from '../../src/router/kv-growth.js';
import { LengthPredictor } from '../../src/router/length-predictor.js';
import { Placement } from '../../src/router/placement.js';
import { planOf } from '../../src/router/plan.js';
import { predictDecode, roomWaitMs } from '../../src/router/prediction.js';
import { WorkerLoad } from '../../src/router/worker-load.js';
import { facts, kvTokensNeeded, worker } from './workers.js';

/** 16,000 tokens, all claimed by ten sequences that are half done: they hold 800 each, and 800 are to
 *  come. */
const full = { decodingCount: 10, kvTokensEach: 800, remainingEach: 800 };
/** The same crowd with little to come. */
const roomy = { decodingCount: 10, kvTokensEach: 800, remainingEach: 40 };

describe('the wait for room', () => {
  it('is by hand: what is missing, in sequences that leave one after the other', () => {
    const stepMs = 10 + 10 * 0.05 + 8000 * 1e-4;
    const leaveMs = (800 * stepMs) / 10;
    expect(roomWaitMs(facts(), worker('a', 'any', roomy))).toBe(0);
    expect(roomWaitMs(facts(), worker('a', 'any', full))).toBeCloseTo(leaveMs, 6); // 150 tokens missing: one that ends
    expect(roomWaitMs(facts({ promptTokenCount: 3000 }), worker('a', 'any', full))).toBeCloseTo(
      2 * leaveMs,
      6,
    );
    expect(roomWaitMs(facts({ promptTokenCount: 20_000 }), worker('a', 'any'))).toBe(0); // who holds nobody takes anybody
    const doubtful = facts({ growth: { tokenCount: 50, variance: 8000 ** 2 } });
    expect(roomWaitMs(doubtful, worker('a', 'any', roomy))).toBeGreaterThan(0);
  });

  it('is of the decode side, whichever side computes the prompt', () => {
    const crowd = worker('d', 'decode', full);
    expect(predictDecode(facts(), crowd, 0, 'other_prompts').roomWaitMs).toBe(roomWaitMs(facts(), crowd));
    const [route, free] = [full, roomy].map((load) =>
      chooseRoute(facts(), planOf([worker('p', 'prefill'), worker('d', 'decode', load)], 'disaggregated')!),
    );
    expect((route?.estimate.ttftMs ?? 0) - (free?.estimate.ttftMs ?? 0)).toBeCloseTo(
      roomWaitMs(facts(), crowd),
      6,
    );
  });
});

describe('what is claimed', () => {
  const predictor = new LengthPredictor();
  const lengths = predictor.predict({ promptTokenCount: 100, maxTokenCount: 400 });
  const claimed = (prefill: WorkerLoad, decode: WorkerLoad, claim: KvClaim, id: string) => {
    const prompt = { tokenCount: 100, pairCount: 5050, prefillMs: 10, addedMs: 1, dueMs: 50 };
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
    expect(prefill.waitingForKv.tokenCount).toBe(3000);
    for (const { placement } of open) placement.onAdmitted(0);
    expect([prefill.claimed.tokenCount, prefill.waitingForKv.promptCount, decode.expected.rowCount]).toEqual([
      3000, 0, 30,
    ]);
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
    expect([
      load.claimCount,
      load.waitingForKv.promptCount,
      load.queued.promptCount,
      load.expected.rowCount,
    ]).toEqual([0, 0, 0, 0]);
  });
});

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
      promptTokenCount: 100,
      choiceCount: 1,
      generatedTokenCount: 0,
      lengths,
    }));
    const counted = kvTokensNeeded(claims, 16) - 24 * 8;
    const held = claims.reduce((sum) => sum + 100 + draw(), 0);
    if (held <= counted) withinCount++;
    slack += counted / held / trialCount;
  }
  expect(withinCount / trialCount).toBeGreaterThan(0.82);
  expect(slack).toBeLessThan(1.4);
});
