/** Types of messages: what a side of a connection can be asked, what it answers, and what it is sent. Used by
 *  bus.ts and protocol.ts; worker/messages.ts says which messages there are. */

/** Plain data: what survives JSON. */
export type Body = object | null;

/** What one side can be asked (kind → [body, answer]) and sent as an event (kind → body). */
export interface Messages {
  readonly requests: object;
  readonly events: object;
}

/** As the connection itself sees them. */
export interface AnyMessages {
  readonly requests: Readonly<Record<string, readonly [Body, unknown]>>;
  readonly events: Readonly<Record<string, Body>>;
}

export type Kind<Kinds> = keyof Kinds & string;
export type Asked<Requests, K extends Kind<Requests>> = Requests[K] extends readonly [infer Asking, unknown]
  ? Asking
  : never;
export type AnswerBody<Requests, K extends Kind<Requests>> = Requests[K] extends readonly [
  unknown,
  infer Given,
]
  ? Given
  : never;
