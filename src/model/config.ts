/** What a model is, in words that no longer depend on its family: config.json read once, every default and
 *  rule made explicit. Used by families/ (shapes and switches), load.ts, library/ and cli/. Both hub style
 *  and transformers 5 spellings are read. */

import { ModelError } from '../base/errors.js';
import type { TokenId } from '../base/ids.js';
import type { Dtype } from '../device/dtype.js';
import { ConfigFields } from './config-fields.js';
import { ggufFileOf } from './gguf/gguf-file.js';
import { describeJson, readJsonObject } from './json-file.js';
import { readModelDocument } from './model-files.js';
import { type RopeConfig, readRopeConfig, scaledPositionCount } from './rope-config.js';

type Architecture = 'llama' | 'qwen2' | 'qwen3' | 'mistral' | 'phi3' | 'qwen3_moe' | 'gemma2';

interface LayerConfig {
  /** A token sees itself and the `window - 1` before it; 0: all before it. */
  readonly window: number;
  readonly feedForward: 'dense' | 'moe';
}

interface AttentionConfig {
  /** Scores are q · k * scale. */
  readonly scale: number;
  /** s = softcap * tanh(s / softcap) after scaling; 0: off. */
  readonly softcap: number;
  /** RMS-normalised query and key heads (Qwen3). */
  readonly queryKeyNorm: boolean;
  readonly queryKeyValueBias: boolean;
  readonly outputBias: boolean;
}

interface MoeConfig {
  readonly expertCount: number;
  readonly expertsPerToken: number;
  readonly interCount: number;
  /** Whether the chosen experts' weights are scaled to sum 1. */
  readonly normalise: 'topk' | 'none';
}

export interface ModelConfig {
  readonly architecture: Architecture;
  readonly vocabCount: number;
  readonly hiddenCount: number;
  readonly layerCount: number;
  readonly headCount: number;
  readonly kvHeadCount: number;
  readonly headDim: number;
  /** Of the dense feed-forward layers. */
  readonly interCount: number;
  /** The longest context, rope scaling included. */
  readonly maxPositionCount: number;
  readonly normEps: number;
  /** Norm weights are stored as w - 1 (Gemma). */
  readonly normOffset: 0 | 1;
  /** Gemma 2 also normalises what attention and feed-forward add to the residual stream. */
  readonly sandwichNorms: boolean;
  readonly rope: RopeConfig;
  readonly layers: readonly LayerConfig[];
  readonly attention: AttentionConfig;
  readonly feedForwardBias: boolean;
  readonly activation: 'silu' | 'gelu_tanh';
  readonly moe: MoeConfig | null;
  readonly tiedEmbeddings: boolean;
  /** Embeddings are multiplied by this; 1: not at all. */
  readonly embeddingScale: number;
  /** logits = cap * tanh(logits / cap); 0: off. */
  readonly finalSoftcap: number;
  /** Checkpoint names: one fused tensor per layer (Phi-3) or one per projection. */
  readonly projections: 'separate' | 'fused';
  /** As the config names it; the files themselves decide. */
  readonly dtype: Dtype;
  readonly endTokenIds: readonly TokenId[];
  readonly bosTokenId: TokenId | null;
}

/** Kernels work in float32. */
const softcapMax = 2 ** 127;

const architectures = new Map<string, Architecture>(
  Object.entries({
    LlamaForCausalLM: 'llama',
    Qwen2ForCausalLM: 'qwen2',
    Qwen3ForCausalLM: 'qwen3',
    MistralForCausalLM: 'mistral',
    Phi3ForCausalLM: 'phi3',
    Qwen3MoeForCausalLM: 'qwen3_moe',
    Gemma2ForCausalLM: 'gemma2',
  }),
);

/** Several times the largest known: a file that asks for more is broken or hostile, and what is made per
 *  layer or expert is made before the weights are looked at. Whether the device has the memory is checked in
 *  memory-needs.ts. */
const largest = {
  layers: 1024,
  experts: 4096,
  heads: 4096,
  hidden: 2 ** 18,
  inter: 2 ** 21,
  vocab: 2 ** 24,
  positions: 2 ** 24,
};

/** Reads `folder`/config.json, or what a GGUF file's keys amount to. @throws ModelError naming file and
 *  field. */
export function readModelConfig(folder: string): ModelConfig {
  const { file, values } = readModelDocument(folder, 'config.json');
  return parseModelConfig(
    new ConfigFields(file, values ?? readJsonObject(file)),
    ggufFileOf(folder) === null ? 'original' : 'gguf',
  );
}

/** Reads a config under another name, such as config.v5.json. */
export function readModelConfigFile(file: string): ModelConfig {
  return parseModelConfig(new ConfigFields(file, readJsonObject(file)), 'original');
}

/** `weights`: conversion to GGUF adds Gemma's 1 to the norms. */
function parseModelConfig(fields: ConfigFields, weights: 'original' | 'gguf'): ModelConfig {
  const architecture = readArchitecture(fields);
  const isGemma = architecture === 'gemma2';
  const heads = readHeads(fields, architecture);
  const layerCount = fields.count('num_hidden_layers', undefined, largest.layers);
  const hiddenCount = fields.count('hidden_size', undefined, largest.hidden);
  const statedPositionCount = fields.count('max_position_embeddings', 2048, largest.positions);
  const rope = readRopeConfig(fields, heads.headDim, statedPositionCount);
  const moe = architecture === 'qwen3_moe' ? readMoe(fields) : null;
  return {
    architecture,
    vocabCount: fields.count('vocab_size', undefined, largest.vocab),
    hiddenCount,
    layerCount,
    ...heads,
    interCount: fields.count('intermediate_size', undefined, largest.inter),
    maxPositionCount: checkedPositionCount(fields, scaledPositionCount(rope, statedPositionCount)),
    normEps: fields.positive('rms_norm_eps', 1e-6),
    normOffset: isGemma && weights === 'original' ? 1 : 0,
    sandwichNorms: isGemma,
    rope,
    layers: readLayers(fields, architecture, layerCount, moe),
    attention: readAttention(fields, architecture, heads.headDim),
    feedForwardBias: architecture === 'llama' && fields.flag('mlp_bias', false),
    activation: readActivation(fields),
    moe,
    tiedEmbeddings: fields.flag('tie_word_embeddings', isGemma),
    embeddingScale: isGemma ? Math.sqrt(hiddenCount) : 1,
    finalSoftcap: fields.optionalBetween('final_logit_softcapping', 0, softcapMax, isGemma ? 30 : null) ?? 0,
    projections: architecture === 'phi3' ? 'fused' : 'separate',
    dtype: readDtype(fields),
    endTokenIds: fields.tokenIds('eos_token_id'),
    bosTokenId: fields.tokenIds('bos_token_id')[0] ?? null,
  };
}

function checkedPositionCount(fields: ConfigFields, count: number): number {
  if (count >= 1 && count <= largest.positions) return count;
  throw new ModelError(
    `${fields.file}: rope scaling makes ${count} positions: must be from 1 to ${largest.positions}`,
  );
}

function readArchitecture(fields: ConfigFields): Architecture {
  const name = fields.texts('architectures')?.[0] ?? fields.text('model_type');
  const found =
    name === null
      ? undefined
      : (architectures.get(name) ?? [...architectures.values()].find((each) => each === name));
  if (found !== undefined) return found;
  const supported = [...architectures.keys()].join(', ');
  const got = name === null ? 'names no architecture' : `architecture ${describeJson(name)} is not supported`;
  throw new ModelError(`${fields.file}: ${got} (supported: ${supported})`);
}

function readHeads(
  fields: ConfigFields,
  architecture: Architecture,
): { headCount: number; kvHeadCount: number; headDim: number } {
  const headCount = fields.count('num_attention_heads', undefined, largest.heads);
  const kvHeadCount = fields.count('num_key_value_heads', headCount, largest.heads);
  // The family's own default where the config is silent; else hidden / heads.
  const familyHeadDim: Partial<Record<Architecture, number>> = { qwen3: 128, gemma2: 256 };
  const headDim = fields.count(
    'head_dim',
    familyHeadDim[architecture] ?? fields.count('hidden_size') / headCount,
  );
  if (headCount % kvHeadCount !== 0)
    fields.fail('num_key_value_heads', `a divisor of num_attention_heads (${headCount})`);
  if (headDim % 8 !== 0 || headDim > 256) {
    throw new ModelError(
      `${fields.file}: heads of ${headDim} dimensions are not supported: kernels need a multiple of 8, at most 256`,
    );
  }
  return { headCount, kvHeadCount, headDim };
}

function readAttention(fields: ConfigFields, architecture: Architecture, headDim: number): AttentionConfig {
  const bias = fields.flag('attention_bias', false);
  const hasBiasSwitch = architecture !== 'qwen2' && architecture !== 'mistral' && architecture !== 'phi3';
  return {
    scale: 1 / Math.sqrt(architecture === 'gemma2' ? fields.positive('query_pre_attn_scalar', 256) : headDim),
    softcap:
      fields.optionalBetween(
        'attn_logit_softcapping',
        0,
        softcapMax,
        architecture === 'gemma2' ? 50 : null,
      ) ?? 0,
    queryKeyNorm: architecture === 'qwen3' || architecture === 'qwen3_moe',
    queryKeyValueBias: architecture === 'qwen2' || (hasBiasSwitch && bias),
    outputBias: hasBiasSwitch && bias,
  };
}

function readLayers(
  fields: ConfigFields,
  architecture: Architecture,
  layerCount: number,
  moe: MoeConfig | null,
): LayerConfig[] {
  const window = readWindow(fields, architecture);
  const types = fields.texts('layer_types');
  if (types !== null && types.length !== layerCount)
    fields.fail('layer_types', `a list of ${layerCount} names`);
  const denseLayers = new Set(fields.numbers('mlp_only_layers') ?? []);
  const fullLayerCount = fields.wholeNumber('max_window_layers', 28);
  const sparseStep = fields.count('decoder_sparse_step', 1);
  return Array.from({ length: layerCount }, (_, layer) => ({
    window: isWindowed(fields, architecture, types?.[layer], layer, fullLayerCount) ? window : 0,
    feedForward: moe !== null && !denseLayers.has(layer) && (layer + 1) % sparseStep === 0 ? 'moe' : 'dense',
  }));
}

/** Qwen configs carry a `sliding_window` that counts only when `use_sliding_window` is true; llama has
 *  none. */
function readWindow(fields: ConfigFields, architecture: Architecture): number {
  if (architecture === 'llama') return 0;
  if (architecture.startsWith('qwen') && !fields.flag('use_sliding_window', false)) return 0;
  const window = fields.optionalNumber('sliding_window', architecture === 'gemma2' ? 4096 : null) ?? 0;
  if (!Number.isInteger(window) || window < 0) fields.fail('sliding_window', 'an integer from 0 on');
  return Math.min(window, largest.positions); // a longer one hides nothing
}

function isWindowed(
  fields: ConfigFields,
  architecture: Architecture,
  type: string | undefined,
  layer: number,
  fullLayerCount: number,
): boolean {
  if (type === 'full_attention') return false;
  if (type === 'sliding_attention') return true;
  if (type !== undefined) fields.fail('layer_types', 'a list of "full_attention" and "sliding_attention"');
  if (architecture === 'gemma2') return layer % 2 === 0;
  // transformers' Qwen: full attention below `max_window_layers`; Qwen3-MoE ignores it and windows every
  // layer.
  if (architecture === 'qwen2' || architecture === 'qwen3') return layer >= fullLayerCount;
  return true;
}

function readMoe(fields: ConfigFields): MoeConfig {
  const expertCount = fields.count(
    fields.has('num_experts') ? 'num_experts' : 'num_local_experts',
    undefined,
    largest.experts,
  );
  const expertsPerToken = fields.count('num_experts_per_tok');
  if (expertsPerToken > expertCount) fields.fail('num_experts_per_tok', `at most the ${expertCount} experts`);
  return {
    expertCount,
    expertsPerToken,
    interCount: fields.count('moe_intermediate_size', undefined, largest.inter),
    normalise: fields.flag('norm_topk_prob', false) ? 'topk' : 'none',
  };
}

function readActivation(fields: ConfigFields): 'silu' | 'gelu_tanh' {
  const field = fields.has('hidden_activation') ? 'hidden_activation' : 'hidden_act';
  const name = fields.text(field) ?? 'silu';
  if (name === 'silu' || name === 'swish') return 'silu';
  if (name === 'gelu_pytorch_tanh') return 'gelu_tanh';
  return fields.fail(field, '"silu" or "gelu_pytorch_tanh"');
}

function readDtype(fields: ConfigFields): Dtype {
  const field = fields.has('dtype') ? 'dtype' : 'torch_dtype';
  const dtypes = new Map<string, Dtype>(Object.entries({ float32: 'f32', bfloat16: 'bf16', float16: 'f16' }));
  const name = fields.text(field) ?? 'float32';
  return dtypes.get(name) ?? fields.fail(field, '"float32", "bfloat16" or "float16"');
}
