/** How much of a decode step is the host's work, by folder of the source: a CPU profile of the main thread
 *  over many steps of the demo model. Prints one JSON object on the last line.
 *
 *    node scripts/engine-host-share.mjs [--sequences 64] [--steps 500] [--depth 2] */
import { Session } from 'node:inspector/promises';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { systemClock } from '#built/base/clock.js';
import { openDevice } from '#built/device/native.js';
import { Engine } from '#built/engine/engine.js';
import { greedy } from '#built/engine/sampling-params.js';
import { loadModel } from '#built/model/load.js';

const { values } = parseArgs({
  options: {
    sequences: { type: 'string', default: '64' },
    steps: { type: 'string', default: '500' },
    depth: { type: 'string', default: '2' },
  },
});
const [sequenceCount, stepCount, depth] = [values.sequences, values.steps, values.depth].map(Number);
const root = path.resolve(import.meta.dirname, '..');

const maxModelTokenCount = 2048;
const limits = { rowCountMax: 512, logitRowCountMax: sequenceCount };
const device = openDevice({ kind: 'cpu', index: 0, threadCount: 0 });
const model = await loadModel(path.join(root, 'models/demo-6m'), {
  device,
  limits,
  maxModelTokenCount,
  loadFormat: 'auto',
  dtype: 'auto',
  quantize: 'none',
});
const warmUpCount = 200;
const promptTokenCount = 50;
const blockCount = sequenceCount * Math.ceil((promptTokenCount + warmUpCount + stepCount + 200) / 16);
const engine = new Engine({
  device,
  model,
  maxModelTokenCount,
  depth,
  clock: systemClock,
  prefixCaching: 'on',
  kv: { blockTokenCount: 16, blockCount, dtype: 'bf16' },
  tokenBudget: 512,
  prefillChunkTokenCount: 256,
  sequenceCountMax: sequenceCount,
});
for (let i = 0; i < sequenceCount; i++) {
  const promptIds = Array.from({ length: promptTokenCount }, (_, j) => 3 + ((i * 31 + j * 7) % 4000));
  engine.add({
    id: `r${i}`,
    promptIds,
    sampling: { ...greedy, temperature: 1, seed: i, maxTokenCount: maxModelTokenCount },
  });
}
while (engine.snapshot().decodingCount < sequenceCount) await engine.step();
for (let i = 0; i < warmUpCount; i++) await engine.step();

const session = new Session();
session.connect();
await session.post('Profiler.enable');
await session.post('Profiler.setSamplingInterval', { interval: 100 });
await session.post('Profiler.start');
const startMs = performance.now();
for (let i = 0; i < stepCount; i++) await engine.step();
const stepMs = (performance.now() - startMs) / stepCount;
const { profile } = await session.post('Profiler.stop');
await engine.close();

const nodes = new Map(profile.nodes.map((node) => [node.id, node]));
const microseconds = {};
profile.samples.forEach((id, i) => {
  const { functionName, url } = nodes.get(id).callFrame;
  const folder =
    /dist\/src\/(\w+)\//.exec(url)?.[1] ??
    (functionName === '(idle)'
      ? 'idle'
      : functionName === '(program)'
        ? 'native calls'
        : 'node and profiler');
  microseconds[folder] = (microseconds[folder] ?? 0) + profile.timeDeltas[i] / stepCount;
});
const rounded = Object.fromEntries(
  Object.entries(microseconds).map(([folder, value]) => [folder, Math.round(value)]),
);
const report = {
  sequenceCount,
  stepCount,
  depth,
  stepMs,
  microsecondsPerStep: rounded,
  cpu: os.cpus()[0]?.model,
  node: process.version,
};
process.stdout.write(`${JSON.stringify(report)}\n`);
process.exit(0);
