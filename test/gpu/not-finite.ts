/** Models that compute NaN for some inputs, on a GPU: those requests end with one error each, the others and
 *  the GPU go on. Used by engine.ts. The CPU's test is test/engine/not-finite.test.ts. In float32 the others
 *  write what they write without them; in bf16 near ties may part. */
import path from 'node:path';
import { Prng } from '../../src/base/prng.js';
import type { Device } from '../../src/device/device.js';
import type { Engine, GenerationRequest } from '../../src/engine/engine.js';
import { greedy } from '../../src/engine/sampling-params.js';
import { dropPlanted, everything, type Plant, plantedFolder, rowOf } from '../model/planted.js';
import { check, load, nextId, openEngine, root } from './rig.js';

const original = path.join(root, 'test', 'fixtures', 'qwen3-moe');
const poison = 300;
const tokenCountMax = 10;

const plants: Readonly<Record<string, Plant>> = {
  'an embedding row': { 'model.embed_tokens.weight': rowOf(poison) },
  'an expert': { 'model.layers.1.mlp.experts.3.down_proj.weight': everything() },
  'an expert of infinity': {
    'model.layers.1.mlp.experts.3.gate_proj.weight': everything(Number.POSITIVE_INFINITY),
  },
  'a router row': { 'model.layers.0.mlp.gate.weight': rowOf(5) },
};

/** Short prompts, some of them with the token whose embedding is NaN. */
function requests(): GenerationRequest[] {
  const prng = new Prng(12);
  return Array.from({ length: 24 }, (_, index) => {
    const promptIds = Array.from({ length: 1 + (index % 6) * 9 }, () => prng.integer(3, poison - 1));
    if (index % 3 === 1) promptIds[0] = poison;
    const sampling = {
      ...greedy,
      maxTokenCount: tokenCountMax,
      logitBias: [[poison, -100]] as const,
      topLogprobCount: 1,
    };
    return {
      id: nextId(),
      promptIds,
      sampling: index % 2 === 0 ? { ...sampling, logitBias: [], maxTokenCount: 2 } : sampling,
    };
  });
}

interface Outcome {
  readonly tokens: number[];
  readonly errors: string[];
}

async function run(engine: Engine): Promise<Outcome[]> {
  const asked = requests();
  const outcomes = new Map(asked.map(({ id }) => [id, { tokens: [], errors: [] } as Outcome]));
  for (const request of asked) engine.add(request);
  while (engine.hasWork) {
    for (const event of await engine.step()) {
      const outcome = outcomes.get(event.requestId);
      if (event.kind === 'failed') outcome?.errors.push(event.error.code);
      if (event.kind === 'tokens') outcome?.tokens.push(...event.tokens.map(({ tokenId }) => tokenId));
    }
  }
  engine.checkIntegrity();
  return [...outcomes.values()];
}

export async function notFinite(device: Device): Promise<void> {
  for (const dtype of ['f32', 'bf16'] as const) {
    const whole = await outcomesOf(device, original, dtype);
    for (const [name, plant] of Object.entries(plants)) {
      const found = await outcomesOf(device, plantedFolder(original, plant), dtype);
      let failedCount = 0;
      let wrongCount = 0;
      for (const [index, { tokens, errors }] of found.entries()) {
        const expected = whole[index]?.tokens ?? [];
        const same = dtype === 'f32' ? expected.slice(0, tokens.length).join() === tokens.join() : true;
        const isTold =
          errors.length === 1 && errors[0] === 'numeric_error' && tokens.length < expected.length;
        const isWhole = errors.length === 0 && tokens.length === expected.length;
        if (isTold) failedCount++;
        const mustFail = name === 'a router row' || (name === 'an embedding row' && index % 3 === 1);
        const mayFail = mustFail || name.startsWith('an expert');
        if (!same || !(isTold || isWhole) || (mustFail && !isTold) || (!mayFail && isTold)) wrongCount++;
      }
      const detail = `${failedCount} of ${found.length} told, ${wrongCount} wrong`;
      check(`no numbers: ${name}, ${dtype}`, wrongCount === 0 && failedCount > 0, detail);
    }
  }
  dropPlanted();
}

/** Twice on one engine: what the first round left in caches and blocks must not matter to the second. */
async function outcomesOf(
  device: Device,
  folder: string,
  dtype: 'f32' | 'bf16',
): Promise<readonly Outcome[]> {
  const model = await load(device, folder, dtype);
  const engine = openEngine(device, model, {
    prefillChunkTokenCount: 16,
    kv: { blockTokenCount: 16, blockCount: 120, dtype },
  });
  const first = await run(engine);
  const second = await run(engine);
  const isExact = dtype === 'f32'; // else prefixes that are found may move a near tie, and with it a token to another expert
  const isSame = first.every(
    ({ errors }, index) => !isExact || errors.join() === second[index]?.errors.join(),
  );
  const isOnce = second.every(({ errors }) => errors.length <= 1) && engine.snapshot().ownedBlockCount === 0;
  check(
    `no numbers: twice, ${path.basename(folder).slice(0, 17)} ${dtype}`,
    isSame && isOnce,
    isOnce ? '' : 'blocks are owned',
  );
  await engine.close();
  model.close();
  return first;
}
