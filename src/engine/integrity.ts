/** Proves the engine's accounting. Used by Engine.checkIntegrity: after every step of a fuzz run, and when
 *  idle in production. */
import { assert } from '../base/assert.js';
import type { RequestId } from '../base/ids.js';
import type { Scheduler } from './scheduler.js';
import type { RequestState, Sequence } from './sequence.js';
import type { SequenceMemory } from './sequence-memory.js';
import type { StepPlan } from './step-plan.js';

interface AccountingFacts {
  readonly batchSlotCount: number;
  /** Steps in flight. */
  readonly plans: readonly StepPlan[];
}

export function checkAccounting(
  requests: ReadonlyMap<RequestId, RequestState>,
  scheduler: Scheduler,
  memory: SequenceMemory,
  { batchSlotCount, plans }: AccountingFacts,
): void {
  const sequences = new Set<Sequence>(scheduler.leaving);
  for (const request of requests.values()) for (const choice of request.choices) sequences.add(choice);
  checkReferences(sequences, memory, plans);
  checkBatchSlots(sequences, scheduler, batchSlotCount);
  for (const sequence of sequences) checkSequence(sequence, scheduler, memory);
  for (const sequence of [...scheduler.running.items, ...scheduler.waiting.items, ...scheduler.late.items]) {
    assert(
      sequences.has(sequence),
      `a queue holds a choice of request ${sequence.request.id}, which is not here`,
    );
  }
  for (const sequence of sequences) {
    const count = plans.reduce((sum, plan) => sum + touchCount(plan, sequence), 0);
    assert(
      count === sequence.inFlightCount,
      `request ${sequence.request.id}: ${sequence.inFlightCount} steps in flight, found ${count}`,
    );
  }
  if (requests.size === 0 && plans.length === 0) {
    assert(
      memory.blocks.ownedCount === 0,
      `${memory.blocks.ownedCount} blocks are owned though nothing runs`,
    );
  }
}

function touchCount(plan: StepPlan, sequence: Sequence): number {
  const entryCount = plan.entries.filter((entry) => entry.sequence === sequence).length;
  return entryCount + plan.samples.filter((sample) => sample.choice === sequence).length;
}

function checkReferences(
  sequences: ReadonlySet<Sequence>,
  memory: SequenceMemory,
  plans: readonly StepPlan[],
): void {
  const expected = new Int32Array(memory.blocks.blockCount);
  const count = (block: number) => {
    expected[block] = (expected[block] ?? 0) + 1;
  };
  for (const sequence of sequences) sequence.blockIds.forEach(count);
  for (const plan of plans) plan.pinnedBlockIds.forEach(count);
  memory.blocks.checkIntegrity(expected);
}

function checkBatchSlots(
  sequences: ReadonlySet<Sequence>,
  scheduler: Scheduler,
  batchSlotCount: number,
): void {
  const taken = [...sequences].flatMap(({ batchSlot }) => (batchSlot === undefined ? [] : [batchSlot]));
  assert(new Set(taken).size === taken.length, 'two sequences on one batchSlot');
  assert(
    taken.length + scheduler.freeBatchSlotCount === batchSlotCount,
    `${taken.length} batch slots taken, ${scheduler.freeBatchSlotCount} free of ${batchSlotCount}`,
  );
}

function checkSequence(sequence: Sequence, scheduler: Scheduler, memory: SequenceMemory): void {
  const { state, request, blockIds, batchSlot } = sequence;
  const name = `request ${request.id}, choice ${sequence.choiceIndex}, ${state}`;
  assert(scheduler.running.has(sequence) === (state === 'running'), `${name}: running list disagrees`);
  const queueCount = [scheduler.waiting, scheduler.late].filter((queue) => queue.has(sequence)).length;
  assert(queueCount === (state === 'waiting' ? 1 : 0), `${name}: waits in ${queueCount} queues`);
  assert(
    blockIds.length * memory.blockTokenCount >= sequence.computedCount,
    `${name}: computed tokens without blocks`,
  );
  if (state === 'waiting' || state === 'forking')
    assert(blockIds.length === 0 && sequence.computedCount === 0, `${name} owns blocks`);
  if (state === 'waiting')
    assert(
      batchSlot === undefined && sequence.pendingCount === 0,
      `${name} has a batchSlot or pending tokens`,
    );
  if (state === 'running') assert(batchSlot !== undefined, `${name} has no batchSlot`);
  if (state === 'draining')
    assert(sequence.inFlightCount > 0 && scheduler.leaving.has(sequence), `${name} has nothing to wait for`);
  if (state === 'ended')
    assert(blockIds.length === 0 || scheduler.leaving.has(sequence), `${name} kept its blocks`);
}
