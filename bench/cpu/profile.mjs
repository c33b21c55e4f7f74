#!/usr/bin/env node
/* Where our forward pass spends its time, op by op: for whoever optimises a kernel.

     node bench/cpu/profile.mjs [--threads N] [--quantize none|int8] [--repeats N]

   Records the ops of one pass, then runs them kind by kind and times each kind. What a product reads and
   computes per second stands
   beside it. Needs build/bench/qwen3-0.6b (bench.mjs makes it) and a built dist/. */
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { openDevice } from '#built/device/native.js';
import { KvLayout } from '#built/kv/kv-layout.js';
import { loadModel } from '#built/model/load.js';
import { createForwardRunner } from './forward.mjs';
import { batchCountMax, phases, promptTokenCount } from './workload.mjs';

const modelFolder = path.resolve(import.meta.dirname, '../../build/bench/qwen3-0.6b');
const maxModelTokenCount = promptTokenCount + 16;

/** A stream that keeps what is enqueued; `wait` then runs it grouped by kind of op, one wait a group, and
 *  adds up times in `totals`. Grouped, since a wait a call would cost as much as a small op; every layer's
 *  weights are still read once, in layer order. */
function createTimedStream(stream, totals) {
  let groups = new Map();
  const ops = new Proxy(stream.ops, {
    get:
      (target, name) =>
      (...args) => {
        const label = labelOf(name, args);
        const group = groups.get(label) ?? [];
        group.push({ work: workOf(name, args), run: () => target[name](...args) });
        groups.set(label, group);
      },
  });
  return {
    ops,
    random: (...args) => stream.random(...args),
    async wait() {
      await stream.wait();
      for (const [label, calls] of groups) {
        const started = performance.now();
        for (const { run } of calls) run();
        await stream.wait();
        const ms = performance.now() - started;
        const total = totals.get(label) ?? { callCount: 0, ms: 0, bytes: 0, operations: 0 };
        total.ms += ms;
        total.callCount += calls.length;
        for (const { work } of calls) {
          total.bytes += work.bytes;
          total.operations += work.operations;
        }
        totals.set(label, total);
      }
      groups = new Map();
    },
  };
}

/** linear's arguments: out, x, weight, bias, rows */
const labelOf = (name, args) =>
  name === 'linear' ? `linear [${args[2].n}, ${args[2].k}] ${args[2].format}` : name;

function workOf(name, args) {
  if (name !== 'linear') return { bytes: 0, operations: 0 };
  const [, , weight, , rows] = args;
  return { bytes: weight.bytes, operations: 2 * weight.n * weight.k * rows };
}

function print(title, totals, passCount) {
  const all = [...totals.values()].reduce((sum, { ms }) => sum + ms, 0);
  console.log(`\n${title}: ${(all / passCount).toFixed(2)} ms in ops`);
  for (const [label, { callCount, ms, bytes, operations }] of [...totals].sort((a, b) => b[1].ms - a[1].ms)) {
    const rates =
      bytes === 0
        ? ''
        : `${(bytes / ms / 1e6).toFixed(1)} GB/s  ${(operations / ms / 1e6).toFixed(0)} GFLOP/s`;
    const share = `${((ms / all) * 100).toFixed(1)} %`;
    const calls = `${callCount / passCount} calls`;
    console.log(
      `  ${label.padEnd(28)} ${(ms / passCount).toFixed(3).padStart(9)} ms ${share.padStart(7)}  ${calls.padEnd(10)} ${rates}`,
    );
  }
}

async function main() {
  const { values } = parseArgs({
    options: {
      threads: { type: 'string', default: String(os.availableParallelism()) },
      quantize: { type: 'string', default: 'none' },
      repeats: { type: 'string', default: '3' },
    },
  });
  const passCount = Number(values.repeats);
  const device = openDevice({ kind: 'cpu', index: 0, threadCount: Number(values.threads) });
  const limits = { rowCountMax: promptTokenCount, logitRowCountMax: batchCountMax };
  const options = {
    device,
    loadFormat: 'auto',
    dtype: 'auto',
    quantize: values.quantize,
    limits,
    maxModelTokenCount,
  };
  const model = await loadModel(modelFolder, options);
  const { layerCount, kvHeadCount, headDim } = model.config;
  const shape = { modelName: 'bench', layerCount, kvHeadCount, headDim, blockTokenCount: 16, dtype: 'bf16' };
  const totals = new Map();
  const stream = createTimedStream(device.createStream(), totals);
  const runner = createForwardRunner({
    device,
    model,
    layout: new KvLayout(shape),
    maxModelTokenCount,
    stream,
  });
  console.log(`${device.info.name}, ${device.info.isa}, ${values.threads} threads`);
  for (const { name, batchCount } of phases) {
    const pass = (seed) => (batchCount === 0 ? runner.prefill(seed) : runner.decode(batchCount, 1));
    await pass(0);
    totals.clear();
    for (let index = 0; index < passCount; index++) await pass(index);
    print(name, totals, passCount);
  }
  process.exit(); // the device's threads have nothing left to do
}

await main();
