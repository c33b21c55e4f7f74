/** One BusConnection over a stream socket. Made by unix-socket.ts for both ends.
 *  Invariant: every request settles exactly once: by its answer, by its deadline or by the connection's
 *  end. */
import type { Socket } from 'node:net';
import type { Clock, TimerHandle } from '../base/clock.js';
import { fromWire, messageOf, TwostrokeError, toWire } from '../base/errors.js';
import type { Logger } from '../base/log.js';
import {
  BusClosedError,
  type BusConnection,
  BusDeadlineError,
  type BusHandlers,
  type BusLimits,
  strangerFrameBytesMax,
} from './bus.js';
import { encodeFrame, type Frame, FrameDecoder } from './frames.js';
import type { Body } from './message-types.js';

interface Pending {
  readonly resolve: (body: unknown) => void;
  readonly reject: (error: Error) => void;
  readonly timer: TimerHandle;
}

interface ConnectionOptions {
  readonly handlers: BusHandlers;
  readonly limits: BusLimits;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Called when it is known who is at the other end. Null: it is. */
  readonly onIdentified: (() => void) | null;
}

export class SocketConnection implements BusConnection {
  readonly closed: Promise<string>;
  readonly #socket: Socket;
  readonly #options: ConnectionOptions;
  readonly #decoder: FrameDecoder;
  readonly #pending = new Map<number, Pending>();
  #drainWaiters: (() => void)[] = [];
  #nextId = 1;
  #closeReason: string | null = null;
  #resolveClosed: (reason: string) => void = () => {};

  constructor(socket: Socket, options: ConnectionOptions) {
    this.#socket = socket;
    this.#options = options;
    const { limits, onIdentified } = options;
    this.#decoder = new FrameDecoder(onIdentified === null ? limits.frameBytesMax : strangerFrameBytesMax);
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
    socket.on('data', (bytes) => this.#receive(bytes));
    socket.on('drain', () => this.#wakeDrained());
    socket.on('error', (error) => this.close(error.message));
    socket.on('close', () => this.close('the other side hung up'));
  }

  get isClosed(): boolean {
    return this.#closeReason !== null;
  }

  get isCongested(): boolean {
    return this.#socket.writableLength > this.#options.limits.congestedBytes;
  }

  request(kind: string, body: Body, deadlineMs: number): Promise<unknown> {
    if (this.#closeReason !== null) return Promise.reject(new BusClosedError(this.#closeReason));
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      const timer = this.#options.clock.after(deadlineMs, () => {
        this.#pending.delete(id);
        reject(new BusDeadlineError(kind, deadlineMs));
      });
      this.#pending.set(id, { resolve, reject, timer });
      try {
        this.#write({ t: 'q', id, k: kind, b: body });
      } catch (error) {
        timer.cancel();
        this.#pending.delete(id);
        reject(error as Error);
      }
    });
  }

  send(kind: string, body: Body): void {
    this.#write({ t: 'e', k: kind, b: body });
  }

  drained(): Promise<void> {
    if (!this.isCongested || this.isClosed) return Promise.resolve();
    return new Promise((resolve) => this.#drainWaiters.push(resolve));
  }

  identified(): void {
    this.#decoder.frameBytesMax = this.#options.limits.frameBytesMax;
    this.#options.onIdentified?.();
  }

  close(reason: string): void {
    if (this.#closeReason !== null) return;
    this.#closeReason = reason;
    this.#socket.destroy();
    for (const { reject, timer } of this.#pending.values()) {
      timer.cancel();
      reject(new BusClosedError(reason));
    }
    this.#pending.clear();
    this.#wakeDrained();
    this.#resolveClosed(reason);
  }

  #write(frame: Frame): void {
    if (this.isClosed) return;
    this.#socket.write(encodeFrame(frame, this.#options.limits.frameBytesMax));
    const queuedBytes = this.#socket.writableLength;
    if (queuedBytes > this.#options.limits.queuedBytesMax)
      this.#drop(`the reader is ${queuedBytes} bytes behind`);
  }

  #receive(bytes: Buffer): void {
    try {
      for (const frame of this.#decoder.push(bytes)) {
        if (this.isClosed) return;
        this.#handle(frame);
      }
    } catch (error) {
      this.#drop(`malformed frame: ${messageOf(error)}`);
    }
  }

  #handle(frame: Frame): void {
    if (frame.t === 'e') this.#options.handlers.onEvent(frame.k, frame.b);
    else if (frame.t === 'q') void this.#answer(frame);
    else this.#settle(frame);
  }

  async #answer(frame: Extract<Frame, { t: 'q' }>): Promise<void> {
    const { handlers, logger } = this.#options;
    try {
      this.#write({ t: 'r', id: frame.id, b: await handlers.onRequest(frame.k, frame.b) });
    } catch (error) {
      if (!(error instanceof TwostrokeError))
        logger.error({ err: error, kind: frame.k }, 'a bus request failed unexpectedly');
      this.#write({ t: 'x', id: frame.id, e: toWire(error) });
    }
  }

  #settle(frame: Extract<Frame, { t: 'r' | 'x' }>): void {
    const pending = this.#pending.get(frame.id);
    if (pending === undefined) return; // answered after its deadline
    this.#pending.delete(frame.id);
    pending.timer.cancel();
    if (frame.t === 'r') pending.resolve(frame.b);
    else pending.reject(fromWire(frame.e));
  }

  #drop(reason: string): void {
    this.#options.logger.warn({ reason }, 'bus connection dropped');
    this.close(reason);
  }

  #wakeDrained(): void {
    if (this.isCongested && !this.isClosed) return;
    const waiters = this.#drainWaiters;
    this.#drainWaiters = [];
    for (const wake of waiters) wake();
  }
}
