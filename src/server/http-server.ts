/** The listening server: HTTP in front of createApp, and an orderly end. Used by cli/serve.ts and the tests.
 *  Invariant: close() ends, whatever clients do: what is still open at the deadline is cut. */
import { createServer, type Server } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { getRequestListener } from '@hono/node-server';
import { messageOf, TwostrokeError } from '../base/errors.js';
import { type AppOptions, createApp } from './app.js';
import { Connections } from './connections.js';
import type { ServerContext } from './exchange.js';

export interface HttpServerOptions extends Omit<AppOptions, 'isStopping'> {
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
}

export interface HttpServer {
  readonly url: string;
  readonly port: number;
  /** Stops accepting, lets open requests finish for `drainMs`, then cuts them. */
  close(drainMs: number): Promise<void>;
}

/** Longer than what common proxies keep idle connections for, so that they close first. */
const keepAliveMs = 75_000;
const drainPollMs = 25;
/** The host of a request that names none, as HTTP/1.0 allows. */
const listenerOptions = { overrideGlobalObjects: false, hostname: 'localhost' };

/** Throws TwostrokeError 'unavailable' when the port is taken or may not be used. */
export async function startHttpServer(context: ServerContext, options: HttpServerOptions): Promise<HttpServer> {
  let isStopping = false;
  const app = createApp(context, { ...options, isStopping: () => isStopping });
  const server = createServer({ keepAliveTimeout: keepAliveMs }, getRequestListener(app.fetch, listenerOptions));
  const connections = new Connections(server);
  server.on('clientError', onClientError);
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
    server.listen(port, host, () => {
      server.removeAllListeners('error');
      resolve();
    });
  });
}

function listenMessage(error: NodeJS.ErrnoException, host: string, port: number): string {
  if (error.code === 'EADDRINUSE')
    return `port ${port} on ${host} is already in use: choose another with --port, or stop what listens there`;
  if (error.code === 'EACCES') return `port ${port} on ${host} may not be used by this user: choose one above 1023 with --port`;
  return `cannot listen on ${host}:${port}: ${messageOf(error)}`;
}

/** 0.0.0.0 and :: are not addresses a client can go to everywhere. */
function urlHost(host: string): string {
  if (host === '0.0.0.0' || host === '::') return 'localhost';
  return host.includes(':') ? `[${host}]` : host;
}

/** What is not HTTP, in the shape of every other error. */
function onClientError(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const [status, reason] = error.code === 'HPE_HEADER_OVERFLOW' ? [431, 'Request Header Fields Too Large'] : [400, 'Bad Request'];
  const body = JSON.stringify({
    error: { message: `Bad HTTP request: ${reason}`, type: 'invalid_request_error', param: null, code: null },
  });
  socket.end(
    `HTTP/1.1 ${status} ${reason}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  );
}

async function close(server: Server, connections: Connections, { clock }: ServerContext, drainMs: number): Promise<void> {
  const closed = new Promise<'closed'>((resolve) => server.close(() => resolve('closed')));
  const deadlineMs = clock.nowMs() + drainMs;
  while (clock.nowMs() < deadlineMs) {
    connections.closeIdle();
    if ((await Promise.race([closed, clock.sleep(drainPollMs)])) === 'closed') return;
  }
  server.closeAllConnections();
  await closed;
}
