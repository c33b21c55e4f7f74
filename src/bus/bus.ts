/** Messages between processes: requests with a deadline, one-way events, both ways over one connection. Used
 *  by worker/ and control/.
 *  Invariants: what one side sends arrives in order; a request is answered, or rejected by its deadline or by
 *  the connection's end; nothing queues without a bound. KV bytes never go over the bus. What the messages
 *  are is said by a type, and checked, in protocol.ts. */
import { TwostrokeError } from '../base/errors.js';
import type { AnswerBody, AnyMessages, Asked, Body, Messages } from './message-types.js';

/** Until it is known who is at the other end: a hello is small. */
export const strangerFrameBytesMax = 64 * 2 ** 10;

export interface BusLimits {
  /** Largest frame accepted or sent; a longer one drops the connection that sent it. */
  readonly frameBytesMax: number;
  /** Above this many queued outgoing bytes `isCongested` is true and `drained()` waits. */
  readonly congestedBytes: number;
  /** A reader this far behind is dropped: memory is worth more than one connection. */
  readonly queuedBytesMax: number;
}

export const defaultBusLimits: BusLimits = {
  frameBytesMax: 64 * 2 ** 20,
  congestedBytes: 2 ** 20,
  queuedBytesMax: 256 * 2 ** 20,
};

export interface BusHandlers {
  /** Answers a request; what it throws crosses the bus as a WireError. */
  onRequest(kind: string, body: unknown): Promise<Body>;
  /** One-way messages, in order. Must not throw. */
  onEvent(kind: string, body: unknown): void;
}

/** `Theirs`: what the side at the other end takes. */
export interface BusConnection<Theirs extends Messages = AnyMessages> {
  /** Rejects with the other side's error, BusDeadlineError, or BusClosedError when the connection ends
   *  first. */
  request<K extends keyof Theirs['requests'] & string>(
    kind: K,
    body: Asked<Theirs['requests'], K>,
    deadlineMs: number,
  ): Promise<AnswerBody<Theirs['requests'], K>>;
  /** One-way; dropped silently when the connection has ended. */
  send<K extends keyof Theirs['events'] & string>(kind: K, body: Theirs['events'][K]): void;
  readonly isCongested: boolean;
  /** Resolves when the queue is short again, or the connection has ended. */
  drained(): Promise<void>;
  /** Resolves, with the reason, once the connection has ended from either side. */
  readonly closed: Promise<string>;
  readonly isClosed: boolean;
  /** It is known who is at the other end: it may send large frames, and stay. Called on the listening side;
   *  the other knows whom it called. */
  identified(): void;
  close(reason: string): void;
}

export interface BusServer {
  /** Where others connect to. */
  readonly address: string;
  close(): Promise<void>;
}

/** Thrown into requests whose connection ended before the answer came. */
export class BusClosedError extends TwostrokeError {
  constructor(reason: string) {
    super('unavailable', `the connection ended: ${reason}`);
  }
}

/** Thrown into requests that the other side did not answer in time. */
export class BusDeadlineError extends TwostrokeError {
  constructor(kind: string, deadlineMs: number) {
    super('deadline_exceeded', `no answer to '${kind}' within ${Math.round(deadlineMs)} ms`);
  }
}
