/** Typed messages over a connection: what may be said is one type, and where bodies come in is one place,
 *  here. Used by worker/ and control/, which say what the messages are and how each is checked.
 *
 *    CheckedConnection   asks and tells the other side; its answers are checked
 *    answering, hearing  what the other side asks and tells: checked, then handed to the handler of its kind
 *
 *  Invariants: nothing gets past this file that has not the shape its type says; a kind without a handler or
 *  a check does not compile. */
import { TwostrokeError } from '../base/errors.js';
import type { BusConnection, BusHandlers } from './bus.js';
import type { Check } from './check.js';
import type { AnswerBody, Asked, Body, Kind, Messages } from './message-types.js';

export type RequestHandlers<Requests> = {
  readonly [K in Kind<Requests>]: (
    body: Asked<Requests, K>,
  ) => AnswerBody<Requests, K> | Promise<AnswerBody<Requests, K>>;
};
export type EventHandlers<Events> = { readonly [K in Kind<Events>]: (body: Events[K]) => void };
export type RequestChecks<Requests> = { readonly [K in Kind<Requests>]: Check<Asked<Requests, K>> };
export type AnswerChecks<Requests> = { readonly [K in Kind<Requests>]: Check<AnswerBody<Requests, K>> };
export type EventChecks<Events> = { readonly [K in Kind<Events>]: Check<Events[K]> };

/** The other side has sent what no message is. */
export class BusProtocolError extends TwostrokeError {
  constructor(what: string) {
    super('internal', what);
  }
}

/** A connection to a side that takes `Theirs`. */
export class CheckedConnection<Theirs extends Messages> implements BusConnection<Theirs> {
  readonly #bus: BusConnection;
  readonly #answers: AnswerChecks<Theirs['requests']>;

  constructor(bus: BusConnection, answers: AnswerChecks<Theirs['requests']>) {
    this.#bus = bus;
    this.#answers = answers;
  }

  /** Rejects also with BusProtocolError, when the answer is none. */
  async request<K extends Kind<Theirs['requests']>>(
    kind: K,
    body: Asked<Theirs['requests'], K>,
    deadlineMs: number,
  ): Promise<AnswerBody<Theirs['requests'], K>> {
    const answer = await this.#bus.request(kind, body as Body, deadlineMs);
    const wrong = this.#answers[kind](answer);
    if (wrong !== null) throw new BusProtocolError(`a bad answer to '${kind}': body${wrong}`);
    return answer as AnswerBody<Theirs['requests'], K>;
  }

  send<K extends Kind<Theirs['events']>>(kind: K, body: Theirs['events'][K]): void {
    this.#bus.send(kind, body as Body);
  }

  get isCongested(): boolean {
    return this.#bus.isCongested;
  }

  drained(): Promise<void> {
    return this.#bus.drained();
  }

  get closed(): Promise<string> {
    return this.#bus.closed;
  }

  get isClosed(): boolean {
    return this.#bus.isClosed;
  }

  identified(): void {
    this.#bus.identified();
  }

  close(reason: string): void {
    this.#bus.close(reason);
  }
}

/** Whoever asks what is not known, or asks it wrongly, gets a BusProtocolError for an answer. */
export function answering<Requests extends object>(
  checks: RequestChecks<Requests>,
  handlers: RequestHandlers<Requests>,
): BusHandlers['onRequest'] {
  return async (kind, body) => {
    if (!isKind(checks, kind)) throw unknown(kind);
    const wrong = checks[kind](body);
    if (wrong !== null) throw new BusProtocolError(`a bad '${kind}' message: body${wrong}`);
    return (await handlers[kind](body as Asked<Requests, typeof kind>)) as Body;
  };
}

/** `refuse` is called with an event that is not known, or is wrong: nobody can answer it. */
export function hearing<Events extends object>(
  checks: EventChecks<Events>,
  handlers: EventHandlers<Events>,
  refuse: (error: BusProtocolError) => void,
): BusHandlers['onEvent'] {
  return (kind, body) => {
    if (!isKind(checks, kind)) return refuse(unknown(kind));
    const wrong = checks[kind](body);
    if (wrong !== null) refuse(new BusProtocolError(`a bad '${kind}' message: body${wrong}`));
    else handlers[kind](body as Events[typeof kind]);
  };
}

const quotedMax = 40;
const unknown = (kind: string) => new BusProtocolError(`an unknown message '${kind.slice(0, quotedMax)}'`);

function isKind<Checks extends object>(checks: Checks, kind: string): kind is Kind<Checks> {
  return Object.hasOwn(checks, kind);
}
