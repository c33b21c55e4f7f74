/** Measures the connectors between two processes of this machine, beside what the machine itself can do in
 *  the same run: memory copies, and a bare loopback socket pair. Run: npm run build && node
 *  bench/transfer/bench.mjs [--json FILE] [--repeats N] Bytes: 302 MB (2,048 tokens of Qwen3-8B in bf16: 128
 *  blocks of 2.25 MiB), pushed layer by layer. Rates are best of the repeats; event-loop delays are of the
 *  whole measurement of a connector, on both sides. */
import { fork } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { createConnection, createServer } from 'node:net';
import os from 'node:os';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { parseArgs } from 'node:util';
import { systemClock } from '#built/base/clock.js';
import { silentLogger } from '#built/base/log.js';
import { openDevice } from '#built/device/native.js';
import { KvCache } from '#built/kv/kv-cache.js';
import { KvLayout } from '#built/kv/kv-layout.js';
import { BlockChecksums } from '#built/transfer/checksums.js';
import { HostRelayConnector } from '#built/transfer/host-relay.js';
import { PeerConnector } from '#built/transfer/peer.js';
import { TcpConnector } from '#built/transfer/tcp.js';
import { KvReceiver } from '#built/transfer/tcp-receiver.js';

const layout = new KvLayout({
  modelName: 'bench',
  layerCount: 36,
  kvHeadCount: 8,
  headDim: 128,
  blockTokenCount: 16,
  dtype: 'bf16',
});
const blockCount = 128;
const totalBytes = blockCount * layout.blockBytes;
const rawLaneCount = 4;
const rawChunkBytes = 512 * 1024;
const identity = { protocolVersion: 1, modelName: 'bench', dtype: 'bf16', layoutHash: layout.hash };

const makeSide = () => {
  const device = openDevice({ kind: 'cpu', index: 0, threadCount: 1 });
  const cache = new KvCache(device, layout, blockCount);
  const stream = device.createStream();
  stream.random({ pointer: cache.pointer, shape: [totalBytes / 2], dtype: 'bf16' }, 1, 1, 0);
  return { device, cache, stream };
};

function delays() {
  const histogram = monitorEventLoopDelay({ resolution: 1 });
  histogram.enable();
  return {
    restart: () => histogram.reset(),
    /** Above the timer's own millisecond. */
    read: () => ({
      p50: ms(histogram.percentile(50)),
      p99: ms(histogram.percentile(99)),
      max: ms(histogram.max),
    }),
  };
}
const ms = (nanoseconds) => Math.max(0, Math.round(nanoseconds / 1e4 - 100) / 100);
const gigabytes = (bytes, milliseconds) => Math.round((bytes / milliseconds / 1e6) * 100) / 100;

/** The other process: a decode worker's side, and the raw sockets' sink. */
async function beTarget() {
  const { device, cache, stream } = makeSide();
  await stream.wait();
  const options = {
    device,
    cache,
    identity,
    workerId: 'w1',
    host: '127.0.0.1',
    clock: systemClock,
    logger: silentLogger,
  };
  const receiver = await KvReceiver.listen({ ...options, accepts: () => true });
  let sunkBytes = 0;
  const sink = createServer((socket) => {
    socket.on('error', () => {});
    socket.on('data', (bytes) => {
      sunkBytes += bytes.length;
      if (sunkBytes < totalBytes) return;
      sunkBytes = 0;
      process.send({ sunk: true });
    });
  });
  await new Promise((resolve) => sink.listen(0, '127.0.0.1', resolve));
  const loop = delays();
  process.on('message', (message) => {
    if (message === 'restart') loop.restart();
    else
      process.send({
        loop: loop.read(),
        cpuMs: process.cpuUsage().user / 1000 + process.cpuUsage().system / 1000,
      });
  });
  process.on('disconnect', () => process.exit(0));
  const target = {
    workerId: 'w1',
    incarnation: 1,
    cache: cache.export(),
    blockCount,
    kv: identity,
    receiver: receiver.address,
  };
  process.send({ target, sinkPort: sink.address().port });
}

const next = (child) => new Promise((resolve) => child.once('message', resolve));
const ask = (child) => {
  const answer = next(child);
  child.send('read');
  return answer;
};

async function best(repeats, run) {
  const times = [];
  for (let i = 0; i < repeats + 1; i++) times.push(await run());
  return times.slice(1).sort((a, b) => a - b);
}

async function measureConnector(child, source, connector, target, repeats) {
  const channel = await connector.open(target);
  const event = source.device.createEvent();
  source.stream.record(event);
  const blocks = Array.from({ length: blockCount }, (_, i) => i);
  let id = 0;
  const run = async () => {
    const transfer = channel.begin(`r${++id}`, 1);
    const start = performance.now();
    for (let layer = 0; layer < layout.shape.layerCount; layer++) {
      transfer.push(
        [{ sourceBlocks: blocks, targetBlocks: blocks, firstLayer: layer, layerEnd: layer + 1 }],
        event,
      );
    }
    await transfer.finish({
      requestId: `r${id}`,
      epoch: 1,
      layoutHash: layout.hash,
      tokenCount: 2048,
      firstTokens: [1],
    });
    return performance.now() - start;
  };
  await run();
  child.send('restart');
  const loop = delays();
  const before = { cpu: process.cpuUsage(), other: await ask(child) };
  const times = await best(repeats, run);
  const { user, system } = process.cpuUsage(before.cpu);
  const other = await ask(child);
  const cpuMs = (user + system) / 1000 + other.cpuMs - before.other.cpuMs;
  await connector.close();
  return {
    gigabytesPerSecondBest: gigabytes(totalBytes, times[0]),
    gigabytesPerSecondMedian: gigabytes(totalBytes, times[Math.floor(times.length / 2)]),
    cpuMsPerGigabyte: Math.round(cpuMs / ((times.length + 1) * (totalBytes / 1e9))),
    eventLoopDelayMs: { source: loop.read(), target: other.loop },
  };
}

async function measureRawSocket(child, port, repeats) {
  const sockets = await Promise.all(
    Array.from(
      { length: rawLaneCount },
      () =>
        new Promise((resolve) => {
          const socket = createConnection({ port, host: '127.0.0.1', noDelay: true }, () => resolve(socket));
        }),
    ),
  );
  const chunk = Buffer.alloc(rawChunkBytes, 1);
  const run = async () => {
    const start = performance.now();
    const done = next(child);
    let leftBytes = totalBytes;
    const pump = (socket) => {
      while (leftBytes > 0) {
        const bytes = Math.min(rawChunkBytes, leftBytes);
        leftBytes -= bytes;
        if (!socket.write(bytes === rawChunkBytes ? chunk : chunk.subarray(0, bytes)))
          return void socket.once('drain', () => pump(socket));
      }
    };
    for (const socket of sockets) pump(socket);
    await done;
    return performance.now() - start;
  };
  const times = await best(repeats, run);
  for (const socket of sockets) socket.destroy();
  return gigabytes(totalBytes, times[0]);
}

/** Reading and writing other memory than the caches', with one thread. */
async function measureCopy({ device, cache, stream }, repeats) {
  const scratch = device.allocate(totalBytes);
  const times = await best(repeats, async () => {
    const start = performance.now();
    stream.copy(scratch, cache.pointer, totalBytes);
    await stream.wait();
    return performance.now() - start;
  });
  device.release(scratch);
  return gigabytes(totalBytes, times[0]);
}

/** Every block of the cache, with one thread. Both sides of a hand-over do this once. */
async function measureChecksums({ device, cache }, repeats) {
  const checksums = new BlockChecksums(device, cache);
  const blocks = Array.from({ length: blockCount }, (_, i) => i);
  const times = await best(repeats, async () => {
    const start = performance.now();
    await checksums.of(blocks);
    return performance.now() - start;
  });
  checksums.close();
  return gigabytes(totalBytes, times[0]);
}

async function main() {
  const { values } = parseArgs({
    options: { json: { type: 'string' }, repeats: { type: 'string', default: '5' } },
  });
  const repeats = Number(values.repeats);
  const child = fork(import.meta.filename, ['target']);
  const { target, sinkPort } = await next(child);
  const source = makeSide();
  await source.stream.wait();
  const kvSource = { device: source.device, cache: source.cache, identity, clock: systemClock };
  const result = {
    command: `node bench/transfer/bench.mjs --repeats ${repeats}`,
    machine: {
      cpu: os.cpus()[0]?.model,
      cores: os.availableParallelism(),
      node: process.version,
      load1m: os.loadavg()[0],
    },
    bytes: totalBytes,
    unit: 'GB/s',
    memoryCopy: await measureCopy(source, repeats),
    checksum: await measureChecksums(source, repeats),
    rawLoopbackSockets: await measureRawSocket(child, sinkPort, repeats),
    peer: await measureConnector(child, source, new PeerConnector(kvSource), target, repeats),
    hostRelay: await measureConnector(child, source, new HostRelayConnector(kvSource), target, repeats),
    tcp: await measureConnector(child, source, new TcpConnector(kvSource), target, repeats),
  };
  result.tcpShareOfRawSockets =
    Math.round((100 * result.tcp.gigabytesPerSecondBest) / result.rawLoopbackSockets) / 100;
  result.peerShareOfMemoryCopy =
    Math.round((100 * result.peer.gigabytesPerSecondBest) / result.memoryCopy) / 100;
  console.log(JSON.stringify(result, null, 2));
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(result, null, 2)}\n`);
  child.disconnect();
}

await (process.argv[2] === 'target' ? beTarget() : main());
