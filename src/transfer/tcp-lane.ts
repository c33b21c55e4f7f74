/** The sending end of one socket of the tcp connector. Frames get a sequence number when they are sent and
 *  are kept until the receiver says that they have landed; after a dropped connection it connects again and
 *  sends on from where the receiver is. Used by tcp.ts.
 *  Invariant: every frame learns its end exactly once: landed, refused, or lost with the lane. */
import { createConnection, type Socket } from 'node:net';
import { assert } from '../base/assert.js';
import type { Clock, TimerHandle } from '../base/clock.js';
import { messageOf, TwostrokeError } from '../base/errors.js';
import type { ReceiverAddress } from './connector.js';
import { handshakeCut, SourceHandshake } from './handshake.js';
import type { Slot } from './staging.js';
import {
  type AcceptedMeta,
  decodeHead,
  encodeMessage,
  type FrameMeta,
  type HelloMeta,
  headBytes,
  type LandedMeta,
  type RefusedMeta,
} from './wire.js';

interface Frame {
  readonly meta: FrameMeta;
  readonly slot: Slot;
  readonly payloadBytes: number;
  /** Null: landed. */
  readonly onEnd: (error: string | null) => void;
}

interface LaneOptions {
  readonly address: ReceiverAddress;
  readonly hello: Omit<HelloMeta, 'landedThrough'>;
  readonly clock: Clock;
  readonly limits: TcpLimits;
  readonly onReconnect: () => void;
  /** It is over: nothing more gets through. */
  readonly onBroken: (reason: string) => void;
}

export interface TcpLimits {
  /** For one attempt to connect and be accepted. */
  readonly helloMs: number;
  /** For a broken connection to be replaced, all attempts together. */
  readonly reconnectMs: number;
  /** Frames are out and none lands for this long: the connection is dropped, and made again once. */
  readonly stallMs: number;
}

export const defaultTcpLimits: TcpLimits = { helloMs: 2_000, reconnectMs: 5_000, stallMs: 5_000 };

interface Sent {
  readonly sequence: number;
  readonly frame: Frame;
}

const retryEveryMs = 20;

export class TcpLane {
  readonly #options: LaneOptions;
  #socket: Socket | null = null;
  #sent: Sent[] = [];
  #sequence = 0;
  #landedThrough = 0;
  #watch: TimerHandle | null = null;
  /** Since the last frame landed. */
  #stallCount = 0;
  #end: string | null = null;

  constructor(options: LaneOptions) {
    this.#options = options;
  }

  /** Rejects with `transfer_error` when the receiver cannot be reached or refuses. */
  async connect(): Promise<void> {
    const { address, hello, clock, limits } = this.#options;
    const socket = createConnection({ host: address.host, port: address.port, noDelay: true });
    await new Promise<void>((resolve, reject) => {
      const failed = (reason: string) => {
        socket.destroy();
        reject(new TwostrokeError('transfer_error', reason));
      };
      const { host, port } = address;
      const timer = clock.after(limits.helloMs, () =>
        failed(`no answer from ${host}:${port} within ${limits.helloMs} ms`),
      );
      socket.on('error', (error) => failed(error.message));
      socket.on('close', () => {
        timer.cancel();
        failed(handshake.isDone ? 'the receiver hung up' : handshakeCut);
      });
      const handshake = new SourceHandshake(address.token, (bytes) => socket.write(bytes));
      const greet = () =>
        socket.write(encodeMessage('hello', { ...hello, landedThrough: this.#landedThrough }));
      const decoder = new AnswerDecoder((kind, meta, sequence) => {
        if (kind === 'refused') {
          const { message } = meta as RefusedMeta;
          failed(message);
          this.#break(`refused: ${message}`);
        } else if (kind === 'accepted') {
          timer.cancel();
          this.#use(socket, (meta as AcceptedMeta).receivedThrough);
          resolve();
        } else if (kind === 'landed' && this.#socket === socket) this.#onLanded(sequence, meta as LandedMeta);
      });
      readAfter(handshake, socket, greet, decoder);
    });
  }

  send(frame: Frame): void {
    if (this.#end !== null) {
      frame.onEnd(this.#end);
      return;
    }
    const sent = { sequence: ++this.#sequence, frame };
    this.#sent.push(sent);
    this.#write(sent);
    this.#watchForStall();
  }

  /** Ends it; frames that have not landed are lost. */
  close(reason: string): void {
    if (this.#socket !== null && this.#end === null) this.#socket.write(encodeMessage('bye', {}));
    this.#finish(reason);
    this.#socket?.end();
    this.#socket?.unref();
  }

  /** For tests: as if the network had dropped the connection. */
  drop(): void {
    this.#socket?.destroy();
  }

  #use(socket: Socket, receivedThrough: number): void {
    if (this.#end !== null) return void socket.destroy();
    this.#socket = socket;
    socket.on('close', () => {
      if (this.#socket !== socket) return;
      this.#socket = null;
      if (this.#end === null) void this.#reconnect();
    });
    for (const sent of this.#sent) if (sent.sequence > receivedThrough) this.#write(sent);
  }

  #write({ sequence, frame }: Sent): void {
    if (this.#socket === null) return;
    this.#socket.cork();
    this.#socket.write(encodeMessage('frame', frame.meta, sequence, frame.payloadBytes));
    if (frame.payloadBytes > 0) this.#socket.write(frame.slot.bytes.subarray(0, frame.payloadBytes));
    this.#socket.uncork();
  }

  async #reconnect(): Promise<void> {
    const { clock, limits, onReconnect } = this.#options;
    const endMs = clock.nowMs() + limits.reconnectMs;
    let reason = 'the connection was lost';
    while (this.#end === null && clock.nowMs() < endMs) {
      try {
        await this.connect();
        return onReconnect();
      } catch (error) {
        reason = messageOf(error);
      }
      await clock.sleep(retryEveryMs);
    }
    this.#break(reason);
  }

  #onLanded(through: number, { refused = [] }: LandedMeta): void {
    this.#landedThrough = Math.max(this.#landedThrough, through);
    this.#stallCount = 0;
    const count = this.#sent.findIndex(({ sequence }) => sequence > through);
    const ended = this.#sent.splice(0, count === -1 ? this.#sent.length : count);
    for (const { sequence, frame } of ended) {
      frame.onEnd(refused.includes(sequence) ? 'the blocks are not reserved for it any more' : null);
    }
    this.#watch?.cancel();
    this.#watch = null;
    this.#watchForStall();
  }

  #watchForStall(): void {
    if (this.#watch !== null || this.#sent.length === 0 || this.#end !== null) return;
    const { clock, limits } = this.#options;
    this.#watch = clock.after(limits.stallMs, () => {
      this.#watch = null;
      if (++this.#stallCount > 1) return this.#break(`nothing landed for ${2 * limits.stallMs} ms`);
      this.#socket?.destroy();
      this.#watchForStall();
    });
  }

  #break(reason: string): void {
    if (this.#end !== null) return;
    this.#finish(reason);
    this.#options.onBroken(reason);
  }

  #finish(reason: string): void {
    if (this.#end !== null) return;
    this.#end = reason;
    this.#watch?.cancel();
    const lost = this.#sent;
    this.#sent = [];
    // its staging is given back: nothing may be sent from there any more
    if (lost.length > 0) this.#socket?.destroy();
    for (const { frame } of lost) frame.onEnd(reason);
  }
}

/** Calls `greet` when the receiver has proven who it is; from then on its answers are read. */
export function readAfter(
  handshake: SourceHandshake,
  socket: Socket,
  greet: () => void,
  decoder: AnswerDecoder,
): void {
  const onWrong = (error: Error) => socket.destroy(error);
  socket.on('data', (bytes) => {
    if (handshake.isDone) return decoder.push(bytes, onWrong);
    try {
      const rest = handshake.push(bytes);
      if (!handshake.isDone) return;
      greet();
      decoder.push(rest, onWrong);
    } catch (error) {
      onWrong(error as Error);
    }
  });
}

/** The receiver's answers: small, and without payload. */
export class AnswerDecoder {
  readonly #onAnswer: (kind: string, meta: unknown, sequence: number) => void;
  #bytes: Buffer = Buffer.alloc(0);

  constructor(onAnswer: (kind: string, meta: unknown, sequence: number) => void) {
    this.#onAnswer = onAnswer;
  }

  push(bytes: Buffer, onWrong: (error: Error) => void): void {
    this.#bytes = this.#bytes.length === 0 ? bytes : Buffer.concat([this.#bytes, bytes]);
    try {
      while (this.#bytes.length >= headBytes) {
        const { kind, metaBytes, sequence } = decodeHead(this.#bytes);
        const end = headBytes + metaBytes;
        if (this.#bytes.length < end) return;
        const meta: unknown = JSON.parse(this.#bytes.toString('utf8', headBytes, end));
        this.#bytes = this.#bytes.subarray(end);
        this.#onAnswer(kind, meta, sequence);
      }
    } catch (error) {
      assert(error instanceof Error, 'what is thrown is an Error');
      onWrong(error);
    }
  }
}
