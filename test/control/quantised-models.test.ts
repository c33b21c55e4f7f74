/** Quantised checkpoints and a GGUF file on real worker processes: one worker, and prefill and decode on one each, give the reference's
 *  tokens. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { at } from '../../src/base/assert.js';
import type { TokenId } from '../../src/base/ids.js';
import {
  collect,
  expectNothingOwned,
  type GoldenCase,
  goldens,
  inputOf,
  isFull,
  startGateway,
} from './real-cluster.js';

const fixtures = path.resolve(import.meta.dirname, '../fixtures');
const quick = ['qwen3-gptq-asym-actorder-g32', 'llama-fp8-block'];
const more = [
  ...['llama-gptq-g128', 'llama-gptq-actorder-g64', 'llama-awq-g128', 'qwen3-awq-g64'],
  ...['llama-ct-w4a16-g128', 'qwen3-ct-w4a16-g32', 'qwen3-ct-fp8-dynamic', 'qwen3-fp8-block'],
];
const layouts = [
  { workers: 'any:cpu?threads=1', strategy: 'collocated' },
  { workers: 'prefill:cpu?threads=1,decode:cpu?threads=1', strategy: 'disaggregated' },
] as const;

interface Golden {
  readonly cases: readonly GoldenCase[];
  readonly eos_token_ids: readonly TokenId[];
}

/** What a layout answers, all cases at once. */
async function answersOf(
  modelFolder: string,
  dtype: 'f32' | 'auto',
  { workers, strategy }: (typeof layouts)[number],
  { cases, eos_token_ids: endTokenIds }: Golden,
): Promise<TokenId[][]> {
  const settings = { modelFolder, dtype, blockCount: 256, maxModelTokenCount: 512 };
  const { gateway, records } = await startGateway(workers, { strategy, settings });
  try {
    const inputs = cases.map((each) =>
      inputOf(each, { endTokenIds, maxTokenCount: each.continuation_ids.length }),
    );
    const answers = await Promise.all(inputs.map((input) => collect(gateway, input)));
    await expectNothingOwned(gateway);
    const asked = records.filter(({ isMeasurement }) => !isMeasurement);
    expect(asked.map(({ routes }) => routes.at(-1)?.path)).toEqual(cases.map(() => strategy));
    return answers.map(({ outputs }) => at(outputs, 0));
  } finally {
    await gateway.stop();
  }
}

describe.each(isFull ? [...quick, ...more] : quick)('%s', (name) => {
  it.each(layouts)('$strategy: the reference’s tokens', async (layout) => {
    const folder = path.join(fixtures, name);
    const golden = JSON.parse(readFileSync(path.join(folder, 'golden.json'), 'utf8')) as Golden;
    const cases = golden.cases.filter((each) => isFull || each.prompt_ids.length <= 100);
    const answers = await answersOf(folder, 'f32', layout, { ...golden, cases });
    for (const [i, { name: caseName, continuation_ids }] of cases.entries())
      expect(answers[i], caseName).toEqual(continuation_ids);
  });
});

describe('the demo model as llama.cpp quantised it, multiplied as it is stored', () => {
  it('says the same on one worker and on two', async () => {
    const file = path.join(fixtures, 'ggml', 'demo-q4_k_m.gguf');
    const cases = goldens.cases.filter(
      ({ prompt_ids, continuation_ids }) => prompt_ids.length + continuation_ids.length < 400,
    );
    const [one, two] = [
      await answersOf(file, 'auto', layouts[0], { ...goldens, cases }),
      await answersOf(file, 'auto', layouts[1], { ...goldens, cases }),
    ];
    expect(cases.length).toBeGreaterThan(4);
    expect(two).toEqual(one);
    const isEqual = (i: number) => JSON.stringify(one[i]) === JSON.stringify(at(cases, i).continuation_ids);
    expect(cases.filter((_, i) => isEqual(i)).length).toBeGreaterThan(cases.length / 3);
  });
});
