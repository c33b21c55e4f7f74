/** Times the real engine on a Qwen3-8B-shaped model with random weights. Used by engine.ts;
 *  bench/gpu/report.py puts the rows beside their floors.
 *
 *  A run adds `count` requests at once and steps until all have ended, on an engine that was warmed up as a
 *  worker is (worker/warm-up.ts) and has run the same requests with a few tokens before. Times are the
 *  host's, from before the first step to after the last; the host's share comes from the GPU's own events. */
import { statSync } from 'node:fs';
import path from 'node:path';
import { systemClock } from '../../src/base/clock.js';
import { Prng } from '../../src/base/prng.js';
import type { Device } from '../../src/device/device.js';
import type { Dtype } from '../../src/device/dtype.js';
import type { Engine, EngineHooks } from '../../src/engine/engine.js';
import { greedy } from '../../src/engine/sampling-params.js';
import { loadModel } from '../../src/model/load.js';
import type { Model } from '../../src/model/model.js';
import { warmUp } from '../../src/worker/warm-up.js';
import { dummyLimits, loadDummy } from './dummy-model.js';
import { GraphTimer } from './graph-timer.js';
import { nextId, open, openEngine, row } from './rig.js';

interface Load {
  readonly count: number;
  readonly promptCount: number;
  readonly outCount: number;
}

const loads: readonly Load[] = [
  { count: 1, promptCount: 448, outCount: 128 },
  { count: 1, promptCount: 1984, outCount: 128 },
  { count: 8, promptCount: 448, outCount: 128 },
  { count: 32, promptCount: 448, outCount: 128 },
  { count: 32, promptCount: 1984, outCount: 128 },
  { count: 256, promptCount: 512, outCount: 256 },
  { count: 1, promptCount: 512, outCount: 1 },
  { count: 1, promptCount: 2048, outCount: 1 },
];
/** For the variants: a step bound by weights, one bound by KV, the throughput run, a prompt. */
const fewLoads = loads.filter((_, i) => [0, 4, 5, 7].includes(i));

const median = (values: readonly number[]) =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;

export async function bench(device: Device): Promise<void> {
  const timer = new GraphTimer(device);
  const startMs = systemClock.nowMs();
  const model = await loadDummy(device);
  row('dummy weights made', systemClock.nowMs() - startMs, 'ms');
  await warm(device, model);
  for (const load of loads) await measure('engine', device, model, load);
  for (const load of [loads[0]!, loads[5]!]) await measureHostShare(timer, model, load);
  model.close();
  timer.close();
}

export async function benchInvariant(): Promise<void> {
  const device = open('on');
  const model = await loadDummy(device);
  await warm(device, model);
  for (const load of fewLoads) await measure('batch-invariant engine', device, model, load);
  model.close();
  device.close();
}

/** Weights, activations of products and the KV cache in 8 bits. */
export async function benchFp8(device: Device): Promise<void> {
  if (!device.supports('linear', 'fp8')) return console.log('no fp8 products on this device');
  const model = await loadDummy(device, { quantize: 'fp8' });
  await warm(device, model);
  for (const load of fewLoads) await measure('fp8 engine', device, model, load);
  if (device.supports('paged_attention', 'fp8'))
    for (const load of fewLoads.slice(0, 3)) await measure('fp8 engine, fp8 KV', device, model, load, 'fp8');
  model.close();
}

const stepLimits = {
  tokenBudget: dummyLimits.rowCountMax,
  prefillChunkTokenCount: dummyLimits.rowCountMax,
  sequenceCountMax: 256,
  maxModelTokenCount: 8192,
  depth: 2 as const,
  clock: systemClock,
};

async function warm(device: Device, model: Model): Promise<void> {
  const startMs = systemClock.nowMs();
  const { graphBytes } = await warmUp({
    device,
    model,
    ...stepLimits,
    kv: { blockTokenCount: 16, dtype: 'bf16' },
  });
  console.log(
    `warmed up in ${(systemClock.nowMs() - startMs).toFixed(0)} ms, ${(graphBytes / 2 ** 20).toFixed(2)} MiB a graph`,
  );
}

function engineFor(
  device: Device,
  model: Model,
  { count, promptCount, outCount }: Load,
  kvDtype: Dtype,
  hooks: EngineHooks,
): Engine {
  const blockCount = Math.ceil(Math.ceil((promptCount + outCount) / 16) * count * 1.02) + count + 1;
  const kv = { blockTokenCount: 16, blockCount, dtype: kvDtype };
  return openEngine(device, model, { ...stepLimits, kv, prefixCaching: 'off' }, hooks);
}

async function measure(
  prefix: string,
  device: Device,
  model: Model,
  load: Load,
  kvDtype: Dtype = 'bf16',
): Promise<void> {
  const { count, promptCount, outCount } = load;
  const mixed = { ms: 0, rowCount: 0 };
  const hooks: EngineHooks = {
    onStep: ({ decodeCount, prefillTokenCount, ms }) => {
      if (prefillTokenCount === 0) return;
      mixed.ms += ms;
      mixed.rowCount += prefillTokenCount + decodeCount;
    },
  };
  const engine = engineFor(device, model, load, kvDtype, hooks);
  await run(engine, { ...load, outCount: Math.min(4, outCount) });
  Object.assign(mixed, { ms: 0, rowCount: 0 });
  const { elapsedMs, firstTokenMs, stepMs, tokenCount } = await run(engine, load);
  const name = `${prefix} ${count} x ${promptCount} in ${outCount} out`;
  row(`${name}: time to first token`, firstTokenMs, 'ms');
  if (stepMs.length > 8) row(`${name}: decode step`, median(stepMs), 'ms');
  row(`${name}: all`, elapsedMs, 'ms');
  row(`${name}: output rate`, (tokenCount / elapsedMs) * 1000, 'tok/s');
  if (count > 8)
    row(`${name}: steps with prompts, ms per 1000 rows`, (1000 * mixed.ms) / mixed.rowCount, 'ms');
  await engine.close();
}

/** Of steps with all sequences, after half of their tokens. */
async function measureHostShare(timer: GraphTimer, model: Model, load: Load): Promise<void> {
  const engine = engineFor(timer.device, model, load, 'bf16', {});
  addAll(engine, load);
  for (let fullCount = 0; fullCount < load.outCount / 2; ) {
    const made = (await engine.step()).filter((event) => event.kind === 'tokens').length;
    if (made === load.count) fullCount++;
  }
  await engine.quiesced();
  const share = 100 * (await timer.hostShare());
  row(
    `engine ${load.count} x ${load.promptCount} in ${load.outCount} out: host's share of a decode step`,
    share,
    '%',
  );
  await engine.close();
}

const prng = new Prng(5);

function addAll(engine: Engine, { count, promptCount, outCount }: Load): void {
  const sampling = { ...greedy, maxTokenCount: outCount };
  for (let i = 0; i < count; i++) {
    const promptIds = Array.from({ length: promptCount }, () => prng.integer(0, 149_999));
    engine.add({ id: nextId(), promptIds, sampling });
  }
}

async function run(engine: Engine, load: Load) {
  const { count } = load;
  addAll(engine, load);
  const startMs = systemClock.nowMs();
  const stepMs: number[] = [];
  let [firstTokenMs, tokenCount, lastMs] = [0, 0, startMs];
  while (engine.hasWork) {
    const events = await engine.step();
    const nowMs = systemClock.nowMs();
    const made = events.filter((event) => event.kind === 'tokens').length;
    tokenCount += made;
    if (made > 0 && firstTokenMs === 0) firstTokenMs = nowMs - startMs;
    if (made === count) stepMs.push(nowMs - lastMs);
    lastMs = nowMs;
  }
  return { elapsedMs: systemClock.nowMs() - startMs, firstTokenMs, stepMs, tokenCount };
}

/** A model folder of 16 GB (scripts/make-bench-model.mjs --shape 8b) that lies in the page cache: read it
 *  once before. */
export async function benchLoading(device: Device): Promise<void> {
  const folder = process.env.TWOSTROKE_BENCH_MODEL;
  if (folder === undefined)
    return console.log('TWOSTROKE_BENCH_MODEL names no model: loading is not measured');
  const gigabytes = statSync(path.join(folder, 'model.safetensors')).size / 1e9;
  for (const name of ['first', 'second']) {
    const startMs = systemClock.nowMs();
    let updateCount = 0;
    const model = await loadModel(folder, {
      device,
      limits: dummyLimits,
      loadFormat: 'auto',
      dtype: 'bf16',
      quantize: 'none',
      maxModelTokenCount: 8192,
      onProgress: () => {
        updateCount++;
      },
    });
    const seconds = (systemClock.nowMs() - startMs) / 1000;
    row(`weights from page cache, ${name} time (${gigabytes.toFixed(1)} GB)`, seconds, 's');
    if (name === 'second') row('weights from page cache: rate', gigabytes / seconds, 'GB/s');
    if (updateCount < 100) console.log(`only ${updateCount} progress updates`);
    model.close();
  }
}
