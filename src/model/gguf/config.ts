/** A GGUF file's keys as the config.json that its model had, which config.ts reads like any other. Used by
 *  model-files.ts. What cannot be served is refused here by the file's own names. */
import { ModelError } from '../../base/errors.js';
import { describeJson, type JsonObject } from '../json-file.js';
import { readFloats } from '../safetensors.js';
import type { GgufModel } from './gguf-file.js';
import type { Metadata } from './metadata.js';

const architectures = new Map([
  ['llama', 'LlamaForCausalLM'],
  ['qwen2', 'Qwen2ForCausalLM'],
  ['qwen3', 'Qwen3ForCausalLM'],
  ['qwen3moe', 'Qwen3MoeForCausalLM'],
  ['phi3', 'Phi3ForCausalLM'],
  ['gemma2', 'Gemma2ForCausalLM'],
]);

/** One number for each pair of a head's dimensions. */
const factorBytesMax = 2 ** 14;

/** @throws ModelError */
export function ggufConfig(model: GgufModel): JsonObject {
  const { metadata, entries } = model;
  const name = metadata.text('general.architecture') ?? metadata.fail('general.architecture', 'a name');
  const architecture = architectures.get(name);
  if (architecture === undefined) {
    throw new ModelError(
      `${metadata.file}: architecture ${describeJson(name)} is not supported (supported: ${[...architectures.keys()].join(', ')})`,
    );
  }
  const key = (suffix: string) => `${name}.${suffix}`;
  const headCount = metadata.count(key('attention.head_count'));
  const hiddenCount = metadata.count(key('embedding_length'));
  const headDim = metadata.count(key('attention.key_length'), Math.floor(hiddenCount / headCount));
  if (metadata.count(key('attention.value_length'), headDim) !== headDim)
    metadata.fail(key('attention.value_length'), `${headDim}, as the keys have`);
  const vocabCount = entries.get('token_embd.weight')?.shape[0];
  if (vocabCount === undefined)
    throw new ModelError(`${metadata.file}: tensor "token_embd.weight" is missing`);
  const contextCount = metadata.count(key('context_length'));
  const rotaryCount = metadata.count(key('rope.dimension_count'), headDim);
  return {
    architectures: [architecture],
    dtype: 'bfloat16',
    vocab_size: vocabCount,
    hidden_size: hiddenCount,
    intermediate_size: metadata.count(key('feed_forward_length'), name === 'qwen3moe' ? 1 : undefined),
    num_hidden_layers: metadata.count(key('block_count')),
    num_attention_heads: headCount,
    num_key_value_heads: metadata.count(key('attention.head_count_kv'), headCount),
    head_dim: headDim,
    max_position_embeddings: contextCount,
    rms_norm_eps:
      metadata.number(key('attention.layer_norm_rms_epsilon')) ??
      metadata.fail(key('attention.layer_norm_rms_epsilon'), 'a number'),
    rope_theta: metadata.number(key('rope.freq_base')) ?? 10000,
    ...(rotaryCount !== headDim && { partial_rotary_factor: rotaryCount / headDim }),
    rope_scaling: ropeScaling(model, key, contextCount),
    tie_word_embeddings: !entries.has('output.weight'),
    attention_bias: name === 'llama' && entries.has('blk.0.attn_q.bias'),
    mlp_bias: name === 'llama' && entries.has('blk.0.ffn_up.bias'),
    hidden_act: name === 'gemma2' ? 'gelu_pytorch_tanh' : 'silu',
    ...windowOf(name, metadata, key),
    ...expertsOf(name, metadata, key),
    ...(name === 'gemma2' && gemmaOf(metadata, key, headDim)),
    bos_token_id: metadata.number('tokenizer.ggml.bos_token_id'),
    eos_token_id: metadata.number('tokenizer.ggml.eos_token_id'),
  };
}

/** Factors come as a tensor, the rest as keys. */
function ropeScaling(
  { metadata, entries }: GgufModel,
  key: (suffix: string) => string,
  contextCount: number,
): JsonObject | null {
  const factorsOf = (name: string) => {
    const entry = entries.get(name);
    if (entry === undefined) return null;
    if (entry.byteCount <= factorBytesMax) return [...readFloats(entry)];
    throw new ModelError(
      `${entry.file}: tensor ${describeJson(name)} has ${entry.byteCount} bytes (at most ${factorBytesMax})`,
    );
  };
  const original = metadata.count(key('rope.scaling.original_context_length'), contextCount);
  const [both, short, long] = ['rope_freqs', 'rope_factors_short', 'rope_factors_long'].map((name) =>
    factorsOf(`${name}.weight`),
  );
  const [shortFactors, longFactors] = [short ?? both ?? null, long ?? both ?? null];
  if (shortFactors !== null && longFactors !== null) {
    const attentionFactor = metadata.number(key('rope.scaling.attn_factor')) ?? 1;
    return {
      rope_type: 'longrope',
      short_factor: shortFactors,
      long_factor: longFactors,
      original_max_position_embeddings: original,
      attention_factor: attentionFactor,
    };
  }
  const type = metadata.text(key('rope.scaling.type')) ?? 'none';
  const factor =
    metadata.number(key('rope.scaling.factor')) ?? metadata.number(key('rope.scale_linear')) ?? 1;
  if (type === 'none' || factor === 1) return null;
  if (type === 'linear') return { rope_type: 'linear', factor };
  if (type === 'yarn') return { rope_type: 'yarn', factor, original_max_position_embeddings: original };
  return metadata.fail(key('rope.scaling.type'), '"none", "linear" or "yarn"');
}

/** Only where llama.cpp reads it. */
function windowOf(name: string, metadata: Metadata, key: (suffix: string) => string): JsonObject {
  const window = metadata.count(key('attention.sliding_window'), 0, 0);
  if (name === 'gemma2') return { sliding_window: window === 0 ? 4096 : window };
  return name === 'phi3' ? { sliding_window: window === 0 ? null : window } : {};
}

function expertsOf(name: string, metadata: Metadata, key: (suffix: string) => string): JsonObject {
  const expertCount = metadata.count(key('expert_count'), 0, 0);
  if (name !== 'qwen3moe') {
    if (expertCount > 0)
      metadata.fail(key('expert_count'), '0: experts of this architecture are not supported');
    return {};
  }
  return {
    num_experts: metadata.count(key('expert_count')),
    num_experts_per_tok: metadata.count(key('expert_used_count')),
    moe_intermediate_size: metadata.count(key('expert_feed_forward_length')),
    norm_topk_prob: true,
  };
}

/** Queries are scaled by the head's size, but for the 27B model's 46 layers, and unless a key says
 *  otherwise. */
function gemmaOf(metadata: Metadata, key: (suffix: string) => string, headDim: number): JsonObject {
  const scale = metadata.number(key('attention.scale')) ?? 0;
  const isLarge = metadata.count(key('block_count')) === 46;
  const perHead = metadata.count(key('embedding_length')) / metadata.count(key('attention.head_count'));
  return {
    query_pre_attn_scalar: scale > 0 ? scale ** -2 : isLarge ? perHead : headDim,
    attn_logit_softcapping: metadata.number(key('attn_logit_softcapping')) ?? 50,
    final_logit_softcapping: metadata.number(key('final_logit_softcapping')) ?? 30,
  };
}
