/** Changes of a request that come from outside the loop: the decode side of a hand-over, abort, stop. Used by
 *  engine.ts alone. */
import { assert, at } from '../base/assert.js';
import { InvalidRequestError } from '../base/errors.js';
import type { TokenId } from '../base/ids.js';
import type { Reservation } from './engine-options.js';
import type { Scheduler } from './scheduler.js';
import type { RequestState } from './sequence.js';
import type { SequenceMemory } from './sequence-memory.js';
import { compareOrder } from './sequence-queue.js';

/** Batch slots for all choices, and blocks for the tokens there are and `growthTokenCount` more; null when
 *  there is no room now, or not enough for whoever comes first in the queue as well (a preempted sequence
 *  must not be overtaken by one reservation after the other). Who waits there for its turn alone, its prompt
 *  behind others, is not in the way. */
export function reserveRequest(
  request: RequestState,
  growthTokenCount: number,
  scheduler: Scheduler,
  memory: SequenceMemory,
): Reservation | null {
  const leader = at(request.choices, 0);
  const first = scheduler.firstInLine;
  const ahead = first !== undefined && compareOrder(first, leader) < 0 ? first : undefined;
  const batchSlotsAheadCount = ahead === undefined ? 0 : 1 + ahead.request.forks.length;
  if (scheduler.freeBatchSlotCount < request.choices.length + batchSlotsAheadCount) return null;
  const blocksAheadCount = ahead === undefined ? 0 : memory.blockCountFor(ahead.knownCount);
  const growthMax = Math.max(0, request.outputLimit - leader.outputIds.length);
  const admitted = memory.admit(leader, {
    tokenCount: leader.knownCount + Math.min(growthTokenCount, growthMax),
    reusableTokenCount: leader.knownCount, // its logits come from the other side
    spareBlockCount: scheduler.spareBlockCount + blocksAheadCount,
  });
  if (!admitted) return null;
  request.leader = leader;
  for (const choice of request.choices) {
    choice.state = 'reserved';
    scheduler.takeBatchSlot(choice);
  }
  return { blockIds: [...leader.blockIds], cachedTokenCount: leader.cachedCount };
}

interface ResumeParts {
  readonly scheduler: Scheduler;
  readonly memory: SequenceMemory;
  readonly vocabCount: number;
}

/** The reserved blocks hold K and V of the first `tokenCount` positions: the choices decode from here. */
export function resumeRequest(
  request: RequestState,
  outputs: readonly (readonly TokenId[])[],
  tokenCount: number,
  { scheduler, memory, vocabCount }: ResumeParts,
): void {
  const { choices } = request;
  const leader = at(choices, 0);
  if (request.mode !== 'reserved' || outputs.length !== choices.length) {
    throw new InvalidRequestError(
      `request ${request.id}: resume needs a reservation and the tokens of all ${choices.length} choices`,
    );
  }
  const strange = outputs.flat().find((id) => !Number.isInteger(id) || id < 0 || id >= vocabCount);
  if (strange !== undefined) {
    throw new InvalidRequestError(
      `request ${request.id}: token id ${strange} is not in the vocabulary of ${vocabCount}`,
    );
  }
  choices.forEach((choice, i) => {
    choice.outputIds = [...at(outputs, i)];
  });
  const promptCount = leader.promptCount;
  const sharedCount = choices.length === 1 ? tokenCount : Math.min(tokenCount, promptCount);
  assert(
    sharedCount < leader.knownCount && sharedCount >= leader.cachedCount,
    `resume at ${tokenCount} of ${leader.knownCount} tokens`,
  );
  request.mode = 'generate';
  request.isCachedReported = true; // like the prompt's log-probabilities, by the side that computed it
  request.promptLogprobs = undefined;
  leader.hashes.length = Math.min(
    leader.hashes.length,
    Math.floor(leader.cachedCount / memory.blockTokenCount),
  );
  leader.advance(sharedCount);
  memory.publish(leader);
  const forks = choices.slice(1);
  if (sharedCount >= promptCount) for (const fork of forks) memory.fork(leader, fork, promptCount);
  else request.forks = forks;
  for (const choice of choices) {
    if (request.forks.includes(choice)) choice.state = 'forking';
    else {
      choice.state = 'running';
      scheduler.running.insert(choice);
    }
  }
  for (const choice of choices)
    if (request.stopped.has(choice.choiceIndex) || choice.end() !== undefined) scheduler.end(choice);
}

/** Ends every choice; nothing is reported of the request any more. */
export function abortRequest(request: RequestState, scheduler: Scheduler): void {
  const { events } = scheduler;
  for (let i = events.length - 1; i >= 0; i--) if (events[i]?.requestId === request.id) events.splice(i, 1);
  for (const choice of request.choices) scheduler.end(choice);
}

export function stopChoiceOf(request: RequestState, choiceIndex: number, scheduler: Scheduler): void {
  const choice = request.choices[choiceIndex];
  if (choice === undefined)
    throw new InvalidRequestError(`request ${request.id} has no choice ${choiceIndex}`);
  if (request.mode === 'generate') scheduler.end(choice);
  else request.stopped.add(choiceIndex);
}
