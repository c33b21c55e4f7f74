/** What is under way on each connection of a server, and who is told when it ends before its time. Made by http-server.ts; exchanges listen
 *  through app.ts. It counts itself, because Node's closeIdleConnections leaves those open that never sent a request.
 *  Invariants: when a socket is gone or the server ends, everybody who listens on it is told, once; also whose answer waits behind another
 *  one of the same connection, where Node closes only the response that is being written. Nothing is kept of who has stopped listening. */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { TwostrokeError } from '../base/errors.js';

/** Told why. */
export type OnCut = (error: TwostrokeError) => void;

interface Connection {
  readonly responses: Set<ServerResponse>;
  readonly listeners: Set<OnCut>;
}

export class Connections {
  readonly #open = new Map<Socket, Connection>();
  #endError: TwostrokeError | null = null;

  constructor(server: Server) {
    server.on('connection', (socket: Socket) => {
      this.#open.set(socket, { responses: new Set(), listeners: new Set() });
      socket.once('close', () => this.#onClosed(socket));
    });
    server.on('request', ({ socket }: IncomingMessage, response: ServerResponse) => {
      const responses = this.#open.get(socket)?.responses;
      responses?.add(response);
      response.once('close', () => responses?.delete(response));
    });
  }

  /** At once, if it has been cut already. Returns what ends the listening. */
  onCut(socket: Socket, listen: OnCut): () => void {
    const listeners = this.#open.get(socket)?.listeners;
    const error = listeners === undefined ? goneError() : this.#endError;
    if (error !== null) listen(error);
    else listeners?.add(listen);
    return () => void listeners?.delete(listen);
  }

  /** From now on everything that is under way is told `error`. The connections stay. */
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

  #onClosed(socket: Socket): void {
    const connection = this.#open.get(socket);
    this.#open.delete(socket);
    if (connection !== undefined) cut(connection, goneError());
  }
}

function cut({ listeners }: Connection, error: TwostrokeError): void {
  const told = [...listeners];
  listeners.clear();
  for (const listen of told) listen(error);
}

function goneError(): TwostrokeError {
  return new TwostrokeError('cancelled', 'the client closed the connection');
}
