/** Quantised checkpoints: what the loader makes of each is the reference's to the bit, and the model
 *  computes its goldens. Whatever cannot be loaded is refused by name. */
import { createHash } from 'node:crypto';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { at } from '../../src/base/assert.js';
import { openDevice } from '../../src/device/native.js';
import { openCheckpoint } from '../../src/model/open-checkpoint.js';
import { ParameterStore } from '../../src/model/weights.js';
import { best, casesOf, compare, isFull, maxTokenCountOf, median, most, runGreedy } from './agreement.js';
import { fixtureFolder, Harness, largest, quantisedFixtureNames } from './harness.js';

const device = openDevice({ kind: 'cpu', index: 0, threadCount: 2 });
const temporary = mkdtempSync(path.join(tmpdir(), 'twostroke-quantised-'));
afterAll(() => {
  device.close();
  rmSync(temporary, { recursive: true });
});

/** Rows of a matrix (experts one after the other) as the loader reads them. */
async function readMatrix(
  folder: string,
  name: string,
  shape: readonly [number, number],
): Promise<Float32Array> {
  const checkpoint = openCheckpoint(folder);
  const store = new ParameterStore(device, checkpoint, { asStored: false, other: 'f32' });
  const table = store.table(name, shape, 'f32');
  await store.fill(() => {});
  const host = device.allocateHost(shape[0] * shape[1] * 4);
  const stream = device.createStream();
  stream.copy(host.pointer, table.pointer, host.bytes.length);
  await stream.wait();
  const values = new Float32Array(host.bytes.slice().buffer);
  stream.close();
  device.releaseHost(host);
  store.close();
  return values;
}

const sha256 = (values: Float32Array) =>
  createHash('sha256').update(new Uint8Array(values.buffer)).digest('hex');

/** transformers keeps gpt-oss' experts as [in, out]. */
function turned(values: Float32Array, experts: number, rows: number, columns: number): Float32Array {
  const out = new Float32Array(values.length);
  for (let e = 0; e < experts; e++)
    for (let r = 0; r < rows; r++)
      for (let c = 0; c < columns; c++)
        out[(e * columns + c) * rows + r] = at(values, (e * rows + r) * columns + c);
  return out;
}

describe.each([...quantisedFixtureNames, 'gpt-oss-mxfp4'])('%s', (name) => {
  it('is read to the bit', async () => {
    const folder = fixtureFolder(name);
    const golden = JSON.parse(readFileSync(path.join(folder, 'golden.json'), 'utf8')) as {
      'dequantised-sha256': Record<string, string>;
      'dequantised-shape': Record<string, readonly number[]>;
    };
    const checkpoint = openCheckpoint(folder);
    let matrixCount = 0;
    for (const [tensor, expected] of Object.entries(golden['dequantised-sha256'])) {
      const shape = at([golden['dequantised-shape'][tensor] ?? []], 0);
      const [a = 1, b = 1, c = 1] = shape;
      if (shape.length === 1 || tensor.endsWith('_bias')) {
        expect(sha256(checkpoint.floats(tensor, shape)), tensor).toBe(expected);
        continue;
      }
      const found =
        shape.length === 2
          ? await readMatrix(folder, tensor, [a, b])
          : turned(await readMatrix(folder, tensor, [a * c, b]), a, c, b);
      expect(sha256(found), tensor).toBe(expected);
      matrixCount++;
    }
    expect(matrixCount).toBeGreaterThan(8);
  });
});

describe.each(quantisedFixtureNames)('%s in float32', (name) => {
  const folder = fixtureFolder(name);
  const cases = casesOf(folder);
  let harness: Harness;
  beforeAll(async () => {
    harness = await Harness.open({ folder, dtype: 'f32', maxTokenCount: maxTokenCountOf(cases) });
  });
  afterAll(() => harness.close());

  it.each(
    cases.map(({ name }) => name).filter((each) => isFull || ['len1', 'len33', 'len100'].includes(each)),
  )('%s', async (caseName) => {
    const golden = cases.find((each) => each.name === caseName)!;
    const run = await runGreedy(harness, golden);
    expect(run.ids).toEqual(golden.continuation_ids);
    expect(
      largest(run.logprobs.map((logprob, i) => Math.abs(logprob - at(golden.continuation_logprobs, i)))),
    ).toBeLessThan(3e-4);
    for (const [position, { ids }] of golden.top5.entries())
      expect(best(at(run.rows, position), ids.length)).toEqual(ids);
    expect(Math.abs(run.promptLogprob - golden.prompt_logprob)).toBeLessThan(1e-2);
  });
});

describe.each(quantisedFixtureNames)('%s in bf16', (name) => {
  const folder = fixtureFolder(name);
  const cases = casesOf(folder);
  let harness: Harness;
  beforeAll(async () => {
    harness = await Harness.open({
      folder,
      dtype: 'bf16',
      kvDtype: 'bf16',
      maxTokenCount: maxTokenCountOf(cases),
    });
  });
  afterAll(() => harness.close());

  it('chooses the same tokens where the golden is sure', async () => {
    const agreement = await compare(harness, cases, 0.5);
    expect(agreement.checkedCount).toBeGreaterThan(100);
    expect(agreement.wrongCount).toBe(0);
    expect(median(agreement.errors)).toBeLessThan(0.25);
    expect(most(agreement.errors)).toBeLessThan(0.6);
  });
});

describe('multiplied as they are stored', () => {
  it.each([
    ['llama-gptq-g128', 'q4_min'],
    ['llama-awq-g128', 'q4_min'],
    ['llama-ct-w4a16-g128', 'q4'],
    ['qwen3-ct-w4a16-g32', 'q4'],
    ['llama-gptq-actorder-g64', 'bf16'], // groups out of order: dequantised
    ['qwen3-fp8-block', 'bf16'],
  ])('%s as %s', async (name, format) => {
    const folder = fixtureFolder(name);
    const cases = casesOf(folder);
    const harness = await Harness.open({ folder, dtype: 'auto', maxTokenCount: maxTokenCountOf(cases) });
    expect(harness.model.weightFormat).toBe(format);
    const agreement = await compare(harness, cases, 0.5);
    await harness.close();
    expect(agreement.wrongCount).toBe(0);
    expect(median(agreement.errors)).toBeLessThan(0.25);
    expect(most(agreement.errors)).toBeLessThan(0.6);
  });
});

/** A copy of a fixture with another quantization_config. */
function withScheme(name: string, changes: Record<string, unknown>): string {
  const folder = mkdtempSync(path.join(temporary, 'model-'));
  cpSync(fixtureFolder(name), folder, { recursive: true });
  const file = path.join(folder, 'config.json');
  const config = JSON.parse(readFileSync(file, 'utf8'));
  writeFileSync(
    file,
    JSON.stringify({ ...config, quantization_config: { ...config.quantization_config, ...changes } }),
  );
  return folder;
}

describe('refused by name', () => {
  it.each([
    [
      'llama-gptq-g128',
      { quant_method: 'bitsandbytes' },
      /method "bitsandbytes" is not supported \(supported: gptq, awq/,
    ],
    ['llama-gptq-g128', { checkpoint_format: 'marlin' }, /GPTQ layout "marlin" is not supported/],
    ['llama-awq-g128', { version: 'gemv' }, /AWQ version "gemv" is not supported/],
    [
      'llama-ct-w4a16-g128',
      { format: 'nvfp4-pack-quantized' },
      /format "nvfp4-pack-quantized" is not supported/,
    ],
    ['llama-ct-w4a16-g128', { sparsity_config: { format: 'sparse-24-bitmask' } }, /sparse weights/],
    [
      'llama-fp8-block',
      { weight_block_size: [64, 64] },
      /weight_scale_inv" has shape \[1, 1\]|no scale for the tensor/,
    ],
    ['llama-gptq-g128', { quant_method: 'awq' }, /qweight" has shape/],
  ] as const)('%s with %o', (name, changes, message) => {
    const folder = withScheme(name, changes);
    expect(() => {
      const checkpoint = openCheckpoint(folder);
      checkpoint.matrix('model.layers.0.mlp.down_proj.weight', [128, name === 'llama-fp8-block' ? 320 : 256]);
    }).toThrow(message);
  });

  it('bits that no kernel reads', () => {
    const checkpoint = openCheckpoint(fixtureFolder('llama-gptq-g128'));
    expect(() => checkpoint.matrix('model.layers.0.mlp.down_proj.weight', [128, 512])).toThrow(
      /no GPTQ of 4 or 8 bits/,
    );
  });
});
