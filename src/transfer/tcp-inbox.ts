/** The receiving end of one socket of the tcp connector: bytes in, whole messages out, payloads in staging
 *  slots. Used by tcp-receiver.ts.
 *  Invariant: while no slot is free it reads nothing: the socket's window closes, and the source waits. */
import type { Socket } from 'node:net';
import { messageOf } from '../base/errors.js';
import { ReceiverHandshake } from './handshake.js';
import type { Slot, StagingPool } from './staging.js';
import { decodeHead, headBytes, type MessageHead } from './wire.js';

export interface InboxMessage {
  readonly head: MessageHead;
  readonly meta: unknown;
  /** The receiver's from here on. */
  readonly slot: Slot | null;
}

interface InboxOptions {
  /** That whoever connects must know. */
  readonly token: string;
  readonly pool: StagingPool;
  /** Whether the other side has said who it is: staging is not for strangers. */
  readonly mayCarry: () => boolean;
  /** No slot is free: call `proceed` when one is. */
  readonly onStarved: (inbox: Inbox) => void;
  /** Throws when the message is wrong: the connection ends. */
  readonly onMessage: (message: InboxMessage) => void;
  readonly onClosed: (reason: string) => void;
}

export class Inbox {
  readonly #socket: Socket;
  readonly #options: InboxOptions;
  readonly #handshake: ReceiverHandshake;
  readonly #headBytes = Buffer.alloc(headBytes);
  /** What is being filled now. */
  #part: 'head' | 'meta' | 'payload' = 'head';
  #target: Buffer = this.#headBytes;
  #filledBytes = 0;
  #head: MessageHead | null = null;
  #meta: unknown = null;
  #slot: Slot | null = null;
  /** Arrived, and waiting for a slot. */
  #rest: Buffer[] = [];
  #isClosed = false;

  constructor(socket: Socket, options: InboxOptions) {
    this.#socket = socket;
    this.#options = options;
    socket.setNoDelay(true);
    this.#handshake = new ReceiverHandshake(options.token, (bytes) => this.write(bytes));
    socket.on('data', (bytes) => (this.#rest.length > 0 ? this.#rest.push(bytes) : this.#receive(bytes)));
    socket.on('error', (error) => this.close(error.message));
    socket.on('close', () => this.close('the other side hung up'));
  }

  /** A slot may be free again. */
  proceed(): void {
    const chunks = this.#rest;
    this.#rest = [];
    for (const chunk of chunks) this.#rest.length > 0 ? this.#rest.push(chunk) : this.#receive(chunk);
    if (this.#rest.length === 0 && !this.#isClosed) this.#socket.resume();
  }

  write(bytes: Buffer): void {
    if (!this.#isClosed) this.#socket.write(bytes);
  }

  /** From here on nothing of this connection is taken: what it still holds is dropped. */
  close(reason: string): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#socket.destroy();
    this.#rest = [];
    const slot = this.#slot;
    this.#slot = null;
    if (slot !== null) this.#options.pool.release(slot);
    this.#options.onClosed(reason);
  }

  #receive(bytes: Buffer): void {
    try {
      const chunk = this.#handshake.isDone ? bytes : this.#handshake.push(bytes);
      let offset = 0;
      while (offset < chunk.length && !this.#isClosed) {
        if (this.#part === 'payload' && !this.#takeSlot()) {
          this.#starve(chunk.subarray(offset));
          return;
        }
        const count = Math.min(this.#target.length - this.#filledBytes, chunk.length - offset);
        chunk.copy(this.#target, this.#filledBytes, offset, offset + count);
        offset += count;
        this.#filledBytes += count;
        if (this.#filledBytes === this.#target.length) this.#completePart();
      }
    } catch (error) {
      this.close(messageOf(error));
    }
  }

  #completePart(): void {
    const { onMessage } = this.#options;
    this.#filledBytes = 0;
    if (this.#part === 'head') {
      this.#head = decodeHead(this.#headBytes);
      if (this.#head.payloadBytes > 0 && !this.#options.mayCarry()) throw new Error('a payload before hello');
      this.#part = 'meta';
      this.#target = Buffer.allocUnsafe(Math.max(1, this.#head.metaBytes));
      return;
    }
    const head = this.#head;
    if (head === null) return;
    if (this.#part === 'meta') {
      this.#meta = JSON.parse(this.#target.toString('utf8'));
      this.#part = 'payload';
      if (head.payloadBytes > 0) return;
    }
    const slot = this.#slot;
    this.#slot = null;
    this.#part = 'head';
    this.#target = this.#headBytes;
    onMessage({ head, meta: this.#meta, slot });
  }

  #takeSlot(): boolean {
    if (this.#slot !== null) return true;
    this.#slot = this.#options.pool.acquire();
    if (this.#slot === null) return false;
    this.#target = this.#slot.bytes.subarray(0, this.#head?.payloadBytes ?? 0);
    return true;
  }

  #starve(rest: Buffer): void {
    this.#rest.push(rest);
    this.#socket.pause();
    this.#options.onStarved(this);
  }
}
