/** Runs the steps that need most of a GPU's memory once, on a small KV cache, before the real cache takes all
 *  that is left. Used by load-engine.ts. It also has kernels loaded and matrix products chosen before the
 *  first request comes.
 *
 *    one wide step     every batch slot and every row of the budget, all of the sampler      → activations, workspaces, sampling
 *    single prompts    of several lengths                                              → the products of prefill steps
 *    a shrinking batch two decode steps of every size that graphs are recorded for     → graphs of both lanes
 *
 *  Invariant: everything it allocates is given back, but what the device keeps for itself. */
import { DeviceError, ModelError } from '../base/errors.js';
import { requestId } from '../base/ids.js';
import { Engine } from '../engine/engine.js';
import type { EngineConfig } from '../engine/engine-options.js';
import type { GenerationRequest } from '../engine/generation-request.js';
import { graphCountMax } from '../engine/model-runner.js';
import { greedy, type SamplingParams } from '../engine/sampling-params.js';
import { roundedRowCount } from '../engine/step-shape.js';

interface PeakMemory {
  /** Used on the whole device, by whomever, at the largest step; without this cache, with all graphs that may
   *  be recorded later. */
  readonly usedBytes: number;
  /** Of one recorded graph. */
  readonly graphBytes: number;
}

type WarmUpOptions = Omit<EngineConfig, 'kv' | 'prefixCaching'> & {
  readonly kv: Omit<EngineConfig['kv'], 'blockCount'>;
};

const outOfMemory = 3; // PD_OUT_OF_MEMORY

/** Rejects with ModelError when the device has no room for such steps. */
export async function warmUp(options: WarmUpOptions): Promise<PeakMemory> {
  try {
    return await measure(options);
  } catch (error) {
    if (!(error instanceof DeviceError && error.status === outOfMemory)) throw error;
    const { device, model, tokenBudget, sequenceCountMax } = options;
    const step = `a step of ${tokenBudget} tokens and ${sequenceCountMax} sequences`;
    throw new ModelError(
      `GPU ${device.info.index}: ${step} does not fit beside ${(model.weightBytes / 2 ** 30).toFixed(1)} GiB of weights ` +
        `(${error.message}): lower --max-num-batched-tokens or --max-num-seqs, or use a GPU with more free memory`,
      error,
    );
  }
}

async function measure(options: WarmUpOptions): Promise<PeakMemory> {
  const runs = runsOf(options);
  const blockCount = Math.max(...runs.map((run) => blockCountOf(run, options)));
  const engine = new Engine({ ...options, kv: { ...options.kv, blockCount }, prefixCaching: 'off' });
  const { device } = options;
  const freeBytes = () => device.readFreeBytes();
  try {
    const [shrinking, ...others] = runs;
    for (const run of others) await drain(engine, run);
    const beforeGraphs = freeBytes();
    await drain(engine, shrinking ?? []);
    const cacheBytes = blockCount * engine.cache.layout.blockBytes;
    const recordedCount = options.depth * decodeSizes(batchSlotCountOf(options)).length;
    const graphBytes = Math.max(0, beforeGraphs - freeBytes()) / recordedCount;
    const graphCount = options.depth * graphCountMax;
    const laterBytes = graphBytes * Math.max(0, graphCount - recordedCount);
    return { usedBytes: device.info.totalBytes - freeBytes() - cacheBytes + laterBytes, graphBytes };
  } finally {
    await engine.close();
  }
}

/** Batches of requests that run at once; the shrinking batch first. */
function runsOf(options: WarmUpOptions): readonly (readonly GenerationRequest[])[] {
  const { tokenBudget, prefillChunkTokenCount, maxModelTokenCount } = options;
  const batchSlotCount = batchSlotCountOf(options);
  const room = maxModelTokenCount - 1;
  const wideCount = Math.min(room, Math.max(1, Math.floor(tokenBudget / batchSlotCount)));
  const everything = { temperature: 1, topP: 0.9, topK: 50, repetitionPenalty: 1.1, topLogprobCount: 20 };
  const wide = Array.from({ length: batchSlotCount }, () => request(wideCount, 1, everything));
  const chunk = Math.min(room, prefillChunkTokenCount);
  const grain = Math.max(256, Math.ceil(chunk / 8));
  const lengths = Array.from({ length: Math.ceil(chunk / grain) }, (_, i) =>
    Math.min(chunk, (i + 1) * grain),
  );
  const sizes = decodeSizes(batchSlotCount);
  const shrinking = Array.from({ length: batchSlotCount }, (_, index) => {
    const stepCount = options.depth * sizes.filter((size) => size > index).length;
    return request(1, Math.min(room, 1 + stepCount), { temperature: 1 });
  });
  return [shrinking, wide, ...lengths.map((length) => [request(length, 1)])];
}

/** Batch sizes that have graphs of their own, from the largest down. */
function decodeSizes(batchSlotCount: number): readonly number[] {
  const counts = Array.from({ length: batchSlotCount }, (_, i) =>
    Math.min(batchSlotCount, roundedRowCount(i + 1)),
  );
  return [...new Set(counts)].reverse();
}

function batchSlotCountOf({ sequenceCountMax, tokenBudget, model }: WarmUpOptions): number {
  return Math.min(sequenceCountMax, tokenBudget, model.logits.shape[0] ?? 1);
}

/** With a block for each running sequence that admission leaves untouched, so that nobody waits. */
function blockCountOf(run: readonly GenerationRequest[], { kv }: WarmUpOptions): number {
  const needed = run.map(({ promptIds, sampling }) =>
    Math.ceil((promptIds.length + sampling.maxTokenCount) / kv.blockTokenCount),
  );
  return Math.ceil((needed.reduce((sum, count) => sum + count, 0) + run.length) * 1.02) + 1;
}

let lastId = 0;
function request(
  promptCount: number,
  maxTokenCount: number,
  sampling: Partial<SamplingParams> = {},
): GenerationRequest {
  const promptIds = new Array<number>(promptCount).fill(0);
  return {
    id: requestId(`warm-up-${lastId++}`),
    promptIds,
    sampling: { ...greedy, ...sampling, maxTokenCount },
  };
}

/** What the tokens are does not matter: dummy weights may well have none to give. */
async function drain(engine: Engine, requests: readonly GenerationRequest[]): Promise<void> {
  for (const each of requests) engine.add(each);
  while (engine.hasWork) await engine.step();
}
