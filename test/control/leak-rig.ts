/** Requests that end in every way there is, and what is alive after them: real gateway, real worker
 *  processes, real HTTP. For leaks.test.ts. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { systemClock } from '../../src/base/clock.js';
import { silentLogger } from '../../src/base/log.js';
import type { Gateway } from '../../src/control/gateway.js';
import type { RequestRecord } from '../../src/control/request-record.js';
import type { Strategy } from '../../src/router/route.js';
import { type HttpServer, startHttpServer } from '../../src/server/http-server.js';
import { createServerMetrics } from '../../src/server/metrics.js';
import { demoModel } from '../server/demo-server.js';
import { expectNothingOwned, startGateway } from './real-cluster.js';

export type Counts = Readonly<Record<string, number>>;

const liveCountsModule = path.join(import.meta.dirname, 'live-counts.mjs');
const { liveCounts } = (await import(liveCountsModule)) as {
  readonly liveCounts: () => Promise<Counts>;
};

export const bodyBytesMax = 1 << 16;
/** Few enough for a burst to be refused. */
export const requestCountMax = 48;

export interface Rig {
  readonly gateway: Gateway;
  readonly server: HttpServer;
  readonly records: RequestRecord[];
  /** Of each worker, when nobody holds anything any more; records are forgotten. */
  countsOfWorkers(): Promise<Readonly<Record<string, Counts>>>;
  close(): Promise<void>;
}

export async function startRig(strategy: Strategy, workers: string): Promise<Rig> {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'twostroke-leaks-'));
  const started = await startGateway(workers, {
    strategy,
    workerEntry: path.join(import.meta.dirname, 'counted-worker.mjs'),
    workerEnvironment: { ...process.env, COUNTS_FOLDER: folder },
    settings: {
      prefillChunkTokenCount: 64,
      prefixCaching: 'off',
      sequenceCountMax: 16,
      maxModelTokenCount: 512,
    },
    limits: { requestCountMax, restartDelayMsMin: 1, restartDelayMsMax: 1, lossCountMax: 100 },
  });
  const { gateway } = started;
  const records: RequestRecord[] = [];
  gateway.onRequestDone((record) => records.push(record));
  const context = {
    gateway,
    model: demoModel,
    clock: systemClock,
    logger: silentLogger,
    metrics: createServerMetrics(gateway, 'demo'),
    bodyBytesMax,
  };
  const http = {
    host: '127.0.0.1',
    port: 0,
    apiKeys: [],
    adminKeys: [],
    sharePrefixCache: false,
    strictFields: false,
    corsOrigin: null,
    version: 'test',
  };
  const server = await startHttpServer(context, http);
  return {
    gateway,
    server,
    records,
    countsOfWorkers: async () => {
      await expectNothingOwned(gateway);
      started.records.length = 0;
      records.length = 0;
      const ofWorkers = gateway
        .workers()
        .map(async ({ id, pid }) => [`${id}, ${strategy}`, await countsOf(folder, pid ?? 0)] as const);
      return Object.fromEntries(await Promise.all(ofWorkers));
    },
    close: async () => {
      await server.close(0);
      await gateway.stop();
      rmSync(folder, { recursive: true });
    },
  };
}

/** Of this process, where the gateways are, and of all their workers. */
export async function countsOfAll(rigs: readonly Rig[]): Promise<Readonly<Record<string, Counts>>> {
  const ofWorkers = await Promise.all(rigs.map((rig) => rig.countsOfWorkers()));
  return Object.assign({ gateway: await liveCounts() }, ...ofWorkers) as Readonly<Record<string, Counts>>;
}

/** Asks a worker process, and waits for its answer. */
async function countsOf(folder: string, pid: number): Promise<Counts> {
  const file = path.join(folder, `${pid}.json`);
  rmSync(file, { force: true });
  process.kill(pid, 'SIGUSR2');
  const endMs = systemClock.nowMs() + 60_000;
  for (;;) {
    await systemClock.sleep(20);
    try {
      return JSON.parse(readFileSync(file, 'utf8')) as Counts;
    } catch (error) {
      if (systemClock.nowMs() > endMs) throw error;
    }
  }
}

/** Sends, and gives what comes back; `until` says of what has come so far that the client has enough, and
 *  leaves. */
export function wire(
  port: number,
  text: string,
  until: (received: string) => boolean = () => false,
): Promise<string> {
  return new Promise((resolve) => {
    let received = '';
    const socket = net.connect(port, '127.0.0.1');
    socket.on('connect', () => {
      socket.write(text);
      if (until(received)) socket.destroy();
    });
    socket.on('data', (bytes) => {
      received += bytes;
      if (until(received)) socket.destroy();
    });
    socket.on('error', () => undefined);
    socket.on('close', () => resolve(received));
  });
}

export function post(route: string, body: object | string, head = 'connection: close\r\n'): string {
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  return `POST ${route} HTTP/1.1\r\nhost: x\r\n${head}content-type: application/json\r\ncontent-length: ${Buffer.byteLength(text)}\r\n\r\n${text}`;
}
