/* llama.cpp's side, through node-llama-cpp's native addon. Child of bench.mjs.

   What is timed: the addon's own calls below node-llama-cpp's JavaScript queue, since that is llama.cpp at
   its best here:
     initBatch + addToBatch   fill a llama_batch
     decodeBatch              llama_decode + llama_synchronize on a libuv thread
     sampleToken              llama_sampler, greedy, one call a row
   `ms` is all of it, `forwardMs` decodeBatch alone. Logits are computed for the last prompt token only, and
   for each decode row.
   Every sequence has its own KV stream (kv_unified = false), so 8 sequences decode in one continuous batch.
   Two contexts live side by side, flash attention on and off; the report takes the better one of each
   phase. */
import { pathToFileURL } from 'node:url';
import { serveSide } from './side.mjs';
import { batchCountMax, promptIds, promptTokenCount } from './workload.mjs';

export const variants = { flash: true, plain: false };
let llama;
let model;
let sampler;
const contexts = new Map();

async function load({ packageFolder, modelFile, threadCount, stepCountMax }) {
  const { getLlama, LlamaLogLevel } = await import(pathToFileURL(`${packageFolder}/dist/index.js`).href);
  const started = performance.now();
  llama = await getLlama({
    gpu: false,
    build: 'never',
    skipDownload: true,
    maxThreads: threadCount,
    logLevel: LlamaLogLevel.error,
  });
  // anonymous memory was no slower in any phase
  model = await llama.loadModel({ modelPath: modelFile, gpuLayers: 0, useMmap: false });
  sampler = new llama._bindings.AddonSampler(model._model);
  sampler.applyConfig({ temperature: 0 });
  for (const [variant, flashAttention] of Object.entries(variants)) {
    const context = await model.createContext({
      sequences: batchCountMax,
      contextSize: promptTokenCount + stepCountMax + 1,
      batchSize: promptTokenCount,
      flashAttention,
      threads: { ideal: threadCount, min: threadCount },
    });
    contexts.set(variant, context._ctx);
  }
  const loadMs = performance.now() - started;
  for (const context of contexts.values()) await fillSequences(context);
  const context = contexts.get('flash');
  return {
    loadMs,
    systemInfo: llama.systemInfo,
    settings: {
      threads: context.getThreads(),
      contextTokens: context.getContextSize(),
      sequences: batchCountMax,
      batch: promptTokenCount,
      ubatch: promptTokenCount,
      kvDtype: 'f16',
      mmap: false,
      flashAttention: 'on and off, better one counts',
    },
  };
}

/** One prompt in sequence 0, its state copied (own bytes) to the others: decode needs their length, not their
 *  meaning. */
async function fillSequences(context) {
  await prefill(context, 0);
  for (let sequence = 1; sequence < batchCountMax; sequence++)
    await context.copySequenceStateFromOtherSequence(sequence, 0);
}

/** 512 fresh tokens into an emptied sequence 0. */
async function prefill(context, seed) {
  const tokens = Uint32Array.from(promptIds(seed));
  context.disposeSequence(0);
  const started = performance.now();
  context.initBatch(tokens.length);
  const [row] = context.addToBatch(0, 0, tokens, Uint32Array.of(tokens.length - 1));
  const enqueued = performance.now();
  await context.decodeBatch();
  const forwardMs = performance.now() - enqueued;
  const firstToken = await context.sampleToken(row, sampler);
  const ms = performance.now() - started;
  expectKeys(context, 1, promptTokenCount);
  return { ms, forwardMs, tokenCount: tokens.length, firstToken };
}

/** Every sequence goes on from 512 keys for `stepCount` steps, each fed the token it sampled. */
async function decode(context, batchCount, stepCount) {
  for (let sequence = 0; sequence < batchCount; sequence++)
    context.removeTokenCellsFromSequence(sequence, promptTokenCount, -1);
  expectKeys(context, batchCount, promptTokenCount);
  let tokens = Array.from({ length: batchCount }, (_, sequence) => 100 + sequence);
  let forwardMs = 0;
  const started = performance.now();
  for (let step = 0; step < stepCount; step++) {
    context.initBatch(batchCount);
    const rows = tokens.map(
      (token, sequence) =>
        context.addToBatch(sequence, promptTokenCount + step, Uint32Array.of(token), Uint32Array.of(0))[0],
    );
    const enqueued = performance.now();
    await context.decodeBatch();
    forwardMs += performance.now() - enqueued;
    tokens = [];
    for (const row of rows) tokens.push(await context.sampleToken(row, sampler));
  }
  const ms = performance.now() - started;
  expectKeys(context, batchCount, promptTokenCount + stepCount);
  return { ms, forwardMs, tokenCount: batchCount * stepCount };
}

/** The cache must hold just the positions we think it holds: no prefix was reused, nothing was skipped. */
function expectKeys(context, sequenceCount, keyCount) {
  for (let sequence = 0; sequence < sequenceCount; sequence++) {
    const found = context.getSequenceKvCacheMaxPosition(sequence) + 1;
    if (found !== keyCount) throw new Error(`sequence ${sequence} has ${found} keys, expected ${keyCount}`);
  }
}

serveSide({
  load,
  measure({ variant, batchCount, stepCount, seed }) {
    const context = contexts.get(variant);
    return batchCount === 0 ? prefill(context, seed) : decode(context, batchCount, stepCount);
  },
});
