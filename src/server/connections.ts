/** Which connections of a server have a request under way. Used by http-server.ts for shutdown, because Node's closeIdleConnections
 *  leaves those open that never sent a request. */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

export class Connections {
  /** Requests under way per open connection. */
  readonly #requestCounts = new Map<Socket, number>();

  constructor(server: Server) {
    server.on('connection', (socket: Socket) => {
      this.#requestCounts.set(socket, 0);
      socket.once('close', () => this.#requestCounts.delete(socket));
    });
    server.on('request', ({ socket }: IncomingMessage, response: ServerResponse) => {
      this.#change(socket, +1);
      response.once('close', () => this.#change(socket, -1));
    });
  }

  /** Connections whose last answer has been written, and those that never asked. */
  closeIdle(): void {
    for (const [socket, requestCount] of this.#requestCounts) if (requestCount === 0) socket.destroySoon();
  }

  #change(socket: Socket, by: number): void {
    const count = this.#requestCounts.get(socket);
    if (count !== undefined) this.#requestCounts.set(socket, count + by);
  }
}
