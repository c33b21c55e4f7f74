/** What one attempt of a request adds to the loads of the workers it was routed to. Made by
 *  control/routing.ts.
 *
 *      placed             admitted          first token   last token, or the attempt has come to nothing
 *        │ memory is claimed  │ prompt queued   │ decodes     │
 *        │                    │ decode expected │             │ nothing is left
 *
 *  Invariant: `leave` takes away exactly what the placement still counts, whenever it comes. */
import type { RequestId } from '../base/ids.js';
import type { KvDemand } from './kv-growth.js';
import type { LengthDistribution } from './length-distribution.js';
import { type DecodeWork, negative, type PromptWork, type WorkerLoad } from './worker-load.js';

interface PlacementOptions {
  readonly id: RequestId;
  readonly prompt: PromptWork;
  readonly promptTokenCount: number;
  readonly choiceCount: number;
  /** Of each choice's output. */
  readonly lengths: Pick<LengthDistribution, 'mean' | 'remainingMean'>;
  /** Tokens that earlier attempts have generated. */
  readonly generatedTokenCount: number;
  /** Memory that it is expected to need where it decodes, as things are now. */
  readonly demandNow: () => KvDemand;
  readonly prefill: WorkerLoad;
  /** The same load when both phases run on one worker. */
  readonly decode: WorkerLoad;
}

export class Placement {
  readonly #options: PlacementOptions;
  /** What `decode` counts of it, as expected or as decoding. */
  #work: DecodeWork;
  /** What each side counts of its memory; null: nothing. */
  #demand: KvDemand;
  #promptDemand: KvDemand | null = null;
  #phase: 'waiting' | 'queued' | 'decoding' | 'left' = 'waiting';
  #tokenCount: number;
  /** At this many tokens what is expected to come is asked anew. */
  #nextLookCount: number;

  constructor(options: PlacementOptions) {
    const { choiceCount, promptTokenCount, generatedTokenCount } = options;
    this.#options = options;
    this.#tokenCount = generatedTokenCount;
    this.#nextLookCount = generatedTokenCount + choiceCount;
    const kvTokenCount = choiceCount * promptTokenCount + generatedTokenCount;
    this.#work = { rowCount: choiceCount, kvTokenCount, remainingTokenCount: this.#expectedRest() };
    this.#demand = options.demandNow();
    options.decode.changeClaim(null, this.#demand);
    options.prefill.waitForKv(options.prompt);
  }

  /** There is memory where it will decode: it may go to its workers. */
  onAdmitted(nowMs: number): void {
    const { id, prefill, decode, prompt } = this.#options;
    if (this.#phase !== 'waiting') return;
    this.#phase = 'queued';
    if (prefill !== decode) this.#promptDemand = { tokenCount: prompt.tokenCount, variance: 0 };
    prefill.stopWaitingForKv(prompt);
    prefill.addPrompt(id, prompt, nowMs);
    prefill.changeClaim(null, this.#promptDemand);
    decode.changeExpected(this.#work);
  }

  /** The worker has begun with its prompt. */
  onStarted(nowMs: number): void {
    const { prefill, id } = this.#options;
    if (this.#phase !== 'queued') return;
    prefill.startPrompt(id, nowMs);
  }

  /** Tokens have come, of any of its choices. */
  onTokens(tokenCount: number, nowMs: number): void {
    if (this.#phase === 'left' || this.#phase === 'waiting') return;
    if (this.#phase === 'queued') this.#startDecoding(nowMs);
    this.#tokenCount += tokenCount;
    const { rowCount, kvTokenCount, remainingTokenCount } = this.#work;
    const isDue = this.#tokenCount >= this.#nextLookCount;
    const rest = isDue ? this.#expectedRest() : Math.max(rowCount, remainingTokenCount - tokenCount);
    if (isDue) this.#lookAgain();
    this.#work = { rowCount, kvTokenCount: kvTokenCount + tokenCount, remainingTokenCount: rest };
    const change = { rowCount: 0, kvTokenCount: tokenCount, remainingTokenCount: rest - remainingTokenCount };
    this.#options.decode.changeDecoding(change, nowMs);
  }

  leave(nowMs: number): void {
    const { prefill, decode, id, prompt } = this.#options;
    if (this.#phase === 'waiting') prefill.stopWaitingForKv(prompt);
    if (this.#phase !== 'left') decode.changeClaim(this.#demand, null);
    if (this.#phase === 'queued') {
      prefill.removePrompt(id);
      prefill.changeClaim(this.#promptDemand, null);
      decode.changeExpected(negative(this.#work));
    } else if (this.#phase === 'decoding') decode.changeDecoding(negative(this.#work), nowMs);
    this.#phase = 'left';
  }

  #startDecoding(nowMs: number): void {
    const { prefill, decode, id } = this.#options;
    this.#phase = 'decoding';
    prefill.removePrompt(id);
    prefill.changeClaim(this.#promptDemand, null);
    decode.changeExpected(negative(this.#work));
    decode.changeDecoding(this.#work, nowMs);
  }

  /** The next time when it is half as long again. */
  #lookAgain(): void {
    const { decode, demandNow } = this.#options;
    this.#nextLookCount = Math.ceil(this.#tokenCount * 1.5);
    const demand = demandNow();
    decode.changeClaim(this.#demand, demand);
    this.#demand = demand;
  }

  /** Of all choices together, given that each goes on; at least one token each. */
  #expectedRest(): number {
    const { lengths, choiceCount } = this.#options;
    const each =
      this.#tokenCount === 0
        ? lengths.mean
        : lengths.remainingMean(Math.floor(this.#tokenCount / choiceCount));
    return choiceCount * Math.max(1, each);
  }
}
