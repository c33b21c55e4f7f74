/** The listening server: HTTP in front of createApp, and an orderly end. Used by library/open-server.ts and
 *  the tests.
 *  Invariant: close() ends, whatever clients do: what is still open at the deadline gets an error, and is
 *  cut. */
import { createServer, type Server } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { getRequestListener } from '@hono/node-server';
import type { Clock } from '../base/clock.js';
import { messageOf, TwostrokeError } from '../base/errors.js';
import { type AppOptions, createApp } from './app.js';
import { connectionCountMax } from './connection-limit.js';
import { Connections } from './connections.js';
import { endWith } from './early-answer.js';
import type { ServerContext } from './exchange.js';

export interface HttpServerOptions extends Omit<AppOptions, 'isStopping' | 'connections'> {
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
  /** Absent: what the limit on open files leaves room for. */
  readonly connectionCountMax?: number;
}

export interface HttpServer {
  readonly url: string;
  readonly port: number;
  /** Stops accepting, lets open requests finish for `drainMs`, then ends them with an error. */
  close(drainMs: number): Promise<void>;
}

/** Longer than what common proxies keep idle connections for, so that they close first. */
const keepAliveMs = 75_000;
/** For a request to arrive, its body too: until then it takes room. */
const requestMs = 60_000;
const drainPollMs = 25;
/** The host of a request that names none, as HTTP/1.0 allows. What was not read of a request is
 *  early-answer.ts's. */
const listenerOptions = { overrideGlobalObjects: false, hostname: 'localhost', autoCleanupIncoming: false };
/** For the last words to reach those who read. */
const farewellMs = 1000;
/** Connections that wait to be accepted while the event loop is busy; the kernel lowers it to what it allows.
 *  With fewer, a burst is reset instead of refused with a time to come back. */
const backlogMax = 4096;

/** Throws TwostrokeError 'unavailable' when the port is taken or may not be used. */
export async function startHttpServer(
  context: ServerContext,
  options: HttpServerOptions,
): Promise<HttpServer> {
  let isStopping = false;
  const server = createServer({ keepAliveTimeout: keepAliveMs, requestTimeout: requestMs });
  const connections = new Connections(server, options.connectionCountMax ?? connectionCountMax());
  const app = createApp(context, { ...options, isStopping: () => isStopping, connections });
  const listener = getRequestListener(app.fetch, listenerOptions);
  server.on('request', (incoming, outgoing) => {
    void connections.begin(incoming, outgoing, context.clock, () => void listener(incoming, outgoing));
  });
  server.on('clientError', (error, socket: Socket) =>
    onClientError(error, socket, connections, context.clock),
  );
  await listen(server, options);
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://${urlHost(options.host)}:${port}`,
    port,
    close: (drainMs) => {
      isStopping = true;
      return close(server, connections, context, drainMs);
    },
  };
}

function listen(server: Server, { host, port }: HttpServerOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) =>
      reject(new TwostrokeError('unavailable', listenMessage(error, host, port))),
    );
    server.listen({ port, host, backlog: backlogMax }, () => {
      server.removeAllListeners('error');
      resolve();
    });
  });
}

function listenMessage(error: NodeJS.ErrnoException, host: string, port: number): string {
  if (error.code === 'EADDRINUSE')
    return `port ${port} on ${host} is already in use: choose another port, or stop what listens there`;
  if (error.code === 'EACCES')
    return `port ${port} on ${host} may not be used by this user: choose a port above 1023`;
  return `cannot listen on ${host}:${port}: ${messageOf(error)}`;
}

/** 0.0.0.0 and :: are not addresses a client can go to everywhere. */
function urlHost(host: string): string {
  if (host === '0.0.0.0' || host === '::') return 'localhost';
  return host.includes(':') ? `[${host}]` : host;
}

const clientErrors: Readonly<Record<string, string>> = {
  HPE_HEADER_OVERFLOW: '431 Request Header Fields Too Large',
  ERR_HTTP_REQUEST_TIMEOUT: '408 Request Timeout',
};

/** What is not HTTP, in the shape of every other error. Comes again with whatever such a client goes on to
 *  send. */
function onClientError(
  error: NodeJS.ErrnoException,
  socket: Socket,
  connections: Connections,
  clock: Clock,
): void {
  if (socket.writableEnded && !socket.destroyed) return; // it has its answer
  if (error.code === 'ECONNRESET' || !socket.writable || connections.isAnswering(socket)) {
    socket.destroy();
    return;
  }
  const status = clientErrors[error.code ?? ''] ?? '400 Bad Request';
  const body = JSON.stringify({
    error: {
      message: `Bad HTTP request: ${status.slice(4)}`,
      type: 'invalid_request_error',
      param: null,
      code: null,
    },
  });
  const head = `connection: close\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}`;
  endWith(`HTTP/1.1 ${status}\r\n${head}\r\n\r\n${body}`, socket, clock);
}

async function close(
  server: Server,
  connections: Connections,
  { clock }: ServerContext,
  drainMs: number,
): Promise<void> {
  let isClosed = false;
  const closed = new Promise<void>((resolve) => server.close(() => resolve())).then(() => {
    isClosed = true;
  });
  const drain = async (durationMs: number) => {
    const endMs = clock.nowMs() + durationMs;
    for (; !isClosed && clock.nowMs() < endMs; await clock.sleep(drainPollMs)) connections.closeIdle();
  };
  await drain(drainMs);
  connections.cutAll(new TwostrokeError('unavailable', 'The server is shutting down'));
  await drain(farewellMs);
  server.closeAllConnections();
  await closed;
}
