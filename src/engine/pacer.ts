/** Chooses how many prompt tokens the next step may hold, so that the sequences that decode in it keep their
 *  time per output token. Used by scheduler.ts, which plans the step, and engine.ts, which tells it what
 *  steps took.
 *
 *  Each sequence has a schedule: its k-th token after the first is due k · TPOT after the first. What it is
 *  ahead of its schedule, its slack, may be spent on prompts. The loop is closed: slack is measured by the
 *  clock, so that an error of the step-time model shows as less slack and is made good by the steps that
 *  follow.
 *
 *      first token      |····TPOT····|····TPOT····|····TPOT····|    due
 *                       |··step··|····step····|··step··|▒▒▒▒▒▒▒|    slack
 *
 *  Where not even a block fits, steps without prompts save up for one with a block.
 *  Invariants: same steps, same clock, same answers; of `slackTokenCount` steps in a row with prompts waiting
 *  one takes some of them. */
import type { Clock } from '../base/clock.js';
import {
  aimedTpotShare,
  type Decodes,
  efficientChunk,
  leastPromptTokenCount,
  promptRoomWithin,
  slackTokenCount,
  stepWith,
} from '../router/paced-step.js';
import type { StepWork } from '../router/step-work.js';
import type { StepTimeModel } from './engine-options.js';
import type { Sequence } from './sequence.js';
import type { StepPlan } from './step-plan.js';

/** Who comes to decode with a delay, as all that are handed over, makes it good over so many tokens:
 *  sooner, and they leave no room for prompts. Who cannot make good what it is behind within so many,
 *  without prompts beside it, has missed its TPOT. */
const recoveryTokenCount = 64;
/** Steps between two looks at which chunk is efficient. */
const efficiencyEverySteps = 512;

interface Launched {
  readonly launchedMs: number;
  readonly predictedMs: number;
}

export class Pacer {
  readonly #model: StepTimeModel;
  readonly #clock: Clock;
  readonly #tokenBudget: number;
  readonly #predictMs = (work: StepWork) => this.#model.predictMs(work);
  readonly #inFlight: Launched[] = [];
  #lastEndMs = 0;
  #efficientTokenCount = 0;
  #stepsUntilLook = 0;
  /** In a row, with prompts waiting. */
  #promptlessSteps = 0;
  /** Of the step that is planned: when it starts, what it takes without prompts, and what a prompt token in
   *  it takes. */
  #startMs = 0;
  #decodes: Decodes = { count: 0, kvTokenCount: 0 };
  #msPerPromptToken = 0;

  constructor(model: StepTimeModel, clock: Clock, tokenBudget: number) {
    this.#model = model;
    this.#clock = clock;
    this.#tokenBudget = tokenBudget;
  }

  onLaunch(work: StepWork): void {
    this.#inFlight.push({ launchedMs: this.#clock.nowMs(), predictedMs: this.#model.predictMs(work) });
  }

  /** The oldest step in flight has ended. */
  onEnd(work: StepWork, ms: number): void {
    this.#inFlight.shift();
    this.#lastEndMs = this.#clock.nowMs();
    this.#model.observe(work, ms);
  }

  /** Prompt tokens for the step whose decodes have been planned. `firstPosition`: of the prompt that comes
   *  first. */
  promptRoom(plan: StepPlan, firstPosition: number): number {
    this.#startMs = this.#nextStartMs();
    this.#decodes = decodesOf(plan);
    const caps = this.#capsMs(plan);
    const most = this.#efficientChunk();
    const fitting = promptRoomWithin(this.#predictMs, this.#decodes, caps.spreadMs, { most, firstPosition });
    const room = fitting > 0 ? fitting : this.#roomForBlock(caps.wholeMs, firstPosition);
    this.#promptlessSteps = room > 0 ? 0 : this.#promptlessSteps + 1;
    const counted = Math.max(room, leastPromptTokenCount);
    this.#msPerPromptToken = this.#stepMs(counted, firstPosition) / counted;
    return room;
  }

  /** One block when what has been saved pays for it, or after so many steps without; else nothing. */
  #roomForBlock(capMs: number, firstPosition: number): number {
    const isDue = this.#promptlessSteps + 1 >= slackTokenCount;
    return isDue || this.#stepMs(leastPromptTokenCount, firstPosition) <= capMs ? leastPromptTokenCount : 0;
  }

  /** Its first token would come after it is due, though it were computed from this step on without a
   *  pause. */
  isLate(sequence: Sequence): boolean {
    const { deadlines } = sequence.request;
    if (deadlines === null || sequence.firstTokenMs !== null) return false;
    return this.#startMs + sequence.uncomputedCount * this.#msPerPromptToken > deadlines.firstTokenDueMs;
  }

  /** It has been late for so long that it gets a share of every step. */
  hasAged(sequence: Sequence, agingTtfts: number): boolean {
    const { deadlines } = sequence.request;
    return deadlines !== null && this.#startMs > deadlines.firstTokenDueMs + agingTtfts * deadlines.ttftMs;
  }

  /** Whether it can keep its TPOT beside all who decode here or will when their prompts are done. A late one
   *  has missed its SLO: it is let in when those that can keep theirs do so all the same. What could not even
   *  keep it alone may always start, and so may a hand-over's prompt, which decodes elsewhere. */
  mayJoin(head: Sequence, running: readonly Sequence[]): boolean {
    const { deadlines, mode, forks } = head.request;
    if (deadlines === null || mode === 'prefill') return true;
    let [count, kvTokenCount, leastTpotMs] = [0, 0, Number.POSITIVE_INFINITY];
    for (const sequence of running) {
      const { request, tokenCount } = sequence;
      if (request.mode === 'prefill') continue;
      const rowCount = 1 + request.forks.length;
      count += rowCount;
      kvTokenCount += rowCount * tokenCount;
      if (request.deadlines === null || sequence.missedTtft || this.isLate(sequence)) continue;
      leastTpotMs = Math.min(leastTpotMs, request.deadlines.tpotMs);
    }
    const aimMs = aimedTpotShare * (this.isLate(head) ? leastTpotMs : deadlines.tpotMs);
    const rowCount = 1 + forks.length;
    const together = this.#decodeMs(count + rowCount, kvTokenCount + rowCount * head.tokenCount);
    return together <= aimMs || this.#decodeMs(rowCount, rowCount * head.tokenCount) > aimMs;
  }

  /** When the step that is planned now can start: when those in flight have ended. */
  #nextStartMs(): number {
    let freeMs = this.#lastEndMs;
    for (const { launchedMs, predictedMs } of this.#inFlight)
      freeMs = Math.max(freeMs, launchedMs) + predictedMs;
    return Math.max(freeMs, this.#clock.nowMs());
  }

  /** What the step may take: the least that any sequence in it allows, its slack spread over steps to come,
   *  or spent whole. Who has missed its TTFT or its TPOT allows anything. */
  #capsMs(plan: StepPlan): { readonly spreadMs: number; readonly wholeMs: number } {
    const { count, kvTokenCount } = this.#decodes;
    const baseMs = this.#decodeMs(count, kvTokenCount);
    let spreadMs = Number.POSITIVE_INFINITY;
    let wholeMs = Number.POSITIVE_INFINITY;
    for (const { sequence } of plan.entries) {
      const { deadlines } = sequence.request;
      if (deadlines === null || sequence.missedTtft) continue;
      const firstMs = sequence.firstTokenMs ?? this.#startMs;
      // tokens after the first before this step's, whose draw is planned already
      const laterCount = sequence.drawCount - 2;
      const leftCount = Math.max(1, sequence.request.outputLimit - sequence.drawCount + 1);
      const slackMs = firstMs + laterCount * deadlines.tpotMs - this.#startMs;
      if (slackMs + Math.min(leftCount, recoveryTokenCount) * (deadlines.tpotMs - baseMs) < 0) continue;
      const aimMs = aimedTpotShare * deadlines.tpotMs;
      const aimedSlackMs = slackMs - laterCount * (deadlines.tpotMs - aimMs);
      sequence.delay ??= { ms: Math.max(0, -aimedSlackMs), tokenCount: laterCount };
      const { delay } = sequence;
      const overCount = Math.min(recoveryTokenCount, leftCount + laterCount - delay.tokenCount);
      const paidShare = Math.min(1, (laterCount - delay.tokenCount) / overCount);
      const payMs = paidShare < 1 ? delay.ms / overCount : 0;
      const aheadMs = aimedSlackMs + (1 - paidShare) * delay.ms;
      spreadMs = Math.min(spreadMs, aimMs - payMs + aheadMs / Math.min(slackTokenCount, leftCount));
      wholeMs = Math.min(wholeMs, aimMs - payMs + aheadMs);
    }
    return { spreadMs, wholeMs };
  }

  #efficientChunk(): number {
    if (this.#stepsUntilLook-- > 0) return this.#efficientTokenCount;
    this.#stepsUntilLook = efficiencyEverySteps;
    this.#efficientTokenCount = efficientChunk(this.#predictMs, this.#tokenBudget);
    return this.#efficientTokenCount;
  }

  #stepMs(promptTokenCount: number, firstPosition: number): number {
    return this.#model.predictMs(stepWith(this.#decodes, promptTokenCount, firstPosition));
  }

  #decodeMs(count: number, kvTokenCount: number): number {
    return count === 0 ? 0 : this.#model.predictMs(stepWith({ count, kvTokenCount }, 0));
  }
}

function decodesOf(plan: StepPlan): Decodes {
  let kvTokenCount = 0;
  for (const { endToken } of plan.entries) kvTokenCount += endToken;
  return { count: plan.entries.length, kvTokenCount };
}
