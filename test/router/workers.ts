/** Workers as the router sees them, with a load made of a few numbers. */

import { requestId, type WorkerId, workerId } from '../../src/base/ids.js';
import type { CostParameters } from '../../src/router/cost-parameters.js';
import { demandOf, type KvClaim, type KvDemand, tokensFor } from '../../src/router/kv-growth.js';
import { uncorrected } from '../../src/router/request-correction.js';
import type { RequestFacts, WorkerRole, WorkerSnapshot } from '../../src/router/snapshot.js';
import { prefillPairCountOf } from '../../src/router/step-work.js';
import { asCosted } from '../../src/router/unloaded-ratios.js';
import { WorkerLoad } from '../../src/router/worker-load.js';

/** A step takes 10 ms and 0.1 ms for each row above 16; 512 prompt tokens about 60 ms. */
export const costs: CostParameters = {
  step: {
    rowKnots: [
      { rowCount: 1, ms: 10 },
      { rowCount: 16, ms: 10 },
      { rowCount: 512, ms: 59.6 },
    ],
    msPerSampledRow: 0.05,
    msPerDecodeKvToken: 1e-4,
    msPerPrefillPair: 1e-6,
  },
  links: [{ connector: 'peer', latencyMs: 0.1, bytesPerSecond: 10e9 }],
  request: { arrivalMs: 1, tokenMs: 0.5, handOverMs: 1, handOverMsPerToken: 0 },
  kvBytesPerToken: 100_000,
  tokenBudget: 512,
  prefillChunkTokenCount: 512,
};

export interface LoadNumbers {
  readonly queuedTokenCount?: number;
  /** When the first tokens of these are due. */
  readonly queuedDueMs?: number;
  readonly decodingCount?: number;
  readonly kvTokensEach?: number;
  readonly remainingEach?: number;
}

export function loadOf({
  queuedTokenCount = 0,
  queuedDueMs = 100,
  decodingCount = 0,
  kvTokensEach = 200,
  remainingEach = 50,
}: LoadNumbers): WorkerLoad {
  const load = new WorkerLoad();
  if (queuedTokenCount > 0) {
    const pairCount = prefillPairCountOf(0, queuedTokenCount);
    load.addPrompt(
      requestId('queued'),
      { tokenCount: queuedTokenCount, pairCount, prefillMs: 100, addedMs: 0, dueMs: queuedDueMs },
      0,
    );
  }
  if (decodingCount > 0) {
    const kvTokenCount = decodingCount * kvTokensEach;
    const tokenCount = kvTokensEach + remainingEach;
    for (let i = 0; i < decodingCount; i++) load.changeClaim(null, { tokenCount, variance: 0 });
    load.changeDecoding(
      { rowCount: decodingCount, kvTokenCount, remainingTokenCount: decodingCount * remainingEach },
      0,
    );
  }
  return load;
}

export const worker = (
  id: string,
  role: WorkerRole,
  { isLive = true, ...more }: LoadNumbers & Partial<WorkerSnapshot> = {},
): WorkerSnapshot => ({
  id: workerId(id),
  role,
  isLive,
  blockTokenCount: 16,
  blockCount: 1000,
  load: loadOf(more),
  costs,
  corrections: uncorrected,
  unloaded: asCosted,
  ...more,
});

export const facts = (more: Partial<RequestFacts> = {}): RequestFacts => ({
  promptTokenCount: 100,
  outputTokenCount: 0,
  maxTokenCount: 100,
  choiceCount: 1,
  expectedTokenCount: 50,
  growth: { tokenCount: 50, variance: 0 },
  prefixTokenCounts: new Map(),
  slo: { ttftMs: 1000, tpotMs: 40 },
  nowMs: 0,
  ...more,
});

export const held = (id: string, count: number) => ({
  prefixTokenCounts: new Map<WorkerId, number>([[workerId(id), count]]),
});

/** What admission counts with when all these are let in. */
export function kvTokensNeeded(claims: readonly KvClaim[], blockTokenCount: number): number {
  const demands = claims.map((claim) => demandOf(claim, blockTokenCount));
  const sum = (pick: (demand: KvDemand) => number) =>
    demands.reduce((total, demand) => total + pick(demand), 0);
  return tokensFor({
    tokenCount: sum(({ tokenCount }) => tokenCount),
    variance: sum(({ variance }) => variance),
  });
}
