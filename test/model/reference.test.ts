/** The float64 reference against the goldens, then our forward pass against the reference where no golden
 *  reaches: biases, partial rotation, mixed dense and expert layers, f16 files, odd head sizes. Also hidden
 *  states layer by layer. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { at } from '../../src/base/assert.js';
import { Prng } from '../../src/base/prng.js';
import { readModelConfig } from '../../src/model/config.js';
import {
  demoFolder,
  fixtureFolder,
  fixtureNames,
  Harness,
  largest,
  logSoftmax,
  readGolden,
} from './harness.js';
import { readTensors, referenceLogits, writeRandomCheckpoint } from './reference.js';

const temporary = mkdtempSync(path.join(tmpdir(), 'twostroke-reference-'));
afterAll(() => rmSync(temporary, { recursive: true }));

describe.each(['llama', 'qwen2', 'qwen3', 'mistral-swa', 'qwen3-moe', 'gemma2', 'phi3'])(
  'reference of %s',
  (name) => {
    it('agrees with the golden', () => {
      const folder = fixtureFolder(name);
      const golden = readGolden(folder).cases.find((each) => each.name === 'len33')!;
      const ids = [...golden.prompt_ids, ...golden.continuation_ids.slice(0, 8)];
      const rows = referenceLogits(
        readModelConfig(folder),
        readTensors(path.join(folder, 'model.safetensors')),
        ids,
      );
      for (const [i, { ids: top, logprobs }] of golden.top5.entries()) {
        const row = logSoftmax(Float32Array.from(at(rows, golden.prompt_ids.length - 1 + i)));
        expect(largest(top.map((id, rank) => Math.abs(at(row, id) - at(logprobs, rank))))).toBeLessThan(2e-4);
      }
    });
  },
);

const base = {
  vocab_size: 96,
  hidden_size: 40,
  intermediate_size: 72,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
  torch_dtype: 'float32',
};

describe('shapes without a golden', () => {
  it.each([
    [
      'llama with biases everywhere',
      { architectures: ['LlamaForCausalLM'], attention_bias: true, mlp_bias: true, head_dim: 16 },
      'F32',
    ],
    [
      'llama with heads of 8',
      { architectures: ['LlamaForCausalLM'], tie_word_embeddings: true, hidden_size: 32 },
      'F32',
    ],
    ['llama from f16', { architectures: ['LlamaForCausalLM'], head_dim: 24 }, 'F16'],
    [
      'qwen2 from bf16 with windows from layer 1',
      {
        architectures: ['Qwen2ForCausalLM'],
        hidden_size: 64,
        use_sliding_window: true,
        sliding_window: 7,
        max_window_layers: 1,
      },
      'BF16',
    ],
    [
      'qwen3 with biases and one kv head',
      { architectures: ['Qwen3ForCausalLM'], attention_bias: true, head_dim: 32, num_key_value_heads: 1 },
      'F32',
    ],
    [
      'mistral, partly rotated, linear scaling',
      {
        architectures: ['MistralForCausalLM'],
        head_dim: 16,
        partial_rotary_factor: 0.5,
        rope_scaling: { type: 'linear', factor: 2 },
      },
      'F32',
    ],
    [
      'llama with yarn',
      {
        architectures: ['LlamaForCausalLM'],
        head_dim: 32,
        rope_scaling: { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 32 },
      },
      'F32',
    ],
    [
      'experts between dense layers, not normalised',
      {
        architectures: ['Qwen3MoeForCausalLM'],
        num_hidden_layers: 3,
        mlp_only_layers: [1],
        num_local_experts: 5,
        num_experts_per_tok: 3,
        moe_intermediate_size: 24,
        norm_topk_prob: false,
        head_dim: 16,
      },
      'F32',
    ],
  ] as const)('%s', async (_, changes, dtype) => {
    const folder = mkdtempSync(path.join(temporary, 'model-'));
    writeFileSync(path.join(folder, 'config.json'), JSON.stringify({ ...base, ...changes }));
    const config = readModelConfig(folder);
    writeRandomCheckpoint(folder, config, dtype, 7);
    const prng = new Prng(3);
    const ids = Array.from({ length: 70 }, () => prng.integer(0, 95));
    const harness = await Harness.open({ folder, dtype: 'f32', maxTokenCount: 128 });
    const found = await harness.prefill(harness.start(ids.length), ids, 33, 'all');
    await harness.close();
    const expected = referenceLogits(config, readTensors(path.join(folder, 'model.safetensors')), ids);
    const spread = largest(expected.flatMap((row) => [...row].map(Math.abs)));
    expect(spread).toBeGreaterThan(0.5); // not a model that says nothing
    const errors = found.flatMap((row, t) =>
      [...row].map((logit, i) => Math.abs(logit - at(at(expected, t), i))),
    );
    expect(largest(errors)).toBeLessThan(2e-5 * Math.max(1, spread));
  });
});

describe.each([...fixtureNames.map(fixtureFolder), demoFolder])('hidden states of %s', (folder) => {
  it('are the golden ones, layer by layer', async () => {
    const { debug } = readGolden(folder);
    const harness = await Harness.open({ folder });
    const { residual } = harness.model;
    const hidden = harness.model.config.hiddenCount;
    const rowBytes = hidden * 4;
    const copies = harness.device.allocateHost(rowBytes * harness.model.config.layerCount);
    const ids = debug.prompt_ids;
    const rows = await harness.step(
      [{ sequence: harness.start(ids.length), ids, logits: 'last' }],
      (layer) => {
        harness.stream.copy(
          (copies.pointer + layer * rowBytes) as never,
          (residual.pointer + (ids.length - 1) * rowBytes) as never,
          rowBytes,
        );
      },
    );
    for (const { index, first8, rms } of debug.hidden_states.slice(0, -1)) {
      const state = new Float32Array(copies.bytes.buffer, copies.bytes.byteOffset + index * rowBytes, hidden);
      expect(largest(first8.map((value, i) => Math.abs(value - at(state, i))))).toBeLessThan(
        2e-5 * Math.max(1, rms),
      );
      expect(Math.abs(Math.sqrt(state.reduce((sum, v) => sum + v * v, 0) / hidden) - rms)).toBeLessThan(
        2e-5 * Math.max(1, rms),
      );
    }
    expect(
      largest(debug.logits_first16.map((value, i) => Math.abs(value - at(at(rows, 0), i)))),
    ).toBeLessThan(2e-4);
    harness.device.releaseHost(copies);
    await harness.close();
  });
});
