/** Decides what the next step computes. No device; time only through the pacer. Used by engine.ts; commit.ts
 *  settles what it launched.
 *
 *  Order is priority, then when the first token is due, then arrival, then choice (sequence-queue.ts). A step
 *  takes
 *    1. one row for each sequence that decodes;
 *    2. prompt tokens, as many as the pacer allows beside them: of the running and the waiting in one order,
 *       those last whose first token will be late anyway.
 *  When blocks run out, the latest running sequence is preempted: its blocks go, its tokens stay, it is
 *  computed again later.
 *
 *  Progress: a sequence is preempted only for one that comes before it, and nobody overtakes the head of the
 *  waiting queue for memory, so the first in order always gets the memory it needs, which validateRequest has
 *  checked to exist. Late prompts take what is left, and once they have aged a share of every step. Hand-over
 *  prefills get all their blocks on admission and are never preempted: a transfer may be reading them. */
import { assert } from '../base/assert.js';
import type { EngineHooks } from './engine-options.js';
import type { Pacer } from './pacer.js';
import type { RequestState, Sequence } from './sequence.js';
import type { SequenceMemory } from './sequence-memory.js';
import { compareOrder, SequenceQueue } from './sequence-queue.js';
import { StepPlan, type StepPlanLimits } from './step-plan.js';
import type { TokenEvent } from './token-event.js';

interface SchedulerOptions extends StepPlanLimits {
  readonly prefillChunkTokenCount: number;
  readonly batchSlotCount: number;
  /** null: steps take as many prompt tokens as the budget allows, in order. */
  readonly pacer: Pacer | null;
}

/** A late prompt waits for what others leave until it is late by so many times what it was allowed; */
const agingTtfts = 4;
/** from then on it is first in line for batch slots, memory and rows, and this share of a step's prompt
 *  tokens is left to it. */
const agedShare = 1 / 8;

export class Scheduler {
  readonly waiting = new SequenceQueue();
  /** Waiting as well, behind all others: their first tokens will be late whatever is done. */
  readonly late = new SequenceQueue();
  readonly running = new SequenceQueue();
  /** Preempted or ended, but a step in flight still touches their blocks. */
  readonly leaving = new Set<Sequence>();
  /** Events that need no device: handed out with the next step's. */
  readonly events: TokenEvent[] = [];
  readonly counters = { preemption: 0, prefixHitToken: 0, prefixQueryToken: 0 };
  readonly #memory: SequenceMemory;
  readonly #options: SchedulerOptions;
  readonly #hooks: EngineHooks;
  readonly #freeBatchSlots: number[];
  #planCount = 0;

  constructor(memory: SequenceMemory, options: SchedulerOptions, hooks: EngineHooks) {
    this.#memory = memory;
    this.#options = options;
    this.#hooks = hooks;
    this.#freeBatchSlots = Array.from(
      { length: options.batchSlotCount },
      (_, i) => options.batchSlotCount - 1 - i,
    );
  }

  /** Nobody overtakes it for batch slots, memory or rows. */
  get firstInLine(): Sequence | undefined {
    const { first } = this.late;
    return first !== undefined && this.#options.pacer?.hasAged(first, agingTtfts) === true
      ? first
      : this.waiting.first;
  }

  get freeBatchSlotCount(): number {
    return this.#freeBatchSlots.length;
  }

  /** The next step, or null when nothing can be computed now. */
  schedule(): StepPlan | null {
    const plan = new StepPlan(this.#planCount, this.#options);
    this.#planDecodes(plan);
    this.#planPrompts(plan);
    if (plan.entries.length === 0) return null;
    this.#planCount++;
    return plan;
  }

  /** Queues a request: its first live choice computes the prompt, the others fork from it. */
  enqueue(request: RequestState): void {
    const live = request.choices.filter((choice) => choice.state !== 'ended');
    const [leader, ...rest] = live;
    if (leader === undefined) return;
    const forks = request.mode === 'generate' ? rest : [];
    for (const choice of rest) choice.state = 'forking';
    request.forks = forks;
    request.leader = leader;
    leader.state = 'waiting';
    this.waiting.insert(leader);
  }

  takeBatchSlot(sequence: Sequence): void {
    const batchSlot = this.#freeBatchSlots.pop();
    assert(batchSlot !== undefined && sequence.batchSlot === undefined, 'no free batchSlot, or two for one');
    sequence.batchSlot = batchSlot;
  }

  giveBatchSlot(sequence: Sequence): void {
    if (sequence.batchSlot === undefined) return;
    this.#freeBatchSlots.push(sequence.batchSlot);
    sequence.batchSlot = undefined;
  }

  /** Blocks that admission leaves alone: room for every running sequence to grow by one, and 1 % of all. */
  get spareBlockCount(): number {
    if (this.running.count === 0) return 0;
    return Math.max(this.running.count, Math.ceil(this.#memory.blocks.blockCount / 100));
  }

  /** Ends a choice in any state; its blocks go back once no step in flight touches them. */
  end(sequence: Sequence): void {
    if (sequence.state === 'ended') return;
    this.running.remove(sequence);
    this.waiting.remove(sequence);
    this.late.remove(sequence);
    sequence.state = 'ended';
    sequence.masks?.close();
    sequence.masks = null;
    sequence.dropPending();
    this.giveBatchSlot(sequence);
    this.leaving.add(sequence);
    this.settle(sequence);
    this.#replaceLeader(sequence);
  }

  /** A leader that ends before the fork leaves its forks without a prompt: the first of them starts over. */
  #replaceLeader(ended: Sequence): void {
    const { request } = ended;
    request.forks = request.forks.filter((fork) => fork !== ended);
    if (request.leader !== ended) return;
    for (const fork of request.forks) this.giveBatchSlot(fork);
    request.leader = request.forks.shift();
    if (request.leader === undefined) return;
    request.leader.state = 'waiting';
    this.waiting.insert(request.leader);
  }

  /** Takes the blocks of a leaving sequence once no step in flight touches them; a preempted one queues
   *  again. */
  settle(sequence: Sequence): void {
    if (sequence.inFlightCount > 0 || !this.leaving.delete(sequence)) return;
    this.#memory.free(sequence);
    if (sequence.state !== 'draining') return;
    this.giveBatchSlot(sequence);
    for (const fork of sequence.request.forks) this.giveBatchSlot(fork);
    sequence.state = 'waiting';
    this.waiting.insert(sequence);
  }

  #planDecodes(plan: StepPlan): void {
    const { items } = this.running; // preemption removes later items only, so the index stays good
    const isHeldUp = this.#isMaskedInFlight;
    for (let i = 0; i < items.length && plan.rowRoom > 0; i++) {
      const sequence = items[i];
      if (sequence === undefined || !sequence.isDecoding || !isReady(sequence)) continue;
      if (!sequence.canDraw || (isHeldUp && sequence.request.hasGrammar)) continue;
      if (!this.#makeWritable(sequence, sequence.tokenCount, plan)) continue;
      const row = plan.addEntry(sequence, sequence.computedCount, sequence.tokenCount);
      sequence.advance(sequence.tokenCount);
      plan.addDraw(sequence, row);
    }
  }

  /** Choices with a grammar stay together: one that joined half a turn later would be in a step of its own
   *  for ever. */
  get #isMaskedInFlight(): boolean {
    return this.running.items.some(({ request, pendingCount }) => request.hasGrammar && pendingCount > 0);
  }

  #planPrompts(plan: StepPlan): void {
    const prefilling = this.running.items.filter(
      (sequence) => sequence.planNumber !== plan.number && !sequence.isDecoding && isReady(sequence),
    );
    const first = prefilling[0] ?? this.waiting.first ?? this.late.first;
    if (first === undefined) return;
    const { pacer } = this.#options;
    if (pacer === null) {
      this.#planInOrder(prefilling, plan);
      return;
    }
    const room = pacer.promptRoom(plan, first.computedCount);
    const endRowCount = plan.rowCount + room;
    const late = prefilling.filter((sequence) => pacer.isLate(sequence));
    this.#setLateAside(pacer);
    const agedHead = this.firstInLine === this.late.first ? this.late.first : undefined;
    const isBlocked = agedHead !== undefined && !this.#admitAged(agedHead, late);
    const hasAged = late[0] !== undefined && pacer.hasAged(late[0], agingTtfts);
    plan.limitPrompts(hasAged ? room - Math.floor(room * agedShare) : room);
    const inTime = late.length === 0 ? prefilling : prefilling.filter((sequence) => !late.includes(sequence));
    this.#planInOrder(inTime, plan, !isBlocked);
    plan.limitPrompts(endRowCount - plan.rowCount);
    for (const sequence of late) if (plan.rowRoom > 0) this.#planRunning(sequence, plan);
    while (this.late.first !== undefined && this.#start(this.late.first, plan));
  }

  /** Running prompts and waiting ones, first come, first served; who cannot be admitted holds up those who
   *  wait behind it. */
  #planInOrder(prefilling: readonly Sequence[], plan: StepPlan, isAdmitting = true): void {
    const admitBefore = (next: Sequence | undefined) => {
      for (let head = this.waiting.first; isAdmitting && head !== undefined; head = this.waiting.first) {
        if (next !== undefined && compareOrder(head, next) > 0) return;
        isAdmitting = this.#start(head, plan);
      }
    };
    for (const sequence of prefilling) {
      admitBefore(sequence);
      if (plan.rowRoom === 0) return;
      this.#planRunning(sequence, plan);
    }
    admitBefore(undefined);
  }

  /** It may have been preempted for another one since the list was made. */
  #planRunning(sequence: Sequence, plan: StepPlan): void {
    if (sequence.state === 'running' && sequence.planNumber !== plan.number) this.#planChunk(sequence, plan);
  }

  /** The head of the queue is due first: late ones gather there. */
  #setLateAside(pacer: Pacer): void {
    for (let head = this.waiting.first; head !== undefined && pacer.isLate(head); head = this.waiting.first) {
      this.waiting.remove(head);
      this.late.insert(head);
    }
  }

  /** Admits one that has aged, to be planned with those that run late; false: it holds up all who wait for
   *  batch slots, memory or rows. One that runs late already goes before it. */
  #admitAged(head: Sequence, late: Sequence[]): boolean {
    if (late.length > 0) return true;
    if (!this.#mayJoin(head) || !this.#admit(head)) return false;
    this.#run(head);
    late.push(head);
    return true;
  }

  /** Takes the first of a queue into the step; false: not now. */
  #start(head: Sequence, plan: StepPlan): boolean {
    if (plan.rowRoom === 0 || plan.sampleRoom === 0 || !this.#mayJoin(head) || !this.#admit(head))
      return false;
    this.#run(head);
    this.#planChunk(head, plan);
    return true;
  }

  #run(head: Sequence): void {
    this.waiting.remove(head);
    this.late.remove(head);
    head.state = 'running';
    this.running.insert(head);
    this.#announce(head);
  }

  #mayJoin(head: Sequence): boolean {
    return this.#options.pacer?.mayJoin(head, this.running.items) ?? true;
  }

  #admit(head: Sequence): boolean {
    const { request } = head;
    const seated = [head, ...request.forks];
    if (seated.length > this.#freeBatchSlots.length) return false;
    const tokenCount = request.forks.length > 0 ? head.promptCount : head.knownCount;
    const admitted = this.#memory.admit(head, {
      tokenCount,
      // one position is computed, for its logits
      reusableTokenCount: request.promptLogprobs === undefined ? tokenCount - 1 : 0,
      spareBlockCount: this.spareBlockCount,
    });
    if (admitted) for (const choice of seated) this.takeBatchSlot(choice);
    return admitted;
  }

  #announce(head: Sequence): void {
    const { request, cachedCount } = head;
    if (request.mode === 'prefill') this.#hooks.onPrefillStart?.(request.id, cachedCount);
    if (request.isCachedReported) return;
    request.isCachedReported = true;
    this.counters.prefixHitToken += cachedCount;
    this.counters.prefixQueryToken += head.promptCount;
    this.events.push({ kind: 'cached', requestId: request.id, cachedTokenCount: cachedCount });
  }

  /** The next rows of a sequence that is behind its tokens. */
  #planChunk(sequence: Sequence, plan: StepPlan): void {
    const { request } = sequence;
    const goal = request.forks.length > 0 ? sequence.promptCount : sequence.tokenCount;
    const drawing = choicesDrawingAt(sequence, goal);
    const first = sequence.computedCount;
    const end = first + this.#chunkTokenCount(sequence, goal, drawing, plan);
    if (end === first || !this.#makeWritable(sequence, end, plan)) return;
    const row = plan.addEntry(sequence, first, end);
    sequence.advance(end);
    if (request.promptLogprobs !== undefined) this.#planScores(sequence, first, row, plan);
    if (request.mode === 'prefill') plan.addHandOver(sequence, first, end);
    if (end < goal) return;
    this.#fork(sequence, plan);
    for (const choice of drawing) plan.addDraw(choice, row + end - first - 1);
    if (request.mode === 'prefill') this.#hold(sequence);
  }

  /** As many positions as the budget, the chunk limit and the rows of logits allow. */
  #chunkTokenCount(sequence: Sequence, goal: number, drawing: readonly Sequence[], plan: StepPlan): number {
    const leftCount = goal - sequence.computedCount;
    // each position but the last may need a row of logits
    const isScored = sequence.request.promptLogprobs !== undefined;
    const count = Math.min(
      leftCount,
      this.#options.prefillChunkTokenCount,
      plan.rowRoom,
      isScored ? plan.sampleRoom : leftCount,
    );
    const sampleCount = (isScored ? count - 1 : 0) + drawing.length;
    const canDraw = sampleCount <= plan.sampleRoom && drawing.every((choice) => choice.canDraw);
    // the last position waits for room for its draws, and for their masks
    return count === leftCount && !canDraw ? count - 1 : count;
  }

  /** Prompt log-probabilities: the logits at a position score the token after it. */
  #planScores(sequence: Sequence, first: number, row: number, plan: StepPlan): void {
    const end = Math.min(sequence.computedCount, sequence.promptCount - 1);
    for (let p = first; p < end; p++)
      plan.addScore(sequence, row + p - first, p + 1, sequence.tokenAt(p + 1));
  }

  /** The prompt is enqueued: the other choices share its blocks and run from here on. */
  #fork(leader: Sequence, plan: StepPlan): void {
    const { request } = leader;
    for (const choice of request.forks) {
      this.#memory.fork(leader, choice, leader.promptCount);
      choice.state = 'running';
      choice.planNumber = plan.number; // its tail reads the shared block as it is after this step
      this.running.insert(choice);
    }
    request.forks = [];
  }

  #hold(sequence: Sequence): void {
    this.running.remove(sequence);
    this.giveBatchSlot(sequence);
    sequence.state = 'held';
  }

  /** Gets the blocks for positions up to `endToken`, preempting later sequences if it must; false: not this
   *  step. */
  #makeWritable(sequence: Sequence, endToken: number, plan: StepPlan): boolean {
    const missing = this.#memory.missingCount(sequence, endToken);
    while (missing > this.#memory.blocks.availableCount) {
      if (this.leaving.size > 0) return false; // their blocks come back when the steps in flight have ended
      const victim = this.running.items.findLast(
        (candidate) => candidate.planNumber !== plan.number && candidate.request.mode !== 'prefill',
      );
      if (victim === undefined || compareOrder(victim, sequence) <= 0) return false;
      this.#preempt(victim);
    }
    this.#memory.grow(sequence, endToken, plan);
    return true;
  }

  #preempt(victim: Sequence): void {
    this.counters.preemption++;
    this.running.remove(victim);
    victim.state = 'draining';
    this.leaving.add(victim);
    this.settle(victim);
  }
}

/** May be part of the next step: has tokens to compute, more to draw, and its last token where the packer
 *  needs it. */
function isReady(sequence: Sequence): boolean {
  const { request } = sequence;
  if (sequence.pendingCount > 0 && request.needsHistory) return false;
  return sequence.computedCount < sequence.promptCount || sequence.drawCount < request.outputLimit;
}

/** Who draws a token from the logits before position `goal`: choices that have exactly the tokens before
 *  it. */
function choicesDrawingAt(sequence: Sequence, goal: number): readonly Sequence[] {
  const { request } = sequence;
  if (request.outputLimit === 0) return [];
  if (request.mode === 'prefill')
    return request.choices.filter((choice) => choice.state !== 'ended' && choice.knownCount === goal);
  return [sequence, ...request.forks].filter(
    (choice) => choice.knownCount === goal && choice.state !== 'ended',
  );
}
