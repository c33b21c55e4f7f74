/** GGUF files: every block type is ggml's to the bit, converted models compute their goldens, tokenizer
 *  and template are the folder's, and files of many parts are one. */
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { at } from '../../../src/base/assert.js';
import { openDevice } from '../../../src/device/native.js';
import { type BlockEncoding, storedRowBytes } from '../../../src/device/stored-matrix.js';
import { findChatTemplate } from '../../../src/model/chat-template.js';
import { readModelConfig } from '../../../src/model/config.js';
import { readGenerationConfig } from '../../../src/model/generation-config.js';
import { openCheckpoint } from '../../../src/model/open-checkpoint.js';
import { loadTokenizer } from '../../../src/model/tokenizer.js';
import { best, casesOf, compare, isFull, maxTokenCountOf, median, runGreedy } from '../agreement.js';
import { demoFolder, fixtureFolder, Harness, largest, logSoftmax } from '../harness.js';
import { convertedFolder, type GgufParts, ggufBytes, tokenizerPairs, writeGguf } from './writer.js';

const device = openDevice({ kind: 'cpu', index: 0, threadCount: 2 });
const temporary = mkdtempSync(path.join(tmpdir(), 'twostroke-gguf-'));
afterAll(() => {
  device.close();
  rmSync(temporary, { recursive: true });
});

interface Recording {
  readonly rows: number;
  readonly k: number;
  readonly blocks: string;
  readonly sha256: string;
}
const recordings = JSON.parse(
  readFileSync(path.join(fixtureFolder('ggml'), 'blocks.json'), 'utf8'),
) as Record<BlockEncoding, Recording>;

describe('blocks', () => {
  it.each(Object.entries(recordings))(
    '%s is read as ggml reads it',
    async (name, { rows, k, blocks, sha256 }) => {
      const encoding = name as BlockEncoding;
      const bytes = Buffer.from(blocks, 'base64');
      expect(bytes.length).toBe(rows * storedRowBytes(encoding, k));
      const [source, target] = [device.allocateHost(bytes.length), device.allocateHost(rows * k * 4)];
      source.bytes.set(bytes);
      const stream = device.createStream();
      stream.readMatrix(
        { pointer: target.pointer, shape: [rows, k], dtype: 'f32' },
        {
          pointer: source.pointer,
          byteCount: bytes.length,
          encoding,
          rowStride: storedRowBytes(encoding, k),
        },
      );
      await stream.wait();
      expect(createHash('sha256').update(target.bytes).digest('hex')).toBe(sha256);
      stream.close();
      for (const buffer of [source, target]) device.releaseHost(buffer);
    },
  );
});

/** A fixture as GGUF. */
function converted(name: string, type: 'f32' | 'q8_0' = 'f32'): string {
  const file = path.join(temporary, `${name}-${type}.gguf`);
  const tokenizer = name === 'demo' ? tokenizerPairs(demoFolder, 'qwen2', 4096) : [];
  const parts = convertedFolder(name === 'demo' ? demoFolder : fixtureFolder(name), () => type);
  return writeGguf(file, { ...parts, pairs: [...parts.pairs, ...tokenizer] });
}

describe.each([
  'llama',
  'llama3-rope',
  'qwen2',
  'qwen3',
  'qwen3-moe',
  'gemma2',
  'phi3',
  'qwen3-yarn',
  'llama-linear',
])('%s as GGUF', (name) => {
  it('computes its goldens', async () => {
    const folder = fixtureFolder(name);
    const cases = casesOf(folder).filter((each) => isFull || ['len5', 'len100'].includes(each.name));
    const harness = await Harness.open({
      folder: converted(name),
      dtype: 'f32',
      maxTokenCount: maxTokenCountOf(cases),
    });
    for (const golden of cases) {
      const run = await runGreedy(harness, golden);
      expect(run.ids).toEqual(golden.continuation_ids);
      const errors = run.logprobs.map((logprob, i) =>
        Math.abs(logprob - at(golden.continuation_logprobs, i)),
      );
      expect(largest(errors)).toBeLessThan(3e-4);
      for (const [position, { ids }] of golden.top5.entries())
        expect(best(at(run.rows, position), ids.length)).toEqual(ids);
    }
    await harness.close();
  });
});

describe('a file that brings everything', () => {
  const file = converted('demo', 'q8_0');

  it('has the tokens of its tokenizer.json', () => {
    const golden = JSON.parse(
      readFileSync(path.join(demoFolder, 'tokenizer_golden.json'), 'utf8'),
    ) as unknown;
    const [ours, original] = [loadTokenizer(file), loadTokenizer(demoFolder)];
    const texts = [JSON.stringify(golden), 'a  b\n\n 12345 <|im_start|>user\nÄ\u0308é 你好 🙂<|im_end|>', ''];
    for (const text of texts) {
      const ids = original.encode(text, { addSpecialTokens: 'auto' });
      expect(ours.encode(text, { addSpecialTokens: 'auto' })).toEqual(ids);
      expect(ours.decode(ids, { special: 'keep' })).toBe(original.decode(ids, { special: 'keep' }));
    }
  });

  it('has the chat template and the end tokens', () => {
    const messages = [{ role: 'user', content: 'Hello' }];
    const render = (model: string) =>
      findChatTemplate(model)?.render(messages, { addGenerationPrompt: true });
    expect(render(file)).toBe(render(demoFolder));
    const ids = readGenerationConfig(file, loadTokenizer(file).endTokenId).endTokenIds;
    expect([...ids].sort()).toEqual([0, 2]);
  });

  it('has the config of its folder', () => {
    const [ours, original] = [readModelConfig(file), readModelConfig(demoFolder)];
    expect({ ...ours, bosTokenId: null }).toEqual({
      ...original,
      bosTokenId: null,
      normEps: Math.fround(original.normEps),
    });
  });

  it('is found in a folder of its own', () => {
    const folder = path.join(temporary, 'folder');
    mkdirSync(folder);
    writeFileSync(path.join(folder, 'model.gguf'), readFileSync(file));
    expect(readModelConfig(folder).layerCount).toBe(6);
    writeFileSync(path.join(folder, 'other.gguf'), '');
    expect(() => readModelConfig(folder)).toThrow(
      /has 2 GGUF files: name the one to use \(model.gguf, other.gguf\)/,
    );
  });
});

describe('the demo model as llama.cpp quantised it', () => {
  it('keeps the choices that the golden is sure of', async () => {
    const folder = path.join(fixtureFolder('ggml'), 'demo-q4_k_m.gguf');
    const cases = casesOf(demoFolder).filter((each) => isFull || each.prompt_ids.length < 400);
    const maxTokenCount = maxTokenCountOf(cases);
    const harness = await Harness.open({ folder, dtype: 'f32', maxTokenCount });
    // What 4 bits do to a model of 6 million parameters; that they are read exactly is shown above.
    const agreement = await compare(harness, cases, 1, Math.log(0.01));
    expect(agreement.checkedCount).toBeGreaterThan(100);
    expect(agreement.wrongCount).toBe(0);
    expect(median(agreement.errors)).toBeLessThan(0.05);
    await harness.close();
  });

  it('is multiplied as it is stored, and not expanded', async () => {
    const folder = path.join(fixtureFolder('ggml'), 'demo-q4_k_m.gguf');
    const cases = casesOf(demoFolder).filter((each) => each.prompt_ids.length < 200);
    const maxTokenCount = maxTokenCountOf(cases);
    const [packed, plain] = [
      await Harness.open({ folder, dtype: 'auto', maxTokenCount }),
      await Harness.open({ folder, dtype: 'f32', maxTokenCount }),
    ];
    expect(packed.model.weightFormat).toBe('q4_min');
    expect(packed.model.weightBytes).toBeLessThan(0.35 * plain.model.weightBytes);
    const errors: number[] = [];
    for (const { prompt_ids: prompt, continuation_ids: continuation } of cases) {
      const ids = [...prompt, ...continuation];
      const rowsOf = async (harness: Harness) =>
        (await harness.prefill(harness.start(ids.length), ids, 300, 'all')).map(logSoftmax);
      const [ours, exact] = [await rowsOf(packed), await rowsOf(plain)];
      for (const [i, row] of exact.entries())
        errors.push(...best(row, 2).map((id) => Math.abs(at(row, id) - at(at(ours, i), id))));
    }
    errors.sort((a, b) => a - b);
    // Activations are rounded to 8 bits.
    expect(median(errors)).toBeLessThan(0.02);
    await packed.close();
    await plain.close();
  });
});

describe('parts', () => {
  const whole = convertedFolder(fixtureFolder('llama'), () => 'f32');
  const partName = (name: string, part: number) => path.join(temporary, `${name}-0000${part}-of-00003.gguf`);
  /** Thirds of the tensors. */
  const split = (name: string, changes: Partial<Record<number, Partial<GgufParts>>> = {}) => {
    const third = Math.ceil(whole.tensors.length / 3);
    for (const part of [1, 2, 3]) {
      const keys = part === 1 ? whole.pairs : [];
      writeGguf(partName(name, part), {
        pairs: [
          ...keys,
          ['split.count', 'u16', 3],
          ['split.no', 'u16', part - 1],
          ['split.tensors.count', 'i32', whole.tensors.length],
        ],
        tensors: whole.tensors.slice((part - 1) * third, part * third),
        ...changes[part],
      });
    }
    return partName(name, 1);
  };

  it('are one model', async () => {
    const cases = casesOf(fixtureFolder('llama')).filter(({ name }) => name === 'len33');
    const harness = await Harness.open({ folder: split('model'), maxTokenCount: maxTokenCountOf(cases) });
    expect((await runGreedy(harness, at(cases, 0))).ids).toEqual(at(cases, 0).continuation_ids);
    await harness.close();
  });

  it('are refused one by one, without one, or with a tensor too few', () => {
    split('model');
    expect(() => readModelConfig(partName('model', 2))).toThrow(/it is part 2 of 3: give the first one/);
    rmSync(partName('model', 3));
    expect(() => readModelConfig(partName('model', 1))).toThrow(
      /-00003-of-00003.gguf: this part of 3 is missing/,
    );
    split('few', { 2: { tensors: [] } });
    expect(() => readModelConfig(partName('few', 1))).toThrow(
      /3 parts have \d+ tensors, key "split.tensors.count" says/,
    );
  });
});

describe('refused by name', () => {
  const file = path.join(temporary, 'refused.gguf');
  const whole = convertedFolder(fixtureFolder('qwen3'), () => 'f32');
  const without = (key: string) => whole.pairs.filter(([name]) => name !== key);
  it.each([
    [
      'architecture',
      { pairs: [['general.architecture', 'string', 'mamba']] },
      /architecture "mamba" is not supported \(supported: llama/,
    ],
    [
      'a key that is missing',
      { pairs: without('qwen3.block_count') },
      /key "qwen3.block_count" must be an integer from 1 on, it is missing/,
    ],
    [
      'a key of another type',
      { pairs: [...without('qwen3.block_count'), ['qwen3.block_count', 'string', 'two']] },
      /got "two"/,
    ],
    ['version 1', { version: 1 }, /GGUF version 1 is not supported \(supported: 2, 3\)/],
    ['big endian', { version: 3 << 24 }, /big-endian/],
    [
      'a pre-tokenizer',
      {
        pairs: [
          ...whole.pairs,
          ['tokenizer.ggml.model', 'string', 'gpt2'],
          ['tokenizer.ggml.pre', 'string', 'nobody'],
          ['tokenizer.ggml.tokens', 'string[]', ['a']],
        ],
      },
      /pre-tokenizer "nobody" is not supported/,
    ],
    [
      'a tokenizer',
      {
        pairs: [
          ...whole.pairs,
          ['tokenizer.ggml.model', 'string', 'rwkv'],
          ['tokenizer.ggml.tokens', 'string[]', ['a']],
        ],
      },
      /tokenizer "rwkv" is not supported \(supported: gpt2, llama\)/,
    ],
  ] as const)('%s', (_, changes, message) => {
    writeFileSync(file, ggufBytes({ ...whole, ...(changes as Partial<GgufParts>) }));
    expect(() => {
      readModelConfig(file);
      loadTokenizer(file);
    }).toThrow(message);
  });

  it('a type that no kernel reads, when it is needed', () => {
    const tensors = whole.tensors.map((tensor) =>
      tensor.name === 'blk.1.ffn_up.weight' ? { ...tensor, type: 16 } : tensor,
    );
    writeFileSync(file, ggufBytes({ ...whole, tensors }));
    const [rows = 0, k = 0] = [
      ...at(
        tensors,
        tensors.findIndex(({ type }) => type === 16),
      ).dimensions,
    ].reverse();
    expect(() => openCheckpoint(file).matrix('model.layers.1.mlp.up_proj.weight', [rows, k])).toThrow(
      /tensor "blk.1.ffn_up.weight" has type IQ2_XXS, which is not supported .* such as Q4_K_M/,
    );
  });
});
