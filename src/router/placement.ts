/** One attempt of a request, as the workers it was routed to feel it: keeps their WorkerLoads up to date. Made by control/coordinator, and by
 *  replay.ts.
 *
 *      placed          first token            last token, or the attempt has come to nothing
 *        │ prompt queued   │ decodes                │
 *        │ decode expected │                        │ nothing is left
 *
 *  Invariant: `leave` takes away exactly what the placement still counts, whenever it comes. */
import type { RequestId } from '../base/ids.js';
import type { LengthDistribution } from './length-distribution.js';
import { type DecodeWork, negative, type PromptWork, type WorkerLoad } from './worker-load.js';

export interface PlacementOptions {
  readonly id: RequestId;
  readonly prompt: PromptWork;
  readonly promptTokenCount: number;
  readonly choiceCount: number;
  /** Of each choice's output. */
  readonly lengths: Pick<LengthDistribution, 'mean' | 'remainingMean'>;
  /** Tokens that earlier attempts have generated. */
  readonly generatedTokenCount: number;
  readonly prefill: WorkerLoad;
  /** The same load when both strokes run on one worker. */
  readonly decode: WorkerLoad;
}

export class Placement {
  readonly #options: PlacementOptions;
  /** What `decode` counts of it, as expected or as decoding. */
  #work: DecodeWork;
  #phase: 'queued' | 'decoding' | 'left' = 'queued';
  #tokenCount: number;
  /** At this many tokens what is expected to come is asked anew. */
  #nextLookCount: number;

  constructor(options: PlacementOptions, nowMs: number) {
    const { choiceCount, promptTokenCount, generatedTokenCount } = options;
    this.#options = options;
    this.#tokenCount = generatedTokenCount;
    this.#nextLookCount = generatedTokenCount + choiceCount;
    const kvTokenCount = choiceCount * promptTokenCount + generatedTokenCount;
    this.#work = { rowCount: choiceCount, kvTokenCount, remainingTokenCount: this.#expectedRest() };
    options.prefill.addPrompt(options.id, options.prompt, nowMs);
    options.decode.changeExpected(this.#work);
  }

  /** The worker has begun with its prompt. */
  onStarted(nowMs: number): void {
    const { prefill, id } = this.#options;
    if (this.#phase !== 'queued') return;
    prefill.report(nowMs);
    prefill.startPrompt(id, nowMs);
  }

  /** Tokens have come, of any of its choices. */
  onTokens(tokenCount: number, nowMs: number): void {
    if (this.#phase === 'left') return;
    if (this.#phase === 'queued') this.#startDecoding(nowMs);
    else this.#options.decode.report(nowMs);
    this.#tokenCount += tokenCount;
    const { rowCount, kvTokenCount, remainingTokenCount } = this.#work;
    const isDue = this.#tokenCount >= this.#nextLookCount;
    const rest = isDue ? this.#expectedRest() : Math.max(rowCount, remainingTokenCount - tokenCount);
    if (isDue) this.#nextLookCount = Math.ceil(this.#tokenCount * 1.5);
    this.#work = { rowCount, kvTokenCount: kvTokenCount + tokenCount, remainingTokenCount: rest };
    const change = { rowCount: 0, kvTokenCount: tokenCount, remainingTokenCount: rest - remainingTokenCount };
    this.#options.decode.changeDecoding(change, nowMs);
  }

  leave(nowMs: number): void {
    const { prefill, decode, id } = this.#options;
    if (this.#phase === 'queued') {
      prefill.removePrompt(id, nowMs);
      decode.changeExpected(negative(this.#work));
    } else if (this.#phase === 'decoding') decode.changeDecoding(negative(this.#work), nowMs);
    this.#phase = 'left';
  }

  #startDecoding(nowMs: number): void {
    const { prefill, decode, id } = this.#options;
    this.#phase = 'decoding';
    prefill.removePrompt(id, nowMs);
    prefill.report(nowMs);
    decode.changeExpected(negative(this.#work));
    decode.changeDecoding(this.#work, nowMs);
  }

  /** Of all choices together, given that each goes on; at least one token each. */
  #expectedRest(): number {
    const { lengths, choiceCount } = this.#options;
    const each = this.#tokenCount === 0 ? lengths.mean : lengths.remainingMean(Math.floor(this.#tokenCount / choiceCount));
    return choiceCount * Math.max(1, each);
  }
}
