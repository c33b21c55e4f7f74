/** The embedded bus: unix sockets in a private folder (0700). Used by control/ (listens) and worker/
 *  (connects).
 *  Invariant: nothing is left on disk after close(); no other user can connect. */
import { rm } from 'node:fs/promises';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import path from 'node:path';
import type { Clock } from '../base/clock.js';
import { TwostrokeError } from '../base/errors.js';
import type { Logger } from '../base/log.js';
import {
  type BusConnection,
  type BusHandlers,
  type BusLimits,
  type BusServer,
  defaultBusLimits,
} from './bus.js';
import { checkSocketPath, freshSocketPath, removeLeftOver } from './private-folder.js';
import { SocketConnection } from './socket-connection.js';
import { type StrangerLimits, Strangers } from './strangers.js';

interface UnixSocketOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly limits?: BusLimits;
  /** Connections that the listener has not identified. */
  readonly strangers?: StrangerLimits;
}

/** Only processes of this user get here; one that is starved of cores may take its time. */
const strangerLimits: StrangerLimits = { countMax: 256, deadlineMs: 30_000 };

/** Listens on a fresh socket. `accept` gives the handlers of each new connection; it may keep the
 *  connection. */
export async function listenUnix(
  options: UnixSocketOptions,
  accept: (connection: () => BusConnection) => BusHandlers,
): Promise<BusServer> {
  const address = await freshSocketPath();
  void removeLeftOver(address, options.clock);
  const connections = new Set<BusConnection>();
  const strangers = new Strangers(options.clock, options.strangers ?? strangerLimits);
  const server = createServer((socket) => {
    const connection: BusConnection = connect(
      socket,
      options,
      accept(() => connection),
      () => strangers.delete(connection),
    );
    connections.add(connection);
    strangers.add(connection);
    void connection.closed.then(() => {
      connections.delete(connection);
      strangers.delete(connection);
    });
  });
  await listening(server, address);
  return {
    address,
    async close() {
      for (const connection of connections) connection.close('the bus is shut down');
      await new Promise<void>((resolve) => server.close(() => resolve()));
      await rm(path.dirname(address), { recursive: true, force: true });
    },
  };
}

/** Connects to a listening bus. Throws `unavailable` naming the address when nobody listens. */
export async function connectUnix(
  address: string,
  options: UnixSocketOptions,
  handlers: BusHandlers,
): Promise<BusConnection> {
  checkSocketPath(address);
  const socket = createConnection(address);
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('error', (error) =>
      reject(new TwostrokeError('unavailable', `cannot connect to ${address}: ${error.message}`)),
    );
  });
  return connect(socket, options, handlers, null);
}

/** Removes the socket of a bus whose process was killed before it could. Only for a caller that knows it is
 *  dead. */
export async function removeAbandoned(address: string): Promise<void> {
  await rm(path.dirname(address), { recursive: true, force: true });
}

function connect(
  socket: Socket,
  options: UnixSocketOptions,
  handlers: BusHandlers,
  onIdentified: (() => void) | null,
): BusConnection {
  const { clock, logger, limits = defaultBusLimits } = options;
  return new SocketConnection(socket, { handlers, limits, clock, logger, onIdentified });
}

function listening(server: Server, address: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(address, () => {
      server.off('error', reject);
      resolve();
    });
  });
}
