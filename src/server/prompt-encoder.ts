/** Text → token ids without holding up the event loop: short texts at once, long ones on a thread of their own.
 *  Made by cli/serve.ts (threaded) or tests (direct); used by prompt.ts. Invariant: both give the same ids. */
import { Worker } from 'node:worker_threads';
import { TwostrokeError } from '../base/errors.js';
import type { TokenId } from '../base/ids.js';
import { OverloadedError } from '../control/admission.js';
import type { EncodeOptions, Tokenizer } from '../model/tokenizer.js';

export interface PromptEncoder {
  encode(text: string, options: EncodeOptions): Promise<readonly TokenId[]>;
  close(): Promise<void>;
}

/** Everything on the caller's thread. */
export function directEncoder(tokenizer: Tokenizer): PromptEncoder {
  return { encode: async (text, options) => tokenizer.encode(text, options), close: async () => undefined };
}

/** About 5 ms of work at 1 µs a character. */
const shortTextUnits = 4096;

export interface EncodeJob {
  readonly jobId: number;
  readonly text: string;
  readonly options: EncodeOptions;
}

/** Of waiting texts together, about half a minute of work: what comes on top is told to come again. */
const waitingUnitsMax = 2 ** 25;
const unitsPerMs = 1000;

/** What encoder-thread.ts answers. */
export type EncodeAnswer =
  | { readonly jobId: number; readonly ids: Int32Array }
  | { readonly jobId: number; readonly message: string };

interface Waiter {
  readonly unitCount: number;
  resolve(ids: readonly TokenId[]): void;
  reject(error: Error): void;
}

export class ThreadEncoder implements PromptEncoder {
  readonly #tokenizer: Tokenizer;
  readonly #entry: URL;
  readonly #folder: string;
  readonly #waiters = new Map<number, Waiter>();
  #worker: Worker | null = null;
  #jobCount = 0;
  #waitingUnits = 0;

  /** The thread starts with the first long text. `entry`: the built encoder-thread.js. */
  constructor(tokenizer: Tokenizer, folder: string, entry: URL = new URL('./encoder-thread.js', import.meta.url)) {
    this.#tokenizer = tokenizer;
    this.#folder = folder;
    this.#entry = entry;
  }

  async encode(text: string, options: EncodeOptions): Promise<readonly TokenId[]> {
    if (text.length <= shortTextUnits) return this.#tokenizer.encode(text, options);
    const unitCount = text.length;
    if (this.#waiters.size > 0 && this.#waitingUnits + unitCount > waitingUnitsMax)
      throw new OverloadedError(`${this.#waiters.size} long texts wait to be tokenised`, this.#waitingUnits / unitsPerMs);
    this.#worker ??= this.#start();
    const job: EncodeJob = { jobId: this.#jobCount++, text, options };
    const answered = new Promise<readonly TokenId[]>((resolve, reject) =>
      this.#waiters.set(job.jobId, { unitCount, resolve, reject }),
    );
    this.#waitingUnits += unitCount;
    this.#worker.postMessage(job);
    return answered;
  }

  async close(): Promise<void> {
    await this.#worker?.terminate();
  }

  #start(): Worker {
    const worker = new Worker(this.#entry, { workerData: this.#folder });
    worker.unref();
    worker.on('message', (answer: EncodeAnswer) => this.#settle(answer));
    worker.on('error', (error) => this.#failAll(worker, error.message));
    worker.on('exit', () => this.#failAll(worker, 'the tokenizer thread ended'));
    return worker;
  }

  #settle(answer: EncodeAnswer): void {
    const waiter = this.#waiters.get(answer.jobId);
    this.#waiters.delete(answer.jobId);
    this.#waitingUnits -= waiter?.unitCount ?? 0;
    if ('ids' in answer) waiter?.resolve(Array.from(answer.ids));
    else waiter?.reject(new TwostrokeError('internal', `tokenizing failed: ${answer.message}`));
  }

  /** The next long text starts a new thread. One that has failed ends a moment later: by then another may have its work. */
  #failAll(worker: Worker, reason: string): void {
    if (this.#worker !== worker) return;
    this.#worker = null;
    this.#waitingUnits = 0;
    for (const waiter of this.#waiters.values()) waiter.reject(new TwostrokeError('unavailable', reason));
    this.#waiters.clear();
  }
}
