/** Qwen3-8B's shape with random weights: what the benchmarks and the batch-invariance test run on. Used by bench.ts and invariance.ts. */
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { Device } from '../../src/device/device.js';
import { loadModel } from '../../src/model/load.js';
import type { LoadOptions, Model } from '../../src/model/model.js';

const qwen3Of8B = {
  architectures: ['Qwen3ForCausalLM'],
  ...{
    model_type: 'qwen3',
    hidden_size: 4096,
    intermediate_size: 12288,
    num_hidden_layers: 36,
    num_attention_heads: 32,
    num_key_value_heads: 8,
  },
  ...{
    head_dim: 128,
    vocab_size: 151936,
    max_position_embeddings: 40960,
    rms_norm_eps: 1e-6,
    rope_theta: 1000000,
    hidden_act: 'silu',
  },
  ...{ tie_word_embeddings: false, torch_dtype: 'bfloat16', bos_token_id: 151643, eos_token_id: 151645, attention_bias: false },
};

export interface DummyOptions {
  readonly layerCount?: number;
  readonly quantize?: LoadOptions['quantize'];
}

export const dummyLimits = { rowCountMax: 2048, logitRowCountMax: 256 };

export function loadDummy(device: Device, { layerCount = 36, quantize = 'none' }: DummyOptions = {}): Promise<Model> {
  const folder = path.join(process.env.OUT ?? '/tmp', `qwen3-8b-shape-${layerCount}`);
  mkdirSync(folder, { recursive: true });
  writeFileSync(path.join(folder, 'config.json'), JSON.stringify({ ...qwen3Of8B, num_hidden_layers: layerCount }));
  const options = {
    device,
    limits: dummyLimits,
    loadFormat: 'dummy',
    dtype: 'bf16',
    quantize,
    maxModelTokenCount: 8192,
  } as const;
  return loadModel(folder, options);
}
