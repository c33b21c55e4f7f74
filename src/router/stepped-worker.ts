/** A worker of the replay: engine/scheduler.ts in numbers alone. Steps hold one row for each sequence that decodes and fill the rest of the
 *  token budget with prompts in order of arrival; each takes what the step cost says. Used by replay.ts, and by tests as the cost model's
 *  oracle. As in the engine, a step is planned when the one before it starts: who comes meanwhile waits for both.
 *  Steps of decoding alone are taken many at a time. */
import { assert } from '../base/assert.js';
import type { RequestId } from '../base/ids.js';
import type { CostParameters } from './cost-parameters.js';
import { stepMs } from './step-cost.js';
import { prefillPairCountOf } from './step-work.js';

/** A prompt in its queue. */
export interface SteppedPrompt {
  readonly promptTokenCount: number;
  computedCount: number;
  /** The step that begins now takes its first tokens. */
  readonly onStart: (nowMs: number) => void;
  /** Where it goes after its first token. */
  readonly onFirstToken: (nowMs: number) => void;
}

export interface SteppedSequence {
  readonly id: RequestId;
  kvTokenCount: number;
  /** Tokens until it ends; at least 1. */
  leftCount: number;
  readonly onTokens: (tokenCount: number, nowMs: number) => void;
  readonly onEnd: (nowMs: number) => void;
}

export class SteppedWorker {
  readonly #costs: CostParameters;
  readonly #prompts: SteppedPrompt[] = [];
  readonly #sequences: SteppedSequence[] = [];
  /** Come during the running step, and during the one before it. */
  #newcomers: (() => void)[] = [];
  #nextInLine: (() => void)[] = [];
  /** The running step, or steps: what becomes true when they end. */
  #running: {
    readonly endMs: number;
    readonly stepCount: number;
    readonly chunks: readonly number[];
    readonly rowCount: number;
  } | null = null;

  constructor(costs: CostParameters) {
    this.#costs = costs;
  }

  /** When what runs now ends; infinite: nothing runs. */
  get endMs(): number {
    return this.#running?.endMs ?? Number.POSITIVE_INFINITY;
  }

  addPrompt(prompt: SteppedPrompt, nowMs: number): void {
    this.#let(() => this.#prompts.push(prompt), nowMs);
  }

  /** Whose KV has come from elsewhere. */
  addSequence(sequence: SteppedSequence, nowMs: number): void {
    this.#let(() => this.#sequences.push(sequence), nowMs);
  }

  /** Whose prompt was computed here: part of the very next step. To be called in onFirstToken. */
  continueSequence(sequence: SteppedSequence): void {
    assert(sequence.leftCount >= 1, 'an ended sequence does not decode');
    this.#sequences.push(sequence);
  }

  /** At `endMs`: tells what the steps have made, and starts the next; decode-only steps in one go as far as `untilMs`. */
  finish(untilMs: number): void {
    const running = this.#running;
    assert(running !== null, 'nothing runs');
    const { endMs, stepCount, chunks, rowCount } = running;
    this.#advanceSequences(rowCount, stepCount, endMs);
    this.#advancePrompts(chunks, endMs);
    this.#running = null;
    for (const enter of this.#nextInLine) enter();
    this.#nextInLine = this.#newcomers;
    this.#newcomers = [];
    this.#start(endMs, untilMs);
  }

  #let(enter: () => void, nowMs: number): void {
    if (this.#running !== null) {
      this.#newcomers.push(enter);
      return;
    }
    enter();
    this.#start(nowMs, nowMs);
  }

  #start(nowMs: number, untilMs: number): void {
    if (this.#prompts.length + this.#sequences.length === 0) {
      for (const enter of this.#nextInLine) enter();
      this.#nextInLine = [];
    }
    const rowCount = this.#sequences.length;
    const { chunks, prefillTokenCount, prefillPairCount } = this.#takePrompts(nowMs);
    if (rowCount + prefillTokenCount === 0) return;
    let kvCount = 0;
    let leftMin = Number.POSITIVE_INFINITY;
    for (const { kvTokenCount, leftCount } of this.#sequences) {
      kvCount += kvTokenCount;
      leftMin = Math.min(leftMin, leftCount);
    }
    const work = { decodeCount: rowCount, decodeKvTokenCount: kvCount, prefillTokenCount, prefillPairCount };
    const ms = stepMs(this.#costs.step, work);
    const isRepeated = chunks.length === 0 && this.#nextInLine.length === 0;
    const stepCount = isRepeated ? Math.max(1, Math.min(leftMin, Math.floor((untilMs - nowMs) / ms))) : 1;
    this.#running = { endMs: nowMs + stepCount * ms, stepCount, chunks, rowCount };
  }

  /** Tokens of the first prompts in the queue that the next step has room for. */
  #takePrompts(nowMs: number) {
    const { tokenBudget, prefillChunkTokenCount } = this.#costs;
    const chunks: number[] = [];
    let [prefillTokenCount, prefillPairCount] = [0, 0];
    for (const { promptTokenCount, computedCount, onStart } of this.#prompts) {
      const room = tokenBudget - this.#sequences.length - prefillTokenCount;
      if (room <= 0) break;
      const count = Math.min(room, prefillChunkTokenCount, promptTokenCount - computedCount);
      if (computedCount === 0) onStart(nowMs);
      chunks.push(count);
      prefillTokenCount += count;
      prefillPairCount += prefillPairCountOf(computedCount, count);
    }
    return { chunks, prefillTokenCount, prefillPairCount };
  }

  /** The first `rowCount` were part of the steps; who came meanwhile was not. */
  #advanceSequences(rowCount: number, stepCount: number, nowMs: number): void {
    const ended: SteppedSequence[] = [];
    for (let i = 0; i < rowCount; i++) {
      const sequence = this.#sequences[i];
      if (sequence === undefined) continue;
      sequence.leftCount -= stepCount;
      sequence.kvTokenCount += stepCount;
      sequence.onTokens(stepCount, nowMs);
      if (sequence.leftCount <= 0) ended.push(sequence);
    }
    for (const sequence of ended) {
      this.#sequences.splice(this.#sequences.indexOf(sequence), 1);
      sequence.onEnd(nowMs);
    }
  }

  #advancePrompts(chunks: readonly number[], nowMs: number): void {
    const done: SteppedPrompt[] = [];
    for (const [index, count] of chunks.entries()) {
      const prompt = this.#prompts[index];
      if (prompt === undefined) continue;
      prompt.computedCount += count;
      if (prompt.computedCount >= prompt.promptTokenCount) done.push(prompt);
    }
    for (const prompt of done) {
      this.#prompts.splice(this.#prompts.indexOf(prompt), 1);
      prompt.onFirstToken(nowMs);
    }
  }
}
