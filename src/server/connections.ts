/** What is under way on each connection of a server, and who is notified when it ends before its time. Made
 *  by http-server.ts; exchanges listen through app.ts. It counts itself, because Node's closeIdleConnections
 *  leaves those open that never sent a request.
 *  Invariants: when a socket is gone or the server ends, everybody who listens on it is notified, once; also
 *  whose answer waits behind another one of the same connection, where Node closes only the response that is
 *  being written. Nothing is kept of who has stopped listening. A connection has so many requests under way
 *  and no more, and holds up no other by their number. */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Clock } from '../base/clock.js';
import { TwostrokeError } from '../base/errors.js';

/** Called with the reason. */
export type OnCut = (error: TwostrokeError) => void;

/** Requests of one connection without an answer: more than any client has reason to send ahead. Those that
 *  wait take memory. */
const unansweredMax = 100;

interface Connection {
  /** Of requests that have come and are not answered. */
  readonly responses: Set<ServerResponse>;
  readonly listeners: Set<OnCut>;
  /** Of the request that came last. */
  lastAnswered: Promise<void> | null;
}

export class Connections {
  readonly #open = new Map<Socket, Connection>();
  #endError: TwostrokeError | null = null;

  /** Beyond `connectionCountMax` the oldest idle one makes room; when all others are busy, that is the new
   *  one. */
  constructor(server: Server, connectionCountMax: number) {
    server.on('connection', (socket: Socket) => {
      this.#open.set(socket, { responses: new Set(), listeners: new Set(), lastAnswered: null });
      socket.once('close', () => this.#onClosed(socket));
      if (this.#open.size > connectionCountMax) this.#endOldest();
    });
    server.on('request', ({ socket }: IncomingMessage, response: ServerResponse) => {
      const responses = this.#open.get(socket)?.responses;
      responses?.add(response);
      response.once('close', () => responses?.delete(response));
      if (responses !== undefined && responses.size > unansweredMax) socket.destroy();
    });
  }

  /** Begins a request when those before it on its connection have been answered, unless its socket is gone by
   *  then. So a connection keeps one answer at a time, whether its client reads them or not; and each begins
   *  in a turn of its own: a thousand requests fit into one read, and others would wait for all. */
  async begin(
    { socket }: IncomingMessage,
    response: ServerResponse,
    clock: Clock,
    handle: () => void,
  ): Promise<void> {
    const connection = this.#open.get(socket);
    const before = connection?.lastAnswered ?? null;
    if (connection !== undefined) {
      connection.lastAnswered = new Promise((resolve) => response.once('close', () => resolve()));
      if (connection.responses.size > 1) await before?.then(() => clock.yield());
    }
    if (!socket.destroyed) handle();
  }

  /** At once, if it has been cut already. Returns what ends the listening. */
  onCut(socket: Socket, listen: OnCut): () => void {
    const listeners = this.#open.get(socket)?.listeners;
    const error = listeners === undefined ? goneError() : this.#endError;
    if (error !== null) listen(error);
    else listeners?.add(listen);
    return () => void listeners?.delete(listen);
  }

  /** From now on everything that is under way gets `error`. The connections stay. */
  cutAll(error: TwostrokeError): void {
    this.#endError ??= error;
    for (const connection of this.#open.values()) cut(connection, error);
  }

  /** Whether an answer has begun on it: another one must not get into it. */
  isAnswering(socket: Socket): boolean {
    return [...(this.#open.get(socket)?.responses ?? [])].some(({ headersSent }) => headersSent);
  }

  /** Connections whose last answer has been written, and those that never asked. */
  closeIdle(): void {
    for (const [socket, { responses }] of this.#open) if (responses.size === 0) socket.destroySoon();
  }

  /** An idle one, also one that has not sent its request yet: it looks like any other. When none is idle, one
   *  whose request has not arrived in full: else a few that send slowly would keep all others out. When all
   *  are being answered, the newest. */
  #endOldest(): void {
    const open = [...this.#open];
    const newest = open.pop();
    const idle = open.find(([, { responses }]) => responses.size === 0);
    const unfinished = () =>
      open.find(([, { responses }]) => [...responses].every(({ req }) => !req.complete));
    const [socket, connection] = idle ?? unfinished() ?? newest ?? [];
    if (socket === undefined || connection === undefined) return;
    this.#open.delete(socket);
    socket.destroy();
    cut(connection, goneError());
  }

  #onClosed(socket: Socket): void {
    const connection = this.#open.get(socket);
    this.#open.delete(socket);
    if (connection !== undefined) cut(connection, goneError());
  }
}

function cut({ listeners }: Connection, error: TwostrokeError): void {
  const notified = [...listeners];
  listeners.clear();
  for (const listen of notified) listen(error);
}

function goneError(): TwostrokeError {
  return new TwostrokeError('cancelled', 'the client closed the connection');
}
