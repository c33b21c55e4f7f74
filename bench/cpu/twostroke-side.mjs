/* Twostroke's side, from dist/. Child of bench.mjs.

   Two variants: `engine`, what a user of Engine gets (scheduler, sampling on the device, token events; timed
   from add() or the first
   all-decode step to the last token), and `forward`, the bare model (Model.forward + stream.wait, no
   sampling, fixed ids), whose
   difference is what the host costs. Prefix caching is on, so that the decode prompts are computed once;
   every timed prefill is fresh
   and checked to have no cached token. */
import fs from 'node:fs';
import path from 'node:path';
import { systemClock } from '#built/base/clock.js';
import { requestId } from '#built/base/ids.js';
import { openDevice } from '#built/device/native.js';
import { Engine } from '#built/engine/engine.js';
import { greedy } from '#built/engine/sampling-params.js';
import { loadModel } from '#built/model/load.js';
import { createForwardRunner } from './forward.mjs';
import { serveSide } from './side.mjs';
import { batchCountMax, promptIds, promptTokenCount } from './workload.mjs';

const kvDtype = 'bf16';
const blockTokenCount = 16;
const readBytes = 1 << 30;
/** Seeds of the decode prompts; timed prefills use small ones. */
const decodeSeed = 1_000_000;
let device;
let oneThreadDevice;
let engine;
let forward;
let requestCount = 0;

async function load({ modelFolder, threadCount, quantize, stepCountMax }) {
  device = openDevice({ kind: 'cpu', index: 0, threadCount });
  oneThreadDevice = threadCount === 1 ? device : openDevice({ kind: 'cpu', index: 0, threadCount: 1 });
  const maxModelTokenCount = promptTokenCount + stepCountMax + blockTokenCount;
  const started = performance.now();
  const model = await loadModel(modelFolder, {
    device,
    loadFormat: 'auto',
    dtype: 'auto',
    quantize,
    limits: { rowCountMax: promptTokenCount, logitRowCountMax: batchCountMax },
    maxModelTokenCount,
  });
  const loadMs = performance.now() - started;
  const settings = {
    threads: threadCount,
    tokenBudget: promptTokenCount,
    prefillChunkTokenCount: promptTokenCount,
    kvDtype,
    blockTokenCount,
    depth: 2,
  };
  const blockCount = 3 * batchCountMax * Math.ceil(maxModelTokenCount / blockTokenCount);
  engine = new Engine(
    {
      device,
      model,
      kv: { blockTokenCount, blockCount, dtype: kvDtype },
      tokenBudget: settings.tokenBudget,
      prefillChunkTokenCount: settings.prefillChunkTokenCount,
      sequenceCountMax: batchCountMax,
      maxModelTokenCount,
      prefixCaching: 'on',
      depth: settings.depth,
      clock: systemClock,
    },
    {},
  );
  forward = createForwardRunner({ device, model, layout: engine.cache.layout, maxModelTokenCount });
  const { name, isa } = device.info;
  const config = JSON.parse(fs.readFileSync(path.join(modelFolder, 'config.json'), 'utf8'));
  return {
    loadMs,
    settings: { ...settings, weightFormat: model.weightFormat },
    deviceName: name,
    isa,
    config,
  };
}

function request(promptSeed, maxTokenCount) {
  const id = requestId(`bench-${requestCount++}`);
  return { id, promptIds: promptIds(promptSeed), sampling: { ...greedy, maxTokenCount } };
}

/** From add() to the first token of 512 fresh prompt tokens. */
async function enginePrefill(seed) {
  const started = performance.now();
  engine.add(request(seed, 1));
  const tokens = [];
  while (engine.hasWork) {
    for (const event of await engine.step()) {
      if (event.kind === 'failed') throw new Error(event.error.message);
      if (event.kind === 'cached' && event.cachedTokenCount > 0)
        throw new Error(`${event.cachedTokenCount} prompt tokens were cached`);
      if (event.kind === 'tokens') tokens.push(...event.tokens);
    }
  }
  const ms = performance.now() - started;
  return { ms, tokenCount: promptTokenCount, firstToken: tokens[0].tokenId };
}

/** From the step that gave the last sequence its first token to the last token of all: stepCount tokens a
 *  sequence. */
async function engineDecode(batchCount, stepCount) {
  const counts = new Map();
  for (let sequence = 0; sequence < batchCount; sequence++) {
    const { id, ...rest } = request(decodeSeed + sequence, stepCount + 1);
    counts.set(id, 0);
    engine.add({ id, ...rest });
  }
  let started = null;
  let before = 0;
  let total = 0;
  while (engine.hasWork) {
    for (const event of await engine.step()) {
      if (event.kind === 'failed') throw new Error(event.error.message);
      if (event.kind !== 'tokens') continue;
      counts.set(event.requestId, counts.get(event.requestId) + event.tokens.length);
      total += event.tokens.length;
    }
    if (started === null && [...counts.values()].every((count) => count > 0)) {
      started = performance.now();
      before = total;
    }
  }
  const ms = performance.now() - started;
  if (total !== batchCount * (stepCount + 1))
    throw new Error(`${total} tokens, expected ${batchCount * (stepCount + 1)}`);
  return { ms, tokenCount: total - before };
}

serveSide({
  load,
  /** Puts the decode prompts into the prefix cache. */
  async fill() {
    for (let sequence = 0; sequence < batchCountMax; sequence++)
      engine.add(request(decodeSeed + sequence, 1));
    while (engine.hasWork) await engine.step();
  },
  measure({ variant, batchCount, stepCount, seed }) {
    if (variant === 'forward')
      return batchCount === 0 ? forward.prefill(seed) : forward.decode(batchCount, stepCount);
    return batchCount === 0 ? enginePrefill(seed) : engineDecode(batchCount, stepCount);
  },
  async measureRead({ repeats }) {
    return {
      oneThread: await oneThreadDevice.measureReadBytesPerSecond(readBytes, repeats),
      allThreads: await device.measureReadBytesPerSecond(readBytes, repeats),
    };
  },
});
