/** A batch-invariant device gives every request the same bits, whatever runs beside it and however its prompt
 *  is cut. Used by engine.ts. Each golden prompt runs alone, then all at once, in other chunks, budgets and
 *  orders: tokens, log-probabilities and alternatives must be equal as numbers, not nearly. */
import path from 'node:path';
import { Prng } from '../../src/base/prng.js';
import type { Device } from '../../src/device/device.js';
import type { Engine, GenerationRequest, GenerationResult } from '../../src/engine/engine.js';
import { greedy } from '../../src/engine/sampling-params.js';
import type { Model } from '../../src/model/model.js';
import { loadDummy } from './dummy-model.js';
import {
  ask,
  check,
  demoFolder,
  folders,
  type GoldenCase,
  load,
  nextId,
  openEngine,
  readCases,
  type Shape,
} from './rig.js';

const shapes: readonly {
  readonly what: string;
  readonly shape: Shape;
  readonly order: 'as given' | 'reversed';
}[] = [
  { what: 'all at once', shape: {}, order: 'as given' },
  { what: 'all at once in chunks of 16', shape: { prefillChunkTokenCount: 16 }, order: 'reversed' },
  {
    what: 'all at once in chunks of 100, steps of 130',
    shape: { prefillChunkTokenCount: 100, tokenBudget: 130 },
    order: 'as given',
  },
  { what: 'five seats, one step in flight', shape: { sequenceCountMax: 5, depth: 1 }, order: 'reversed' },
];

/** Sampled as well as greedy; the prompt's own log-probabilities too, so that every position is compared. */
function requestsOf(cases: readonly GoldenCase[]): GenerationRequest[] {
  return cases.map((one, i) => {
    const temperature = i % 2 === 0 ? 0 : 0.8;
    return ask(one, {
      temperature,
      seed: 7 + i,
      topP: 0.95,
      topLogprobCount: 20,
      ...(i % 3 === 0 ? { promptLogprobCount: 20 } : {}),
    });
  });
}

export async function invariance(device: Device): Promise<void> {
  for (const folder of folders) {
    for (const dtype of ['bf16', 'f32'] as const) {
      if (dtype === 'f32' && folder !== demoFolder) continue;
      await compare(device, folder, dtype);
    }
  }
}

/** The shapes that count, through a few layers: head_dim 128 in groups of four, K of 4096 and 12288, prompts
 *  past every tile. */
export async function invarianceOfLargeShapes(device: Device): Promise<void> {
  const model = await loadDummy(device, { layerCount: 3 });
  const prng = new Prng(3);
  const lengths = [
    1,
    5,
    17,
    64,
    129,
    300,
    511,
    777,
    ...Array.from({ length: 40 }, () => prng.integer(1, 200)),
  ];
  const prompts = lengths.map((count) => Array.from({ length: count }, () => prng.integer(0, 149_999)));
  const requests = () =>
    prompts.map((promptIds) => ({
      id: nextId(),
      promptIds,
      sampling: { ...greedy, maxTokenCount: 12, topLogprobCount: 20 },
    }));
  await compareRuns('Qwen3-8B-shaped bf16', device, model, 'bf16', requests);
  model.close();
}

async function compare(device: Device, folder: string, dtype: 'f32' | 'bf16'): Promise<void> {
  const cases = readCases(folder).filter((one) => one.prompt_ids.length <= 500);
  const model = await load(device, folder, dtype);
  await compareRuns(`${path.basename(folder)} ${dtype}`, device, model, dtype, () => requestsOf(cases));
  model.close();
}

async function compareRuns(
  name: string,
  device: Device,
  model: Model,
  dtype: 'f32' | 'bf16',
  requestsAgain: () => readonly GenerationRequest[],
): Promise<void> {
  const kv = { blockTokenCount: 16, blockCount: 2048, dtype };
  const run = async (shape: Shape, generate: (engine: Engine) => Promise<readonly GenerationResult[]>) => {
    const engine = openEngine(device, model, { kv, prefixCaching: 'off', ...shape });
    const results = await generate(engine);
    engine.checkIntegrity();
    await engine.close();
    return results;
  };
  const alone = await run({}, async (engine) => {
    const results: GenerationResult[] = [];
    for (const request of requestsAgain()) results.push(...(await engine.generate([request])));
    return results;
  });
  for (const { what, shape, order } of shapes) {
    const inOrder = <T>(items: readonly T[]) => (order === 'as given' ? items : [...items].reverse());
    const results = inOrder(await run(shape, (engine) => engine.generate(inOrder(requestsAgain()))));
    const differing = alone.flatMap((expected, i) => firstDifference(expected, results[i]!));
    const detail = `${differing.length} of ${alone.length} differ ${differing.slice(0, 3).join(', ')}`;
    check(`${name}, batch-invariant: alone = ${what}`, differing.length === 0, detail);
  }
}

/** Where two results first are not the same numbers; nothing when they are. */
function firstDifference(left: GenerationResult, right: GenerationResult): readonly string[] {
  const values = ({ choices, promptLogprobs }: GenerationResult) => [
    ...(promptLogprobs ?? []).map((entry, i) => [`prompt ${i}`, JSON.stringify(entry)] as const),
    ...choices[0]!.tokens.map((token, i) => [`token ${i}`, JSON.stringify(token)] as const),
  ];
  const [ours, theirs] = [values(left), values(right)];
  const at = ours.findIndex(([, text], i) => theirs[i]?.[1] !== text);
  if (at < 0) return ours.length === theirs.length ? [] : ['lengths'];
  return [ours[at]![0]];
}
