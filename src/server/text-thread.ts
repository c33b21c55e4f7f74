/** A thread that runs one model folder's tokenizer and chat template, with limits on time and memory. Made by
 *  text-service.ts.
 *  Invariant: a job is answered or fails within its limit; a thread that passed a limit is ended and takes no
 *  more. */
import { Worker } from 'node:worker_threads';
import type { Clock, TimerHandle } from '../base/clock.js';
import { fromWire, ModelError, TwostrokeError } from '../base/errors.js';
import type { LoadAnswer, TextAnswer, TextJob } from './text-jobs.js';

interface TextThreadOptions {
  /** The model's. */
  readonly folder: string;
  /** The built text-thread-entry.js. */
  readonly entry: URL;
  readonly clock: Clock;
  readonly loadLimitMs: number;
  readonly memoryLimitMb: number;
}

const nameOf: Readonly<Record<TextJob['kind'], string>> = {
  chat: "the model's chat template or tokenizer",
  encode: "the model's tokenizer",
  decode: "the model's tokenizer",
  shape: 'making a grammar of the schema or pattern',
};

interface Waiter {
  resolve(message: unknown): void;
  reject(error: Error): void;
  readonly timer: TimerHandle;
}

export class TextThread {
  /** Rejects when the folder's tokenizer or template cannot be used. */
  readonly loaded: Promise<Extract<LoadAnswer, { kind: 'loaded' }>>;
  readonly #options: TextThreadOptions;
  readonly #worker: Worker;
  #waiter: Waiter | null = null;
  #isEnded = false;

  constructor(options: TextThreadOptions) {
    this.#options = options;
    const { entry, folder, memoryLimitMb } = options;
    this.#worker = new Worker(entry, {
      workerData: folder,
      execArgv: [], // some of a program's own (`--input-type`) no thread may have
      resourceLimits: { maxOldGenerationSizeMb: memoryLimitMb },
    });
    this.#worker.on('message', (message: unknown) => this.#settle((waiter) => waiter.resolve(message)));
    this.#worker.on('error', (error) => this.#end(this.#reason(error)));
    this.#worker.on('exit', () => this.#end(new TwostrokeError('unavailable', 'the text thread ended')));
    this.loaded = this.#load();
    this.loaded.catch(() => undefined); // whoever waits for it hears of it
  }

  get isEnded(): boolean {
    return this.#isEnded;
  }

  /** One job at a time, after `loaded`. */
  async run(job: TextJob, limitMs: number): Promise<TextAnswer> {
    const tooLong = () =>
      new TwostrokeError(
        'deadline_exceeded',
        `${nameOf[job.kind]} did not finish within ${(limitMs / 1000).toFixed(1)} s and was stopped`,
      );
    // first: what cannot be copied throws, and nothing waits for its answer
    if (!this.#isEnded) this.#worker.postMessage(job);
    return (await this.#answer(limitMs, tooLong)) as TextAnswer;
  }

  async close(): Promise<void> {
    this.#end(new TwostrokeError('unavailable', 'the server is shutting down'));
    await this.#worker.terminate();
  }

  async #load(): Promise<Extract<LoadAnswer, { kind: 'loaded' }>> {
    const { folder, loadLimitMs } = this.#options;
    const tooLong = () =>
      new ModelError(
        `${folder}: reading the tokenizer and the chat template did not finish within ${loadLimitMs / 1000} s`,
      );
    const answer = (await this.#answer(loadLimitMs, tooLong)) as LoadAnswer;
    if (answer.kind === 'loaded') return answer;
    const error = fromWire(answer.error);
    this.#end(error);
    throw error;
  }

  /** What the thread says next. It keeps the process alive only meanwhile. */
  #answer(limitMs: number, tooLong: () => Error): Promise<unknown> {
    if (this.#isEnded) return Promise.reject(new TwostrokeError('unavailable', 'the text thread ended'));
    this.#worker.ref();
    return new Promise((resolve, reject) => {
      this.#waiter = {
        resolve,
        reject,
        timer: this.#options.clock.after(limitMs, () => this.#end(tooLong())),
      };
    });
  }

  #settle(tell: (waiter: Waiter) => void): void {
    const waiter = this.#waiter;
    this.#waiter = null;
    this.#worker.unref();
    waiter?.timer.cancel();
    if (waiter !== null) tell(waiter);
  }

  #end(error: Error): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#settle((waiter) => waiter.reject(error));
    void this.#worker.terminate();
  }

  #reason(error: unknown): Error {
    const { code, message } = error as { readonly code?: string; readonly message?: string };
    if (code !== 'ERR_WORKER_OUT_OF_MEMORY')
      return new TwostrokeError('internal', `the text thread failed: ${message}`);
    return new ModelError(
      `the model's chat template or tokenizer needed more than ${this.#options.memoryLimitMb} MiB and was stopped`,
    );
  }
}
