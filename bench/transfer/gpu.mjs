/** Measures hand-overs between two devices of one machine, everything in one run and one JSON:
 *
 *    npm run build && node bench/transfer/gpu.mjs --devices cuda:0,cuda:1 --json FILE      (`--devices cpu,cpu --model models/demo-6m` to try it)
 *
 *  1. floors: pinned host ↔ device copies, a 1 GiB copy into the other device's memory;
 *  2. each connector after the fact: 2,048 tokens as one piece, and layer by layer;
 *  3. decode steps of the target's engine: alone, with a hand-over landing in each step, under continuous
 *     receipt;
 *  4. whole requests through a gateway and two workers: TTFT, and the exposed time of hand-overs behind
 *     prefill, whole and in chunks.
 *
 *  The other process (part 2 and 3) is this file, forked. Weights are random (`dummy`): Qwen3-8B's shape
 *  unless --model says otherwise. */
import { fork } from 'node:child_process';
import { mkdtempSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { systemClock } from '#built/base/clock.js';
import { silentLogger } from '#built/base/log.js';
import { Prng } from '#built/base/prng.js';
import { dtypeByteCounts } from '#built/device/dtype.js';
import { openDevice } from '#built/device/native.js';
import { Engine } from '#built/engine/engine.js';
import { greedy } from '#built/engine/sampling-params.js';
import { KvCache } from '#built/kv/kv-cache.js';
import { WireLayout } from '#built/kv/wire-layout.js';
import { loadModel } from '#built/model/load.js';
import { HostRelayConnector } from '#built/transfer/host-relay.js';
import { PeerConnector } from '#built/transfer/peer.js';
import { TcpConnector } from '#built/transfer/tcp.js';
import { KvReceiver } from '#built/transfer/tcp-receiver.js';
import { startGateway } from './cluster.mjs';

const qwen3Of8B = {
  architectures: ['Qwen3ForCausalLM'],
  model_type: 'qwen3',
  hidden_size: 4096,
  intermediate_size: 12288,
  num_hidden_layers: 36,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  head_dim: 128,
  vocab_size: 151936,
  max_position_embeddings: 40960,
  rms_norm_eps: 1e-6,
  rope_theta: 1000000,
  hidden_act: 'silu',
  tie_word_embeddings: false,
  torch_dtype: 'bfloat16',
  attention_bias: false,
  bos_token_id: 151643,
  eos_token_id: 151645,
};
const handOverTokenCount = 2048;
const [decodeBatch, decodeContext] = [32, 1024];

const { values } = parseArgs({
  options: {
    devices: { type: 'string', default: 'cuda:0,cuda:1' },
    model: { type: 'string' },
    json: { type: 'string' },
    role: { type: 'string' },
    commit: { type: 'string', default: 'unknown' },
    parts: { type: 'string', default: 'copies,connectors,convert,steps,requests' },
  },
});
const devices = values.devices.split(',').map((name) => {
  const [kind, index = '0'] = name.split(':');
  return { kind, index: Number(index), threadCount: kind === 'cpu' ? 1 : 0 };
});
const isGpu = devices[0].kind === 'cuda';
const gigabytes = (bytes, ms) => Math.round((bytes / ms / 1e6) * 100) / 100;
const rounded = (ms) => Math.round(ms * 1000) / 1000;
const sorted = (numbers) => [...numbers].sort((a, b) => a - b);
const median = (numbers) => sorted(numbers)[Math.floor(numbers.length / 2)];
const percentile = (numbers, share) =>
  sorted(numbers)[Math.min(numbers.length - 1, Math.floor(share * numbers.length))];
const mean = (numbers) => numbers.reduce((sum, value) => sum + value, 0) / numbers.length;
const ids = (count, first = 0) => Array.from({ length: count }, (_, i) => first + i);

function modelFolder() {
  if (values.model !== undefined) return path.resolve(values.model);
  const folder = mkdtempSync(path.join(os.tmpdir(), 'qwen3-8b-shape-'));
  writeFileSync(path.join(folder, 'config.json'), JSON.stringify(qwen3Of8B));
  return folder;
}

// ---- the other process: a decode worker's engine, which others write into

async function openTarget() {
  const device = openDevice(devices[1]);
  const limits = { rowCountMax: 2048, logitRowCountMax: decodeBatch };
  const options = {
    device,
    limits,
    loadFormat: 'dummy',
    dtype: 'auto',
    quantize: 'none',
    maxModelTokenCount: 4096,
  };
  const model = await loadModel(values.model, options);
  const dtype = isGpu ? 'bf16' : 'f32';
  const blockCount = isGpu ? 4400 : 2600;
  const engine = new Engine({
    device,
    model,
    kv: { blockTokenCount: 16, blockCount, dtype },
    clock: systemClock,
    depth: 2,
    prefixCaching: 'off',
    tokenBudget: 2048,
    prefillChunkTokenCount: 2048,
    sequenceCountMax: decodeBatch,
    maxModelTokenCount: 4096,
  });
  return { device, engine, dtype };
}

async function beTarget() {
  const { device, engine, dtype } = await openTarget();
  const { layout, blockCount } = engine.cache;
  const identity = { protocolVersion: 1, modelName: 'bench', dtype, layoutHash: layout.hash };
  const options = {
    device,
    cache: engine.cache,
    identity,
    workerId: 'w1',
    host: '127.0.0.1',
    clock: systemClock,
  };
  const receiver = await KvReceiver.listen({ ...options, logger: silentLogger, accepts: () => true });
  const prng = new Prng(3);
  let serial = 0;
  const fill = async () => {
    const sampling = { ...greedy, maxTokenCount: 2500, endTokenIds: [] };
    for (let i = 0; i < decodeBatch; i++) {
      engine.add({
        id: `d${serial++}`,
        promptIds: Array.from({ length: decodeContext }, () => prng.integer(5, 900)),
        sampling,
      });
    }
    let running = 0;
    while (running < decodeBatch)
      running +=
        (await engine.step()).filter((event) => event.kind === 'tokens').length === decodeBatch
          ? decodeBatch
          : 0;
  };
  const steps = async (count) => {
    const times = [];
    let last = systemClock.nowMs();
    for (let i = 0; i < count; i++) {
      while ((await engine.step()).length === 0);
      const now = systemClock.nowMs();
      times.push(now - last);
      last = now;
      await systemClock.yield();
    }
    return times.slice(2);
  };
  process.on('message', async ({ kind, count }) => {
    if (kind === 'fill') process.send(await fill().then(() => ({ filled: true })));
    if (kind === 'steps') process.send({ times: await steps(count) });
    if (kind === 'read')
      process.send({
        readBytesPerSecond: await device.measureReadBytesPerSecond(isGpu ? 2 ** 31 : 2 ** 27, 3),
      });
  });
  process.on('disconnect', () => process.exit(0));
  const target = {
    workerId: 'w1',
    incarnation: 1,
    cache: engine.cache.export(),
    blockCount,
    kv: identity,
    receiver: receiver.address,
  };
  process.send({ target, shape: layout.shape, deviceName: device.info.name });
}

const next = (child) => new Promise((resolve) => child.once('message', resolve));
const ask = (child, message) => {
  const answer = next(child);
  child.send(message);
  return answer;
};

// ---- part 1

async function timesOf(count, run) {
  const times = [];
  for (let i = 0; i < count + 1; i++) {
    const start = performance.now();
    await run();
    times.push(performance.now() - start);
  }
  return times.slice(1);
}

async function measureCopies({ device, cache, stream }, { target }) {
  const bytes = isGpu ? 2 ** 28 : 2 ** 25;
  const [host, onDevice] = [device.allocateHost(bytes), device.allocate(bytes)];
  const rate = async (to, from, count) =>
    gigabytes(
      count,
      Math.min(
        ...(await timesOf(6, async () => {
          stream.copy(to, from, count);
          await stream.wait();
        })),
      ),
    );
  const result = {
    pinnedDeviceToHost: await rate(host.pointer, onDevice, bytes),
    pinnedHostToDevice: await rate(onDevice, host.pointer, bytes),
  };
  const other = device.importCache(target.cache);
  const peerBytes = Math.min(2 ** 30, target.cache.bytes, cache.blockCount * cache.layout.blockBytes);
  result.peerCopyBytes = peerBytes;
  result.peerCopy = await rate(device.cachePointer(other), cache.pointer, peerBytes);
  device.closeCache(other);
  device.releaseHost(host);
  device.release(onDevice);
  return result;
}

// ---- part 2

/** Pushes like a hand-over does; one push at a time. */
class Pusher {
  constructor(source, channel, blockCount) {
    this.source = source;
    this.channel = channel;
    this.blocks = ids(blockCount);
    this.bytes = blockCount * source.cache.layout.blockBytes;
    this.event = source.device.createEvent();
    source.stream.record(this.event);
  }

  async push(pieces, targetBlocks = this.blocks) {
    const { layout } = this.source.cache;
    const transfer = this.channel.begin('r', 1);
    const { layerCount } = layout.shape;
    const span = layerCount / pieces;
    for (let layer = 0; layer < layerCount; layer += span) {
      const piece = { sourceBlocks: this.blocks, targetBlocks, firstLayer: layer, layerEnd: layer + span };
      transfer.push([piece], this.event);
    }
    await transfer.finish({
      requestId: 'r',
      epoch: 1,
      layoutHash: layout.hash,
      tokenCount: 1,
      firstTokens: [1],
    });
  }
}

async function bytesOf({ device, stream }, pointer, byteCount) {
  const host = device.allocateHost(byteCount);
  stream.copy(host.pointer, pointer, byteCount);
  await stream.wait();
  const copy = Buffer.from(host.bytes);
  device.releaseHost(host);
  return copy;
}

async function bytesThere(source, target, byteCount) {
  const other = source.device.importCache(target.cache);
  const bytes = await bytesOf(source, source.device.cachePointer(other), byteCount);
  source.device.closeCache(other);
  return bytes;
}

async function measureConnector(source, connector, target, blockCount) {
  const channel = await connector.open(target);
  const pusher = new Pusher(source, channel, blockCount);
  const figures = async (pieces, targetBlocks) => {
    await pusher.push(pieces, targetBlocks);
    const times = await timesOf(isGpu ? 12 : 4, () => pusher.push(pieces, targetBlocks));
    return {
      best: gigabytes(pusher.bytes, Math.min(...times)),
      median: gigabytes(pusher.bytes, median(times)),
      msMedian: rounded(median(times)),
    };
  };
  source.stream.random(
    { pointer: source.cache.pointer, shape: [pusher.bytes / 4], dtype: 'f32' },
    connector.name.length,
    1,
    0,
  );
  await source.stream.wait();
  const before = process.cpuUsage();
  // no two neighbours stay neighbours
  const shuffled = [...pusher.blocks].sort((a, b) => ((a * 37) % 101) - ((b * 37) % 101));
  const wholeShuffled = await figures(1, shuffled);
  const whole = await figures(1);
  const layerByLayer = await figures(source.cache.layout.shape.layerCount);
  const { user, system } = process.cpuUsage(before);
  await connector.close();
  const isEqual = (await bytesOf(source, source.cache.pointer, pusher.bytes)).equals(
    await bytesThere(source, target, pusher.bytes),
  );
  return {
    bytes: pusher.bytes,
    unit: 'GB/s',
    isEqual,
    whole,
    wholeShuffled,
    layerByLayer,
    sourceCpuMs: Math.round((user + system) / 1000),
  };
}

/** 2,048 tokens packed into pinned host memory and back, here and by the CPU library: the bytes must be the
 *  same. */
async function measureConversions({ device, cache, stream }, blockCount) {
  const { layout } = cache;
  const { layerCount, kvHeadCount, headDim, blockTokenCount, dtype } = layout.shape;
  const cpu = openDevice({ kind: 'cpu', index: 0, threadCount: 1 });
  const cpuCache = new KvCache(cpu, layout, 2 * blockCount);
  const cpuStream = cpu.createStream();
  const tokenCount = blockCount * blockTokenCount;
  stream.random(
    { pointer: cache.pointer, shape: [(blockCount * layout.blockBytes) / dtypeByteCounts[dtype]], dtype },
    5,
    1,
    0,
  );
  await stream.wait();
  const original = await bytesOf({ device, stream }, cache.pointer, blockCount * layout.blockBytes);
  const input = cpu.allocateHost(original.length);
  input.bytes.set(original);
  cpuStream.copy(cpuCache.pointer, input.pointer, original.length);
  const blocks = ids(blockCount);
  const range = {
    targetStart: 0,
    sourceStart: 0,
    tokenCount,
    targetLayer: 0,
    sourceLayer: 0,
    layerCount,
    firstHead: 0,
    headCount: kvHeadCount,
    headDim,
  };
  const result = {};
  for (const wireDtype of ['fp8', 'i8']) {
    const wire = new WireLayout({
      dtype: wireDtype,
      blockTokenCount,
      layerCount,
      firstHead: 0,
      headCount: kvHeadCount,
      headDim,
    });
    const staging = device.allocateHost(wire.blockBytes * blockCount);
    const onCpu = cpu.allocateHost(wire.blockBytes * blockCount);
    const pack = async () => {
      stream.moveKv(wire.place(staging.pointer, blockCount), layout.place(cache.pointer, blocks), range);
      await stream.wait();
    };
    const unpack = async () => {
      stream.moveKv(
        layout.place(cache.pointer, ids(blockCount, blockCount)),
        wire.place(staging.pointer, blockCount),
        range,
      );
      await stream.wait();
    };
    const packMs = median(await timesOf(5, pack));
    const unpackMs = median(await timesOf(5, unpack));
    cpuStream.moveKv(wire.place(onCpu.pointer, blockCount), layout.place(cpuCache.pointer, blocks), range);
    cpuStream.moveKv(
      layout.place(cpuCache.pointer, ids(blockCount, blockCount)),
      wire.place(onCpu.pointer, blockCount),
      range,
    );
    await cpuStream.wait();
    const offset = blockCount * layout.blockBytes;
    const [here, there] = [
      await bytesOf({ device, stream }, cache.pointer + offset, offset),
      await bytesOf({ device: cpu, stream: cpuStream }, cpuCache.pointer + offset, offset),
    ];
    result[wireDtype] = {
      isPackedEqual: Buffer.from(staging.bytes).equals(Buffer.from(onCpu.bytes)),
      isUnpackedEqual: here.equals(there),
      wireBytes: wire.blockBytes * blockCount,
      packMs: rounded(packMs),
      unpackMs: rounded(unpackMs),
      packedGigabytesPerSecond: gigabytes(wire.blockBytes * blockCount, packMs),
      unpackedGigabytesPerSecond: gigabytes(wire.blockBytes * blockCount, unpackMs),
    };
    device.releaseHost(staging);
    cpu.releaseHost(onCpu);
  }
  return result;
}

// ---- part 3

async function measureSteps(child, source, target, blockCount) {
  await ask(child, { kind: 'fill' });
  const { readBytesPerSecond } = await ask(child, { kind: 'read' });
  const connector = new PeerConnector(source.kv);
  const pusher = new Pusher(source, await connector.open(target), blockCount);
  const [count, rounds] = isGpu ? [60, 4] : [20, 2];
  const layerCount = source.cache.layout.shape.layerCount;
  const during = async (push) => {
    const state = { isRunning: true, pushCount: 0 };
    const pushing = (async () => {
      while (state.isRunning) {
        await push(state);
        state.pushCount++;
      }
    })();
    const start = performance.now();
    const { times } = await ask(child, { kind: 'steps', count });
    const elapsedMs = performance.now() - start;
    state.isRunning = false;
    const pushCount = state.pushCount;
    await pushing;
    return { times, pushCount, elapsedMs };
  };
  const all = { alone: [], oneEach: [], continuous: [] };
  const pushed = { oneEach: { count: 0, ms: 0 }, continuous: { count: 0, ms: 0 } };
  await ask(child, { kind: 'steps', count });
  for (let round = 0; round < rounds; round++) {
    const { times } = await ask(child, { kind: 'steps', count });
    all.alone.push(...times);
    const stepMs = median(times);
    const pushes = {
      oneEach: async () => {
        const start = performance.now();
        await pusher.push(1);
        await systemClock.sleep(Math.max(0, stepMs - (performance.now() - start)));
      },
      continuous: () => pusher.push(layerCount),
    };
    for (const [name, push] of Object.entries(pushes)) {
      const { times: slowed, pushCount, elapsedMs } = await during(push);
      all[name].push(...slowed);
      pushed[name].count += pushCount;
      pushed[name].ms += elapsedMs;
    }
  }
  await connector.close();
  const figures = (name) => {
    const { count: pushCount, ms } = pushed[name] ?? { count: 0, ms: 1 };
    const slower = Math.round(10 * (100 * (mean(all[name]) / mean(all.alone) - 1))) / 10;
    const receivedBytesPerSecond = Math.round((pushCount * pusher.bytes * 1000) / ms);
    const shareOfRead = Math.round((1000 * receivedBytesPerSecond) / readBytesPerSecond) / 10;
    const times = {
      meanMs: rounded(mean(all[name])),
      medianMs: rounded(median(all[name])),
      p90Ms: rounded(percentile(all[name], 0.9)),
    };
    return {
      ...times,
      slowerPercent: slower,
      handOversPerStep: rounded(pushCount / all[name].length),
      receivedBytesPerSecond,
      shareOfMemoryBandwidthPercent: shareOfRead,
    };
  };
  const head = {
    batch: decodeBatch,
    context: decodeContext,
    stepCount: all.alone.length,
    memoryReadBytesPerSecond: Math.round(readBytesPerSecond),
  };
  return {
    ...head,
    alone: figures('alone'),
    oneHandOverEach: figures('oneEach'),
    continuous: figures('continuous'),
  };
}

// ---- part 4

async function measureRequests(folder, connector) {
  const workers = devices
    .map(({ kind, index }) => (kind === 'cpu' ? 'any:cpu?threads=1' : `any:cuda:${index}`))
    .join(',');
  const gateway = await startGateway({
    workers,
    strategy: 'adaptive',
    settings: {
      modelFolder: folder,
      loadFormat: 'dummy',
      blockCount: 2000,
      gpuMemoryShare: 0.8,
      sequenceCountMax: 16,
      maxModelTokenCount: isGpu ? 9000 : 3000,
      tokenBudget: 2048,
      prefillChunkTokenCount: 2048,
      connector,
    },
  });
  const records = new Map();
  gateway.onMeasured((record) => records.set(record.id, record));
  const prng = new Prng(11);
  const routes = {
    disaggregated: {
      path: 'disaggregated',
      prefillWorker: 'w0',
      decodeWorker: 'w1',
      reason: 'measured',
      estimates: {},
    },
    collocated: { path: 'collocated', worker: 'w0', reason: 'measured', estimates: {} },
  };
  let serial = 0;
  const run = async (promptCount, routeName) => {
    const id = `r${++serial}`;
    const promptIds = Array.from({ length: promptCount }, () => prng.integer(5, 900));
    const sampling = { ...greedy, maxTokenCount: 4, endTokenIds: [] };
    for await (const event of gateway.submit({ id, promptIds, sampling, measuredRoute: routes[routeName] }))
      void event;
    while (!records.has(id)) await systemClock.sleep(1);
    await systemClock.sleep(5); // blocks are given back
    return records.get(id);
  };
  try {
    await gateway.ready;
    await systemClock.sleep(1500); // links are being measured
    const result = {};
    for (const promptCount of isGpu ? [512, 2048, 8192] : [256, 1024]) {
      for (const routeName of Object.keys(routes)) await run(promptCount, routeName);
      const rows = { disaggregated: [], collocated: [] };
      for (let i = 0; i < (isGpu ? 12 : 3); i++)
        for (const name of Object.keys(rows)) rows[name].push(await run(promptCount, name));
      const ttft = (row) => row.firstTokenMs - row.arrivalMs;
      const handed = rows.disaggregated.filter(
        ({ routes: taken }) => taken.length === 1 && taken[0].path === 'disaggregated',
      );
      const exposed = handed.map(({ exposedTransferMs }) => exposedTransferMs);
      const resumed = handed.map(({ resumedMs, landedMs }) => resumedMs - landedMs);
      const landed = handed.map(({ landedMs, firstTokenMs }) => landedMs - firstTokenMs);
      result[promptCount] = {
        handOverCount: handed.length,
        bytes: handed[0].transferBytes,
        ttftMsMedian: {
          disaggregated: rounded(median(handed.map(ttft))),
          collocated: rounded(median(rows.collocated.map(ttft))),
        },
        exposedMs: {
          median: rounded(median(exposed)),
          best: rounded(Math.min(...exposed)),
          max: rounded(Math.max(...exposed)),
        },
        firstTokenToLandedMsMedian: rounded(median(landed)),
        landedToSchedulableMsMedian: rounded(median(resumed)),
        exposedShareOfTtftPercent: Math.round((1000 * median(exposed)) / median(handed.map(ttft))) / 10,
      };
    }
    const links = gateway
      .workers()
      .flatMap(({ id, connectors }) =>
        connectors.map(({ peer, name, trials }) => ({ from: id, peer, name, trials })),
      );
    return { links, prompts: result };
  } finally {
    await gateway.stop();
  }
}

async function main() {
  const parts = values.parts.split(',');
  const folder = modelFolder();
  const child = fork(import.meta.filename, [
    '--role',
    'target',
    '--devices',
    values.devices,
    '--model',
    folder,
  ]);
  const there = await next(child);
  const { KvLayout } = await import('#built/kv/kv-layout.js');
  const layout = new KvLayout(there.shape);
  const blockCount = handOverTokenCount / layout.shape.blockTokenCount;
  const device = openDevice(devices[0]);
  const cache = new KvCache(device, layout, isGpu ? 512 : 2 * blockCount);
  const stream = device.createStream();
  const identity = there.target.kv;
  const source = { device, cache, stream, kv: { device, cache, identity, clock: systemClock } };
  const result = {
    command: `node bench/transfer/gpu.mjs --devices ${values.devices}`,
    commit: values.commit,
    machine: {
      devices: [device.info.name, there.deviceName],
      cpu: os.cpus()[0]?.model,
      cores: os.availableParallelism(),
      node: process.version,
    },
    model: values.model ?? 'Qwen3-8B shape, random weights',
    kv: { blockBytes: layout.blockBytes, blockCount, bytes: blockCount * layout.blockBytes },
  };
  const save = () =>
    values.json !== undefined && writeFileSync(values.json, `${JSON.stringify(result, null, 2)}\n`);
  const part = async (name, run) => {
    const start = performance.now();
    try {
      Object.assign(result, await run());
    } catch (error) {
      result[`${name}Failed`] = String(error?.stack ?? error);
    }
    console.log(name, `${Math.round(performance.now() - start)} ms`, result[`${name}Failed`] ?? '');
    save(); // a run that is cut short keeps what it has
  };
  if (parts.includes('copies'))
    await part('copies', async () => ({ copies: await measureCopies(source, there) }));
  const connectors = { peer: PeerConnector, hostRelay: HostRelayConnector, tcp: TcpConnector };
  if (parts.includes('connectors')) {
    for (const [name, Connector] of Object.entries(connectors)) {
      await part(name, async () => ({
        [name]: await measureConnector(source, new Connector(source.kv), there.target, blockCount),
      }));
    }
  }
  if (parts.includes('convert'))
    await part('convert', async () => ({ conversions: await measureConversions(source, blockCount) }));
  if (parts.includes('steps'))
    await part('steps', async () => ({
      decodeSteps: await measureSteps(child, source, there.target, blockCount),
    }));
  child.disconnect();
  await new Promise((resolve) => child.once('exit', resolve));
  cache.close();
  result.requests = {};
  if (parts.includes('requests')) {
    for (const name of ['peer', 'host-relay', 'tcp']) {
      await part(`requests-${name}`, async () => {
        result.requests[name] = await measureRequests(folder, name);
      });
    }
  }
  if (result.copies !== undefined && result.peer !== undefined) {
    result.peerShareOfPeerCopy =
      Math.round((1000 * result.peer.whole.median) / result.copies.peerCopy) / 1000;
    const pinned = Math.min(result.copies.pinnedDeviceToHost, result.copies.pinnedHostToDevice);
    if (result.hostRelay !== undefined)
      result.hostRelayShareOfPinned = Math.round((1000 * result.hostRelay.whole.median) / pinned) / 1000;
  }
  console.log(JSON.stringify(result, null, 1));
  save();
  process.exit(0);
}

await (values.role === 'target' ? beTarget() : main());
