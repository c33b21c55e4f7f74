/** Masks from a thread of their own, beside the steps: it has the model's vocabulary and the grammars.
 *  Made by load-engine.ts; the thread starts with the first grammar. Invariants: a grammar that takes the
 *  thread too long or too much memory fails alone: the thread is replaced and all other texts go on from
 *  their tokens; whoever is asked for a mask gets it or an error. */
import { Worker } from 'node:worker_threads';
import type { Clock, TimerHandle } from '../../base/clock.js';
import { fromWire, InvalidRequestError, TwostrokeError } from '../../base/errors.js';
import type { TokenId } from '../../base/ids.js';
import type { ChoiceMasks, MaskRequest, MaskSource } from '../../engine/mask-source.js';
import { atNothing, type MaskAnswer, type MaskItem, type MaskThreadData } from './mask-messages.js';

export interface MaskThreadOptions extends Omit<MaskThreadData, 'current'> {
  readonly clock: Clock;
  /** The built mask-thread-entry.js. Absent: this package's own. */
  readonly entry?: URL;
  /** How long the thread may say nothing while it is asked for something. */
  readonly silenceMsMax?: number;
  readonly memoryLimitMb?: number;
}

/** Built, also when this runs from source. */
const ownEntry = new URL(
  import.meta.url.endsWith('.ts')
    ? '../../../dist/src/worker/masks/mask-thread-entry.js'
    : './mask-thread-entry.js',
  import.meta.url,
);
/** A vocabulary is read in it too. */
const silenceMsMaxDefault = 20_000;
const memoryLimitMbDefault = 1024;

export class MaskThread implements MaskSource {
  readonly #options: MaskThreadOptions;
  readonly #texts = new Map<number, Text>();
  #worker: Worker | null = null;
  #batch: MaskItem[] = [];
  #nextId = 0;
  #timer: TimerHandle | null = null;
  readonly #current = new Int32Array(new SharedArrayBuffer(4));
  #failureCount = 0;
  #wake: (() => void)[] = [];
  #isClosed = false;

  constructor(options: MaskThreadOptions) {
    this.#options = options;
  }

  get computingCount(): number {
    let count = 0;
    for (const text of this.#texts.values()) if (text.isComputing) count++;
    return count;
  }

  get failureCount(): number {
    return this.#failureCount;
  }

  arrival(): Promise<void> {
    return new Promise((resolve) => this.#wake.push(resolve));
  }

  prepare(grammar: string): void {
    this.#send({ kind: 'prepare', grammar });
  }

  open(request: MaskRequest): ChoiceMasks {
    const text = new Text(this.#nextId++, request, {
      accept: (id, tokenId) => this.#send({ kind: 'accept', id, tokenId }),
      close: (id) => {
        if (this.#texts.delete(id)) this.#send({ kind: 'close', id });
      },
    });
    this.#texts.set(text.id, text);
    this.#send(text.openItem());
    return text;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#timer?.cancel();
    await this.#worker?.terminate();
  }

  /** Everything of one turn of the event loop goes in one message. */
  #send(item: MaskItem): void {
    if (this.#isClosed) return;
    if (this.#batch.length === 0) queueMicrotask(() => this.#flush());
    this.#batch.push(item);
  }

  #flush(): void {
    if (this.#isClosed) return;
    this.#worker ??= this.#start();
    this.#worker.postMessage(this.#batch);
    this.#batch = [];
    this.#watch();
  }

  #start(): Worker {
    const { folder, vocabCount, entry = ownEntry } = this.#options;
    const { memoryLimitMb = memoryLimitMbDefault } = this.#options;
    Atomics.store(this.#current, 0, atNothing);
    const current = this.#current.buffer as SharedArrayBuffer;
    const workerThread = new Worker(entry, {
      workerData: { folder, vocabCount, current } satisfies MaskThreadData,
      execArgv: [],
      resourceLimits: { maxOldGenerationSizeMb: memoryLimitMb },
    });
    workerThread.unref();
    workerThread.on('message', (answer: MaskAnswer) => {
      if (workerThread === this.#worker) this.#hear(answer);
    });
    workerThread.on('error', (error) => this.#restart(workerThread, error));
    workerThread.on('exit', () => this.#restart(workerThread, new Error('the mask thread ended')));
    return workerThread;
  }

  /** From the last thing it said. */
  #watch(): void {
    this.#timer?.cancel();
    this.#timer = null;
    if (![...this.#texts.values()].some((text) => text.isAsking)) return;
    const { clock, silenceMsMax = silenceMsMaxDefault } = this.#options;
    const silent = this.#worker;
    this.#timer = clock.after(silenceMsMax, () => {
      if (silent !== null)
        this.#restart(silent, new Error(`nothing came of it within ${silenceMsMax / 1000} s`));
    });
  }

  #hear(answer: MaskAnswer): void {
    if (answer.kind === 'masks') {
      const wordCount = answer.words.length / answer.ids.length;
      answer.ids.forEach((id, index) => {
        this.#texts.get(id)?.receive(answer.words.subarray(index * wordCount, (index + 1) * wordCount));
      });
    }
    if (answer.kind === 'failed') this.#fail(answer.id, fromWire(answer.error));
    if (answer.kind === 'broken') this.#failAll(fromWire(answer.error));
    this.#watch();
    this.#tell();
  }

  /** Whose grammar it was at fails; the others begin anew with the tokens they have. */
  #restart(ended: Worker, reason: Error): void {
    if (ended !== this.#worker || this.#isClosed) return;
    this.#worker = null;
    this.#timer?.cancel();
    void ended.terminate();
    const blamed = Atomics.load(this.#current, 0);
    if (blamed === atNothing) {
      this.#failAll(
        new TwostrokeError('internal', `the masks of the grammar could not be made: ${reason.message}`),
      );
    } else {
      this.#fail(blamed, new InvalidRequestError(`the grammar cannot be enforced: ${reason.message}`));
      this.#batch = [];
      for (const text of this.#texts.values()) this.#send(text.openItem());
    }
    this.#tell();
  }

  #failAll(error: Error): void {
    for (const id of [...this.#texts.keys()]) this.#fail(id, error);
  }

  #fail(id: number, error: Error): void {
    const text = this.#texts.get(id);
    if (text === undefined) return;
    this.#texts.delete(id);
    text.fail(error);
    this.#failureCount++;
  }

  #tell(): void {
    const waiting = this.#wake;
    this.#wake = [];
    for (const wake of waiting) wake();
  }
}

interface TextEvents {
  accept(id: number, tokenId: TokenId): void;
  close(id: number): void;
}

class Text implements ChoiceMasks {
  readonly id: number;
  readonly #request: MaskRequest;
  readonly #tokenIds: TokenId[];
  readonly #events: TextEvents;
  #state: 'opening' | 'computing' | 'ready' | 'ended' = 'opening';
  #words: Uint32Array | null = null;
  #error: Error | null = null;

  constructor(id: number, request: MaskRequest, events: TextEvents) {
    this.id = id;
    this.#request = request;
    this.#tokenIds = [...request.tokenIds];
    this.#events = events;
  }

  get words(): Uint32Array | null {
    return this.#words;
  }

  get error(): Error | null {
    return this.#error;
  }

  get isComputing(): boolean {
    return this.#state === 'computing';
  }

  get isAsking(): boolean {
    return this.#state === 'computing' || this.#state === 'opening';
  }

  accept(tokenId: TokenId): void {
    this.#tokenIds.push(tokenId);
    if (this.#state === 'ended') return;
    this.#state = 'computing';
    this.#words = null;
    this.#events.accept(this.id, tokenId);
  }

  close(): void {
    this.#state = 'ended';
    this.#events.close(this.id);
  }

  /** As it stands now, for a thread that knows nothing of it. */
  openItem(): MaskItem {
    const { grammar, endTokenIds, outputLimit } = this.#request;
    if (this.#state !== 'ended') this.#state = 'opening';
    this.#words = null;
    return { kind: 'open', id: this.id, grammar, endTokenIds, tokenIds: this.#tokenIds, outputLimit };
  }

  receive(words: Uint32Array): void {
    if (this.#state === 'ended') return;
    this.#state = 'ready';
    this.#words = words;
  }

  fail(error: Error): void {
    this.#state = 'ended';
    this.#error = error;
  }
}
