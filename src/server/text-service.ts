/** Chats and texts → token ids, off the event loop: what a model folder's template and tokenizer do with what
 *  clients send may take for ever. Made by served-model.ts (threads) or tests (direct); used by prompt.ts and
 *  tokenize.ts. Invariant: every call ends within its limit, and one that passes it takes no other with it.
 *  Two threads:
 *
 *    quick    short jobs, one after another
 *    slow     long ones, and every job of a kind that was stopped last time; short ones too when it is free
 *  */
import { type Clock, systemClock } from '../base/clock.js';
import { fromWire, TwostrokeError } from '../base/errors.js';
import type { TokenId } from '../base/ids.js';
import { OverloadedError } from '../control/admission.js';
import type { Shape } from '../grammar/shapes.js';
import { Detokenizer, unpackTokens } from '../model/detokenizer.js';
import type { EncodeOptions } from '../model/tokenizer.js';
import {
  type Chat,
  type LoadAnswer,
  type LoadedText,
  runJob,
  type TextAnswer,
  type TextJob,
  unitCountOf,
} from './text-jobs.js';
import { TextThread } from './text-thread.js';

export abstract class TextService {
  /** null: the model has no chat template. */
  abstract readonly templateSource: string | null;

  get hasChatTemplate(): boolean {
    return this.templateSource !== null;
  }

  protected abstract run(job: TextJob): Promise<TextAnswer>;
  abstract close(): Promise<void>;

  async encode(texts: readonly string[], options: EncodeOptions): Promise<readonly Int32Array[]> {
    return expected('ids', await this.run({ kind: 'encode', texts, options })).ids;
  }

  /** @throws InvalidRequestError for messages that the template refuses, or a text of more than
   *  `unitCountMax`. */
  async encodeChat(chat: Chat, options: EncodeOptions, unitCountMax: number): Promise<Int32Array> {
    return (
      expected('ids', await this.run({ kind: 'chat', chat, options, unitCountMax })).ids[0] ??
      new Int32Array()
    );
  }

  /** As packGrammar. @throws InvalidRequestError naming what cannot be enforced. */
  async packShape(shape: Shape, param: string): Promise<string> {
    return expected('grammar', await this.run({ kind: 'shape', shape, param })).grammar;
  }

  async decode(lists: readonly (readonly TokenId[])[]): Promise<readonly string[]> {
    return expected(
      'texts',
      await this.run({ kind: 'decode', ids: lists.map((ids) => Int32Array.from(ids)) }),
    ).texts;
  }
}

function expected<K extends TextAnswer['kind']>(
  kind: K,
  answer: TextAnswer,
): Extract<TextAnswer, { kind: K }> {
  if (answer.kind === 'error') throw fromWire(answer.error);
  if (answer.kind !== kind)
    throw new TwostrokeError('internal', `the text thread answered ${answer.kind}, not ${kind}`);
  return answer as Extract<TextAnswer, { kind: K }>;
}

/** Everything on the caller's thread. */
export class DirectText extends TextService {
  readonly #text: LoadedText;

  constructor(text: LoadedText) {
    super();
    this.#text = text;
  }

  get templateSource(): string | null {
    return this.#text.chatTemplate?.source ?? null;
  }

  protected async run(job: TextJob): Promise<TextAnswer> {
    return runJob(this.#text, job);
  }

  async close(): Promise<void> {}
}

export interface TextServiceOptions {
  readonly folder: string;
  /** The built text-thread-entry.js. */
  readonly entry: URL;
  readonly clock?: Clock;
  readonly loadLimitMs?: number;
  /** Of a short job; a long one has as much more as four times its honest work. */
  readonly runLimitMs?: number;
  readonly memoryLimitMb?: number;
}

/** About 5 ms of work at 1 µs a character. */
const shortUnitCount = 4096;
const unitsPerMs = 1000;
/** Of waiting jobs together, about half a minute of work: what comes on top is refused and may come again. */
const waitingUnitsMax = 2 ** 25;
/** What a job costs however short it is. */
const jobUnitsMin = 256;

interface QueuedJob {
  readonly job: TextJob;
  readonly unitCount: number;
  resolve(answer: TextAnswer): void;
  reject(error: unknown): void;
}

type Loaded = Extract<LoadAnswer, { kind: 'loaded' }>;

interface Lane {
  thread: TextThread | null;
  isBusy: boolean;
  readonly queue: QueuedJob[];
}

export class ThreadedText extends TextService {
  readonly detokenizer: Detokenizer;
  readonly templateSource: string | null;
  /** The tokenizer's own; null: it names none. */
  readonly endTokenId: TokenId | null;
  readonly #makeThread: () => TextThread;
  readonly #runLimitMs: number;
  readonly #quick: Lane;
  readonly #slow: Lane = { thread: null, isBusy: false, queue: [] };
  readonly #stoppedKinds = new Set<TextJob['kind']>();
  #waitingUnits = 0;
  #isClosed = false;

  /** @throws ModelError for a tokenizer or template that cannot be used, or takes too long to load. */
  static async start(options: TextServiceOptions): Promise<ThreadedText> {
    const { folder, entry, clock = systemClock } = options;
    const { loadLimitMs = 30_000, runLimitMs = 2000, memoryLimitMb = 1024 } = options;
    const makeThread = () => new TextThread({ folder, entry, clock, loadLimitMs, memoryLimitMb });
    const first = makeThread();
    return new ThreadedText(first, await first.loaded, makeThread, runLimitMs);
  }

  private constructor(
    first: TextThread,
    { tokens, templateSource, endTokenId }: Loaded,
    makeThread: () => TextThread,
    runLimitMs: number,
  ) {
    super();
    this.detokenizer = new Detokenizer(unpackTokens(tokens));
    this.endTokenId = endTokenId;
    this.templateSource = templateSource;
    this.#makeThread = makeThread;
    this.#runLimitMs = runLimitMs;
    this.#quick = { thread: first, isBusy: false, queue: [] };
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    for (const lane of [this.#quick, this.#slow]) {
      for (const { reject } of lane.queue.splice(0)) reject(closedError());
      await lane.thread?.close();
    }
  }

  protected run(job: TextJob): Promise<TextAnswer> {
    if (this.#isClosed) return Promise.reject(closedError());
    const unitCount = Math.max(jobUnitsMin, unitCountOf(job));
    const waitingCount = this.#quick.queue.length + this.#slow.queue.length;
    if (this.#waitingUnits > 0 && this.#waitingUnits + unitCount > waitingUnitsMax) {
      return Promise.reject(
        new OverloadedError(`${waitingCount} texts wait to be tokenised`, this.#waitingUnits / unitsPerMs),
      );
    }
    this.#waitingUnits += unitCount;
    const isSlow = unitCount > shortUnitCount || this.#stoppedKinds.has(job.kind);
    return new Promise((resolve, reject) => {
      (isSlow ? this.#slow : this.#quick).queue.push({ job, unitCount, resolve, reject });
      this.#dispatch();
    });
  }

  #dispatch(): void {
    if (this.#isClosed) return;
    if (!this.#quick.isBusy) this.#begin(this.#quick, this.#quick.queue.shift());
    if (this.#slow.isBusy) return;
    // It starts for a job of its own: most servers never need a second tokenizer in memory.
    this.#begin(
      this.#slow,
      this.#slow.queue.shift() ?? (this.#slow.thread === null ? undefined : this.#quick.queue.shift()),
    );
  }

  #begin(lane: Lane, queued: QueuedJob | undefined): void {
    if (queued === undefined) return;
    lane.isBusy = true;
    void this.#attempt(lane, queued).finally(() => {
      this.#waitingUnits -= queued.unitCount;
      // At once, so that the next job does not wait for a thread that has yet to load.
      if (lane.thread?.isEnded === true) lane.thread = this.#isClosed ? null : this.#makeThread();
      lane.isBusy = false;
      this.#dispatch();
    });
  }

  async #attempt(lane: Lane, { job, unitCount, resolve, reject }: QueuedJob): Promise<void> {
    lane.thread ??= this.#makeThread();
    const thread = lane.thread;
    try {
      await thread.loaded;
      const answer = await thread.run(job, this.#runLimitMs + (4 * unitCount) / unitsPerMs);
      this.#stoppedKinds.delete(job.kind);
      resolve(answer);
    } catch (error) {
      if (thread.isEnded) this.#isolate(job.kind);
      reject(error);
    }
  }

  /** From now on such jobs keep out of the quick lane: those that wait in it too, or each would hold it up as
   *  long as this one has. */
  #isolate(kind: TextJob['kind']): void {
    this.#stoppedKinds.add(kind);
    const waiting = this.#quick.queue.splice(0);
    for (const queued of waiting) (queued.job.kind === kind ? this.#slow : this.#quick).queue.push(queued);
  }
}

function closedError(): TwostrokeError {
  return new TwostrokeError('unavailable', 'the server is shutting down');
}
