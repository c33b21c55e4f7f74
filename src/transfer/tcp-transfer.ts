/** One hand-over on its way over tcp: counts its frames. Used by tcp.ts.
 *  Invariant: `landed` and `abort` resolve when no frame of it is queued, staged or on its way. */
import { TwostrokeError } from '../base/errors.js';
import type { RequestId } from '../base/ids.js';
import type { EventHandle } from '../device/device.js';
import type { KvHandle } from '../kv/kv-handle.js';
import { checkHandle } from './checks.js';
import type { KvPiece, KvTransfer } from './connector.js';

interface TcpTransferOptions {
  readonly requestId: RequestId;
  readonly epoch: number;
  readonly layoutHash: string;
  /** Returns the bytes it queued. */
  readonly push: (pieces: readonly KvPiece[], after: EventHandle) => number;
  readonly pull: (pieces: readonly KvPiece[]) => void;
  /** Frames that are not even copied are not sent, and pulls are called off. */
  readonly dropQueued: () => void;
  readonly onEnd: () => void;
}

export class TcpTransfer implements KvTransfer {
  readonly #options: TcpTransferOptions;
  #frameCount = 0;
  #error: string | null = null;
  #isAborted = false;
  #waiters: (() => void)[] = [];
  pushedBytes = 0;

  constructor(options: TcpTransferOptions) {
    this.#options = options;
  }

  get requestId(): RequestId {
    return this.#options.requestId;
  }

  get epoch(): number {
    return this.#options.epoch;
  }

  get isAborted(): boolean {
    return this.#isAborted;
  }

  push(pieces: readonly KvPiece[], after: EventHandle): void {
    if (!this.#isAborted) this.pushedBytes += this.#options.push(pieces, after);
  }

  pull(pieces: readonly KvPiece[]): void {
    if (!this.#isAborted) this.#options.pull(pieces);
  }

  async finish(handle: KvHandle): Promise<void> {
    checkHandle(handle, this.requestId, this.#options.layoutHash);
    await this.landed();
  }

  /** Throws as `finish` does. */
  async landed(): Promise<void> {
    await this.#settled();
    if (this.#isAborted)
      throw new TwostrokeError('cancelled', `the transfer of ${this.requestId} was aborted`);
    if (this.#error !== null) {
      throw new TwostrokeError('transfer_error', `the transfer of ${this.requestId} failed: ${this.#error}`);
    }
    this.#options.onEnd();
  }

  async abort(): Promise<void> {
    if (!this.#isAborted) {
      this.#isAborted = true;
      this.#options.dropQueued();
    }
    await this.#settled();
    this.#options.onEnd();
  }

  frameQueued(): void {
    this.#frameCount++;
  }

  frameEnded(error: string | null): void {
    this.#frameCount--;
    this.#error ??= error;
    if (this.#frameCount > 0) return;
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const wake of waiters) wake();
  }

  async #settled(): Promise<void> {
    while (this.#frameCount > 0) await new Promise<void>((resolve) => this.#waiters.push(resolve));
  }
}
