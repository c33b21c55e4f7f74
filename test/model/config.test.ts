/** config.json in both spellings, the rules of each family, rope tables, generation defaults and model
 *  folders. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { at } from '../../src/base/assert.js';
import { ModelError } from '../../src/base/errors.js';
import { readModelConfig, readModelConfigFile } from '../../src/model/config.js';
import { readGenerationConfig } from '../../src/model/generation-config.js';
import { ropeTable, scaledFrequencies } from '../../src/model/rope.js';
import { demoFolder, fixtureFolder, fixtureNames } from './harness.js';

const temporary = mkdtempSync(path.join(tmpdir(), 'twostroke-config-'));
afterAll(() => rmSync(temporary, { recursive: true }));

/** The config of a fixture with some fields replaced; undefined removes one. */
function changed(fixture: string, changes: Record<string, unknown>) {
  const config = {
    ...JSON.parse(readFileSync(path.join(fixtureFolder(fixture), 'config.json'), 'utf8')),
    ...changes,
  };
  const folder = mkdtempSync(path.join(temporary, 'model-'));
  writeFileSync(path.join(folder, 'config.json'), JSON.stringify(config));
  return readModelConfig(folder);
}

const windows = (config: ReturnType<typeof readModelConfig>) => config.layers.map((layer) => layer.window);

describe('configs', () => {
  it.each([...fixtureNames.map(fixtureFolder), demoFolder])(
    '%s reads the same in both spellings',
    (folder) => {
      expect(readModelConfigFile(path.join(folder, 'config.v5.json'))).toEqual(readModelConfig(folder));
    },
  );

  it('takes head_dim from the config, from hidden size over heads, or from the family', () => {
    expect(readModelConfig(fixtureFolder('qwen2')).headDim).toBe(16);
    expect(readModelConfig(fixtureFolder('qwen3')).headDim).toBe(32);
    expect(changed('qwen3', { head_dim: undefined }).headDim).toBe(128);
    expect(changed('mistral-swa', { head_dim: null }).headDim).toBe(16);
  });

  it('follows each family on windows', () => {
    expect(windows(readModelConfig(fixtureFolder('qwen2')))).toEqual([0, 0, 0]);
    expect(windows(changed('qwen2', { use_sliding_window: true, max_window_layers: 1 }))).toEqual([
      0, 32, 32,
    ]);
    expect(windows(readModelConfig(fixtureFolder('mistral-swa')))).toEqual([32, 32, 32]);
    expect(windows(changed('mistral-swa', { sliding_window: null }))).toEqual([0, 0, 0]);
    expect(windows(readModelConfig(fixtureFolder('gemma2')))).toEqual([32, 0, 32, 0]);
    expect(windows(changed('phi3', { sliding_window: 2047 }))).toEqual([2047, 2047, 2047]);
    expect(windows(changed('llama', { sliding_window: 8 }))).toEqual([0, 0, 0]);
    const types = ['full_attention', 'sliding_attention', 'full_attention'];
    expect(
      windows(changed('qwen3', { use_sliding_window: true, sliding_window: 9, layer_types: types })),
    ).toEqual([0, 9, 0]);
  });

  it('follows each family on biases, scales and caps', () => {
    expect(readModelConfig(fixtureFolder('qwen2')).attention).toMatchObject({
      queryKeyValueBias: true,
      outputBias: false,
    });
    expect(changed('llama', { attention_bias: true, mlp_bias: true })).toMatchObject({
      attention: { queryKeyValueBias: true, outputBias: true },
      feedForwardBias: true,
    });
    const gemma = readModelConfig(fixtureFolder('gemma2'));
    expect(gemma).toMatchObject({
      embeddingScale: 8,
      normOffset: 1,
      sandwichNorms: true,
      finalSoftcap: 15,
      activation: 'gelu_tanh',
    });
    expect(gemma.attention).toMatchObject({ softcap: 10, scale: 1 / Math.sqrt(24) });
    expect(changed('gemma2', { final_logit_softcapping: null }).finalSoftcap).toBe(0);
    expect(changed('gemma2', { final_logit_softcapping: undefined }).finalSoftcap).toBe(30);
  });

  it('finds the dense layers of a mixture of experts', () => {
    const kinds = (changes: Record<string, unknown>) =>
      changed('qwen3-moe', changes).layers.map((layer) => layer.feedForward);
    expect(kinds({})).toEqual(['moe', 'moe', 'moe']);
    expect(kinds({ mlp_only_layers: [1] })).toEqual(['moe', 'dense', 'moe']);
    expect(kinds({ decoder_sparse_step: 2 })).toEqual(['dense', 'moe', 'dense']);
  });

  it.each([
    [
      'unsupported architecture',
      'llama',
      { architectures: ['BloomForCausalLM'] },
      /"BloomForCausalLM" is not supported.*LlamaForCausalLM.*Gemma2/,
    ],
    [
      'no architecture',
      'llama',
      { architectures: undefined, model_type: undefined },
      /names no architecture \(supported/,
    ],
    [
      'missing field',
      'llama',
      { hidden_size: undefined },
      /config.json: "hidden_size" must be a number, it is missing/,
    ],
    [
      'text for a number',
      'llama',
      { num_hidden_layers: 'three' },
      /"num_hidden_layers" must be a number, got "three"/,
    ],
    ['a fraction', 'llama', { vocab_size: 1.5 }, /"vocab_size" must be a positive integer, got 1.5/],
    [
      'heads that do not divide',
      'llama',
      { num_key_value_heads: 3 },
      /"num_key_value_heads" must be a divisor/,
    ],
    [
      'hidden size no multiple of heads',
      'qwen2',
      { hidden_size: 66 },
      /"head_dim" must be a positive integer, it is missing/,
    ],
    [
      'a head size kernels lack',
      'llama',
      { head_dim: 10 },
      /heads of 10 dimensions are not supported: kernels need a multiple of 8/,
    ],
    [
      'rope scaling',
      'llama',
      { rope_scaling: { rope_type: 'spiral', factor: 2 } },
      /rope scaling "spiral" is not supported/,
    ],
    [
      'rope factor',
      'llama',
      { rope_scaling: { rope_type: 'linear' } },
      /"rope_scaling.factor" must be a number, it is missing/,
    ],
    [
      'longrope list',
      'phi3',
      { rope_scaling: { type: 'longrope', short_factor: [1], long_factor: [1] } },
      /short_factor" must be a list of 8/,
    ],
    [
      'activation',
      'llama',
      { hidden_act: 'relu' },
      /"hidden_act" must be "silu" or "gelu_pytorch_tanh", got "relu"/,
    ],
    ['layer types', 'qwen3', { layer_types: ['full_attention'] }, /"layer_types" must be a list of 3/],
    ['dtype', 'llama', { torch_dtype: 'float64' }, /"torch_dtype" must be "float32"/],
    ['end ids', 'llama', { eos_token_id: 'two' }, /"eos_token_id" must be a token id/],
  ])('refuses: %s', (_, fixture, changes, message) => {
    expect(() => changed(fixture, changes)).toThrow(ModelError);
    expect(() => changed(fixture, changes)).toThrow(message);
  });

  it.each([
    ['nothing', undefined, /config.json: no such file. Is .* a complete Hugging Face model folder/],
    ['broken JSON', '{\n  "a": 1,\n  oops\n}', /config.json: not valid JSON at line 3, column 3/],
    ['half a file', '{ "a": [1, 2', /config.json: not valid JSON at line 1/],
    ['a list', '[1]', /config.json: expected a JSON object, got \[1\]/],
  ])('refuses a folder with %s', (_, text, message) => {
    const folder = mkdtempSync(path.join(temporary, 'model-'));
    if (text !== undefined) writeFileSync(path.join(folder, 'config.json'), text);
    expect(() => readModelConfig(folder)).toThrow(ModelError);
    expect(() => readModelConfig(folder)).toThrow(message);
  });
});

describe('rope', () => {
  const rope = (scaling: Parameters<typeof ropeTable>[0]['scaling'], rotaryCount = 8) => ({
    theta: 10000,
    rotaryCount,
    scaling,
  });
  const base = [1, 0.1, 0.01, 0.001];
  const close = (found: readonly number[], expected: readonly number[]) => {
    expect(found.length).toBe(expected.length);
    for (const [i, value] of expected.entries()) expect(at(found, i)).toBeCloseTo(value, 12);
  };

  it('tables are cosines then sines of position times frequency', () => {
    const table = ropeTable(rope({ kind: 'default' }), 5);
    expect(table.length).toBe(5 * 8);
    for (const position of [0, 1, 4]) {
      for (const [i, frequency] of base.entries()) {
        expect(table[position * 8 + i]).toBe(Math.fround(Math.cos(position * frequency)));
        expect(table[position * 8 + 4 + i]).toBe(Math.fround(Math.sin(position * frequency)));
      }
    }
  });

  it('linear divides every frequency', () => {
    close(
      scaledFrequencies(rope({ kind: 'linear', factor: 4, originalPositionCount: 64 }), 10),
      [0.25, 0.025, 0.0025, 0.00025],
    );
  });

  it('llama3 keeps fast frequencies, divides slow ones and blends between', () => {
    const scaling = {
      kind: 'llama3',
      factor: 8,
      lowFrequencyFactor: 1,
      highFrequencyFactor: 4,
      originalPositionCount: 100,
    } as const;
    // turns in 100 positions: 15.9 (kept), 1.59 (blended: (1.59 - 1) / 3), 0.159 and 0.0159 (divided)
    const smooth = ((100 * 0.1) / (2 * Math.PI) - 1) / 3;
    close(scaledFrequencies(rope(scaling), 10), [1, 0.1 * ((1 - smooth) / 8 + smooth), 0.00125, 0.000125]);
  });

  it('longrope takes its list by the longest context and scales cosines and sines', () => {
    const scaling = {
      kind: 'longrope',
      shortFactors: [1, 1, 1, 2],
      longFactors: [1, 2, 4, 8],
      originalPositionCount: 64,
      attentionFactor: 1.25,
    } as const;
    close(scaledFrequencies(rope(scaling), 64), [1, 0.1, 0.01, 0.0005]);
    close(scaledFrequencies(rope(scaling), 65), [1, 0.05, 0.0025, 0.000125]);
    expect(ropeTable(rope(scaling), 4)[0]).toBe(1.25);
  });

  it("longrope's attention factor follows the ratio of the two lengths", () => {
    const factors = { short_factor: new Array(8).fill(1), long_factor: new Array(8).fill(2) };
    const { rope: read } = changed('phi3', {
      max_position_embeddings: 4096,
      original_max_position_embeddings: 1024,
      rope_scaling: { type: 'longrope', ...factors },
    });
    expect(read.scaling).toMatchObject({
      kind: 'longrope',
      originalPositionCount: 1024,
      attentionFactor: Math.sqrt(1.2),
    });
  });

  it('yarn keeps what turns often, divides what hardly turns, ramps between', () => {
    const { rope: read } = changed('llama', {
      head_dim: 128,
      rope_theta: 1000000,
      max_position_embeddings: 131072,
      rope_scaling: { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 32768 },
    });
    expect(read.scaling).toMatchObject({
      kind: 'yarn',
      attentionFactor: 0.1 * Math.log(4) + 1,
      betaFast: 32,
      betaSlow: 1,
    });
    const found = scaledFrequencies(read, 1);
    // Corrections: floor(64 log(32768 / 64π) / log 1e6) = 23, ceil(64 log(32768 / 2π) / log 1e6) = 40.
    const frequency = (i: number) => 1000000 ** (-i / 64);
    expect(at(found, 23)).toBeCloseTo(frequency(23), 12);
    expect(at(found, 40)).toBeCloseTo(frequency(40) / 4, 12);
    const ramp = (30 - 23) / (40 - 23);
    expect(at(found, 30)).toBeCloseTo(frequency(30) * (1 - ramp + ramp / 4), 12);
  });

  it('rotates a part of the head when the config says so', () => {
    expect(changed('phi3', { partial_rotary_factor: 0.5 }).rope.rotaryCount).toBe(8);
    expect(() => changed('phi3', { partial_rotary_factor: 0.3 })).not.toThrow(); // 4 of 16
    expect(() => changed('phi3', { partial_rotary_factor: 0.2 })).toThrow(/3 rotated of 16/);
  });
});

interface RopeTables {
  readonly cases: readonly {
    readonly name: string;
    readonly rope_scaling: object;
    readonly head_dim: number;
    readonly rope_theta: number;
    readonly max_position_embeddings: number;
    readonly tables: readonly {
      readonly seq_len: number | null;
      readonly attention_factor: number;
      readonly inv_freq: readonly number[];
    }[];
  }[];
}
const { cases: ropeCases } = JSON.parse(
  readFileSync(path.join(fixtureFolder('rope-tables'), 'golden.json'), 'utf8'),
) as RopeTables;

describe('rope tables of transformers', () => {
  it.each(ropeCases)('$name', ({ tables, name: _, ...fields }) => {
    const { rope } = changed('llama', fields);
    for (const { seq_len, attention_factor, inv_freq } of tables) {
      const length = seq_len ?? 1;
      for (const [i, frequency] of scaledFrequencies(rope, length).entries()) {
        expect(Math.abs(frequency / at(inv_freq, i) - 1)).toBeLessThan(1e-5);
      }
      expect(ropeTable(rope, length)[0]).toBeCloseTo(attention_factor, 6);
    }
  });
});

describe('the longest context', () => {
  const positions = (max_position_embeddings: number, rope_scaling: object | null, more: object = {}) =>
    changed('llama', { max_position_embeddings, rope_scaling, ...more }).maxPositionCount;

  it('is multiplied where the config names the length before scaling', () => {
    expect(positions(512, { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 512 })).toBe(
      2048,
    );
    expect(positions(512, { rope_type: 'yarn', factor: 4 })).toBe(2048);
    expect(positions(512, { type: 'linear', factor: 4 })).toBe(2048);
    expect(positions(512, { rope_type: 'dynamic', factor: 2.5 })).toBe(1280);
  });

  it('is not multiplied twice', () => {
    expect(positions(2048, { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 512 })).toBe(
      2048,
    );
    expect(positions(2048, { rope_type: 'linear', factor: 4, original_max_position_embeddings: 512 })).toBe(
      2048,
    );
    expect(
      positions(2048, { rope_type: 'linear', factor: 4 }, { original_max_position_embeddings: 512 }),
    ).toBe(2048);
  });

  it('is what llama3, longrope and unscaled configs say', () => {
    const llama3 = {
      rope_type: 'llama3',
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 64,
    };
    expect(positions(512, llama3)).toBe(512);
    expect(positions(512, null)).toBe(512);
    expect(positions(512, { rope_type: 'default', factor: 4 })).toBe(512);
    const factors = { short_factor: new Array(8).fill(1), long_factor: new Array(8).fill(2) };
    expect(
      changed('phi3', {
        max_position_embeddings: 4096,
        rope_scaling: { type: 'longrope', factor: 4, ...factors },
      }).maxPositionCount,
    ).toBe(4096);
  });

  it('reads the same in both spellings', () => {
    for (const [name, count] of [
      ['qwen3-yarn', 256],
      ['llama-linear', 2048],
    ] as const) {
      expect(readModelConfig(fixtureFolder(name)).maxPositionCount).toBe(count);
      expect(readModelConfigFile(path.join(fixtureFolder(name), 'config.v5.json'))).toEqual(
        readModelConfig(fixtureFolder(name)),
      );
    }
  });
});

describe('generation defaults', () => {
  it('come from generation_config.json, end tokens included', () => {
    expect(readGenerationConfig(demoFolder, null)).toEqual({
      temperature: 0.6,
      topK: 20,
      topP: 0.9,
      endTokenIds: [2, 0],
    });
  });

  it("end at the tokenizer's own token as well, and at none that the model cannot give", () => {
    const folder = mkdtempSync(path.join(temporary, 'model-'));
    writeFileSync(path.join(folder, 'config.json'), '{"eos_token_id": 5, "vocab_size": 100}');
    expect(readGenerationConfig(folder, 7).endTokenIds).toEqual([5, 7]);
    expect(readGenerationConfig(folder, 5).endTokenIds).toEqual([5]);
    expect(readGenerationConfig(folder, 100).endTokenIds).toEqual([5]);
    writeFileSync(path.join(folder, 'generation_config.json'), '{"eos_token_id": [8, 100, 9]}');
    expect(readGenerationConfig(folder, 7).endTokenIds).toEqual([8, 9, 7]);
  });

  it.each([
    ['temperature', -1],
    ['temperature', '1e999'],
    ['top_p', 1.5],
    ['top_k', 2.5],
    ['min_p', -0.1],
    ['repetition_penalty', 0],
    ['max_new_tokens', 0],
    ['eos_token_id', 1.5],
    ['eos_token_id', -1],
    ['eos_token_id', 4e9],
    ['eos_token_id', `[${new Array(2000).fill(2)}]`],
  ])('refuse %s: %.9s', (name, value) => {
    const folder = mkdtempSync(path.join(temporary, 'model-'));
    writeFileSync(path.join(folder, 'generation_config.json'), `{"${name}": ${value}}`);
    expect(() => readGenerationConfig(folder, null)).toThrow(ModelError);
  });

  it('fall back to config.json for the end tokens', () => {
    const folder = mkdtempSync(path.join(temporary, 'model-'));
    writeFileSync(path.join(folder, 'config.json'), '{"eos_token_id": [5, 6]}');
    expect(readGenerationConfig(folder, null)).toEqual({ endTokenIds: [5, 6] });
    writeFileSync(path.join(folder, 'generation_config.json'), '{"top_k": "many"}');
    expect(() => readGenerationConfig(folder, null)).toThrow(
      /generation_config.json: "top_k" must be a number, got "many"/,
    );
  });
});
