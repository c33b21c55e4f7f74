/** The engine in plain numbers, for routers, metrics and people. Used by Engine.snapshot. */
import type { EngineSnapshot } from './engine-options.js';
import type { Scheduler } from './scheduler.js';
import type { RequestState } from './sequence.js';
import type { SequenceMemory } from './sequence-memory.js';

interface SnapshotParts {
  readonly requests: Iterable<RequestState>;
  readonly scheduler: Scheduler;
  readonly memory: SequenceMemory;
  readonly counters: {
    readonly step: number;
    readonly lastStepMs: number;
    readonly promptToken: number;
    readonly generatedToken: number;
  };
  readonly batchSlotCount: number;
  readonly stepsInFlightCount: number;
}

export function takeSnapshot({
  requests,
  scheduler,
  memory,
  counters,
  batchSlotCount,
  stepsInFlightCount,
}: SnapshotParts): EngineSnapshot {
  const { blocks, blockTokenCount } = memory;
  const counts = { held: 0, reserved: 0, decoding: 0, queued: 0, cachedTokens: 0 };
  for (const request of requests) {
    if (request.leader?.state === 'held') counts.held++;
    if (request.mode === 'reserved') counts.reserved++;
  }
  for (const sequence of scheduler.running.items) {
    counts.cachedTokens += sequence.computedCount;
    if (sequence.computedCount >= sequence.promptCount) counts.decoding++;
    else counts.queued += sequence.uncomputedCount;
  }
  for (const sequence of [...scheduler.waiting.items, ...scheduler.late.items])
    counts.queued += sequence.uncomputedCount;
  return {
    runningCount: scheduler.running.count,
    decodingCount: counts.decoding,
    waitingCount: scheduler.waiting.count + scheduler.late.count,
    heldCount: counts.held,
    reservedCount: counts.reserved,
    queuedTokenCount: counts.queued,
    runningTokenCount: counts.cachedTokens,
    sequenceCountMax: batchSlotCount,
    blockTokenCount,
    blockCount: blocks.blockCount,
    freeBlockCount: blocks.freeCount,
    ownedBlockCount: blocks.ownedCount,
    cachedBlockCount: blocks.cachedCount,
    stepsInFlightCount,
    stepCount: counters.step,
    lastStepMs: counters.lastStepMs,
    preemptionCount: scheduler.counters.preemption,
    promptTokenCount: counters.promptToken,
    generatedTokenCount: counters.generatedToken,
    prefixHitTokenCount: scheduler.counters.prefixHitToken,
    prefixQueryTokenCount: scheduler.counters.prefixQueryToken,
  };
}
