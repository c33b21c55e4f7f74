/** Invariant I3 on whole models: logits are the same bits however a prompt is cut into chunks, whatever else
 *  is in the batch, for decode as for prefill, for any thread count and block size. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { at } from '../../src/base/assert.js';
import { Prng } from '../../src/base/prng.js';
import { demoFolder, fixtureFolder, Harness, type HarnessOptions, type StepPiece } from './harness.js';

const isFull = process.env.TWOSTROKE_TEST === 'full';
const tokenCount = 230;

function randomIds(vocabCount: number, count: number, seed: number): number[] {
  const prng = new Prng(seed);
  return Array.from({ length: count }, () => prng.integer(3, vocabCount - 1));
}

/** The bits of every row, so that -0 and NaN are not taken for equal. */
const bitsOf = (rows: readonly Float32Array[]) =>
  Buffer.concat(rows.map((row) => Buffer.from(row.buffer, row.byteOffset, row.byteLength)));

const runs: readonly (Omit<HarnessOptions, 'maxTokenCount'> & { name: string })[] = [
  { name: 'demo', folder: demoFolder, dtype: 'auto', kvDtype: 'bf16' },
  { name: 'demo in int8', folder: demoFolder, quantize: 'int8', kvDtype: 'bf16' },
  { name: 'gemma2', folder: fixtureFolder('gemma2') },
  { name: 'qwen3-moe', folder: fixtureFolder('qwen3-moe') },
  { name: 'qwen2', folder: fixtureFolder('qwen2'), kvDtype: 'f16' },
];
const isas = isFull ? (['auto', 'avx2', 'scalar'] as const) : (['auto'] as const);

describe.each(runs.flatMap((run) => isas.map((isa) => ({ ...run, isa }))))('$name on $isa', (options) => {
  let harness: Harness;
  let ids: number[];
  let expected: Buffer;
  beforeAll(async () => {
    harness = await Harness.open({ ...options, maxTokenCount: 1024 });
    ids = randomIds(harness.model.config.vocabCount, tokenCount, 1);
    expected = bitsOf(await harness.prefill(harness.start(tokenCount), ids, 512, 'all'));
  });
  afterAll(() => harness.close());

  it.each([1, 16, 64, 100])('chunks of %i', async (chunk) => {
    const rows = await harness.prefill(harness.start(tokenCount), ids, chunk, 'all');
    expect(bitsOf(rows).equals(expected)).toBe(true);
  });

  it('asking for fewer rows', async () => {
    const [last] = await harness.prefill(harness.start(tokenCount), ids, 64, 'last');
    expect(bitsOf([last!]).equals(expected.subarray(-last!.byteLength))).toBe(true);
  });

  it('beside other sequences, prefill and decode mixed', async () => {
    const { vocabCount } = harness.model.config;
    const main = harness.start(tokenCount);
    const others = [7, 90, 33].map((count, i) => ({
      sequence: harness.startBeside(count),
      ids: randomIds(vocabCount, count, i + 2),
    }));
    const rows: Float32Array[] = [];
    const cuts = [0, 40, 41, 42, 105, 150, 151, 200, 230];
    for (const [step, first] of cuts.slice(0, -1).entries()) {
      const piece: StepPiece = { sequence: main, ids: ids.slice(first, cuts[step + 1]), logits: 'all' };
      const beside = others.flatMap(({ sequence, ids: all }, i): StepPiece[] => {
        const next = all.slice(sequence.cachedTokenCount, sequence.cachedTokenCount + (i === 0 ? 1 : 11 * i));
        return next.length === 0 ? [] : [{ sequence, ids: next, logits: 'last' }];
      });
      const isFirst = step % 2 === 0;
      const found = await harness.step(isFirst ? [piece, ...beside] : [...beside, piece]);
      const mine = isFirst ? found.slice(0, piece.ids.length) : found.slice(beside.length);
      rows.push(...mine.map((row) => row.slice()));
    }
    expect(bitsOf(rows).equals(expected)).toBe(true);
  });

  it.each([
    ['one thread', { threadCount: 1 }],
    ['blocks of 8', { blockTokenCount: 8 }],
    ['blocks of 128', { blockTokenCount: 128 }],
  ])('with %s', async (_, changes) => {
    const other = await Harness.open({ ...options, maxTokenCount: 1024, ...changes });
    const rows = await other.prefill(other.start(tokenCount), ids, 70, 'all');
    await other.close();
    expect(bitsOf(rows).equals(expected)).toBe(true);
    expect(at(rows, 0).length).toBe(harness.model.config.vocabCount);
  });
});
