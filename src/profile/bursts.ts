/** What a worker is given to compute while it is measured: bursts of requests that together reach every
 *  corner of the cost formula. Pure. Used by measure-steps.ts, which runs as many as the time allows, cheap
 *  ones first. */
import type { WorkerStatus } from '../control/worker-status.js';

export interface Burst {
  /** Asked at once. */
  readonly crowd: readonly Ask[];
  /** Asked one after the other, once each of the crowd has its first token; when they have ended, so does the
   *  crowd. */
  readonly guests: readonly Ask[];
}

export interface Ask {
  readonly promptTokenCount: number;
  /** Of them, those that the worker's prefix cache holds: of a prompt that all such asks begin with. */
  readonly cachedTokenCount: number;
  readonly outputTokenCount: number;
}

interface BurstLimits {
  readonly tokenBudget: number;
  readonly batchSlotCount: number;
  /** Of one sequence, prompt and output. */
  readonly contextTokenCount: number;
  /** Of all sequences together. */
  readonly kvTokenCount: number;
}

/** Longest prompt: by then the quadratic part is plain. */
const promptTokenCountMax = 8192;
/** Decode steps after the first token; the first two of a shape are recorded as well as run. */
const outputTokenCount = 12;
/** Prompts that come to a crowd, about so long, and in what part of that: products are computed in tiles of a
 *  hundred rows or so, and the same round length beside a few rows would always pay for a tile that it hardly
 *  uses. */
const guestPromptTokenCounts = [24, 96, 384, 1536];
const guestCrowds = [
  { crowdCount: 1, part: 0.79 },
  { crowdCount: 4, part: 0.93 },
  { crowdCount: 16, part: 1.07 },
  { crowdCount: 64, part: 1.21 },
];
const cachedTokenCounts = [512, 2048];
/** A step is 10 prompt tokens' worth of work, roughly: only for the order. */
const effortPerStep = 10;

export function burstLimitsOf({
  ready,
  stepLimits,
}: Pick<WorkerStatus, 'ready' | 'stepLimits'>): BurstLimits {
  const { blockCount = 1, blockTokenCount = 1, maxModelTokenCount = 2 } = ready ?? {};
  return {
    tokenBudget: stepLimits.tokenBudget,
    batchSlotCount: stepLimits.sequenceCountMax,
    contextTokenCount: maxModelTokenCount,
    kvTokenCount: Math.floor(0.8 * blockCount * blockTokenCount),
  };
}

/** By effort, the least first. Always at least one. */
export function burstsFor(limits: BurstLimits): readonly Burst[] {
  const all = [
    ...prompts(),
    ...batches(limits),
    ...deepBatches(limits),
    ...mixed(limits),
    ...continued(),
    ...queues(limits),
  ];
  const fitting = all.filter((burst) => fits(burst, limits));
  return fitting.sort((a, b) => effortOf(a) - effortOf(b));
}

/** Prompt tokens to compute, and steps in the same coin. */
export function effortOf({ crowd, guests }: Burst): number {
  const tokenCount = [...crowd, ...guests].reduce(
    (sum, ask) => sum + ask.promptTokenCount - ask.cachedTokenCount,
    0,
  );
  const stepCount = [...crowd, ...guests].reduce((max, ask) => Math.max(max, ask.outputTokenCount), 1);
  return tokenCount + effortPerStep * stepCount;
}

const ask = (promptTokenCount: number, cachedTokenCount = 0): Ask => ({
  promptTokenCount,
  cachedTokenCount,
  outputTokenCount,
});
const alone = (one: Ask): Burst => ({ crowd: [one], guests: [] });
const doubling = (first: number, last: number): number[] =>
  first > last ? [] : [first, ...doubling(2 * first, last)];

/** α, the knots of rows(), the quadratic part; then decode steps at batch 1 over that many keys. */
function prompts(): Burst[] {
  return doubling(8, promptTokenCountMax).map((count) => alone(ask(count)));
}

/** Decode steps over the batch. */
function batches({ batchSlotCount }: BurstLimits): Burst[] {
  return doubling(2, batchSlotCount).map((count) => ({
    crowd: new Array<Ask>(count).fill(ask(24)),
    guests: [],
  }));
}

/** Decode steps over keys and values, all different: shared ones would lie in the processor's cache. Answers
 *  go on until the last prompt is computed, and then as long as others: all decode together. */
function deepBatches({ batchSlotCount, tokenBudget }: BurstLimits): Burst[] {
  const counts = doubling(2, batchSlotCount).flatMap((count) =>
    [256, 1024].map((promptTokenCount) => ({ count, promptTokenCount })),
  );
  return counts.map(({ count, promptTokenCount }) => ({
    crowd: new Array<Ask>(count).fill({
      ...ask(promptTokenCount),
      outputTokenCount: outputTokenCount + Math.ceil((count * promptTokenCount) / tokenBudget),
    }),
    guests: [],
  }));
}

/** Prompts that arrive while others decode. The crowd decodes for as long as there are guests. */
function mixed({ tokenBudget, batchSlotCount }: BurstLimits): Burst[] {
  return guestCrowds
    .filter(({ crowdCount }) => crowdCount < batchSlotCount)
    .map(({ crowdCount, part }) => ({
      crowd: new Array<Ask>(crowdCount).fill({ ...ask(48), outputTokenCount: 64 }),
      guests: guestPromptTokenCounts
        .map((tokenCount) => Math.round(part * tokenCount))
        .filter((tokenCount) => tokenCount <= 2 * tokenBudget)
        .map((tokenCount) => ask(tokenCount)),
    }));
}

/** Prompts whose beginning is cached: few tokens, many keys. */
function continued(): Burst[] {
  return cachedTokenCounts.flatMap((cached) =>
    [16, 96, 256].map((count) => alone(ask(cached + count, cached))),
  );
}

/** Prompts one after the other and nothing else, as a prefill worker has them: a GPU that computes without a
 *  pause is held to its power, and slower than one that has just rested. */
function queues({ batchSlotCount }: BurstLimits): Burst[] {
  return [4, 16]
    .filter((count) => count <= batchSlotCount)
    .map((count) => ({
      crowd: new Array<Ask>(count).fill({ ...ask(1024), outputTokenCount: 1 }),
      guests: [],
    }));
}

function fits(
  { crowd, guests }: Burst,
  { batchSlotCount, contextTokenCount, kvTokenCount }: BurstLimits,
): boolean {
  const asks = [...crowd, ...guests];
  const tokenCountOf = (one: Ask) => one.promptTokenCount + one.outputTokenCount;
  const longest = Math.max(...asks.map(tokenCountOf));
  const total = asks.reduce((sum, one) => sum + tokenCountOf(one), 0);
  return (
    longest <= contextTokenCount &&
    total <= kvTokenCount &&
    crowd.length + Math.min(1, guests.length) <= batchSlotCount
  );
}
