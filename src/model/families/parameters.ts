/** The parameters of a decoder by their names in a Hugging Face checkpoint. Used by decoder.ts, which reads
 *  the structure made here; what differs between families (fused projections, biases, extra norms, experts,
 *  tied head) comes from ModelConfig alone. q, k and v become one matrix, gate and up another, so that each
 *  is one product. */
import type { Weight } from '../../device/device.js';
import type { Dtype } from '../../device/dtype.js';
import type { PlainDtype } from '../../device/stored-matrix.js';
import type { Tensor } from '../../device/tensor.js';
import type { ModelConfig } from '../config.js';
import { ropeTable } from '../rope.js';
import type { MatrixPart, ParameterStore } from '../weights.js';

export interface Linear {
  readonly weight: Weight;
  readonly bias: Tensor | null;
}

interface AttentionParameters {
  readonly queryKeyValue: Linear; // [(heads + 2 kvHeads) headDim, hidden]
  readonly output: Linear; // [hidden, heads headDim]
  readonly queryNorm: Tensor | null; // [headDim]
  readonly keyNorm: Tensor | null;
}

export interface DenseParameters {
  readonly kind: 'dense';
  readonly gateUp: Linear; // [2 inter, hidden]
  readonly down: Linear; // [hidden, inter]
}

export interface MoeParameters {
  readonly kind: 'moe';
  readonly router: Weight; // [experts, hidden]
  readonly gateUp: Weight; // experts of [2 moeInter, hidden]
  readonly down: Weight; // experts of [hidden, moeInter]
}

export interface LayerParameters {
  readonly window: number;
  readonly attentionNorm: Tensor;
  readonly attention: AttentionParameters;
  /** Gemma 2: norms what attention adds. */
  readonly attentionOutputNorm: Tensor | null;
  readonly feedForwardNorm: Tensor;
  readonly feedForward: DenseParameters | MoeParameters;
  readonly feedForwardOutputNorm: Tensor | null;
}

export interface DecoderParameters {
  readonly embedding: Tensor; // [vocab, hidden]
  readonly rope: Tensor; // [maxPosition, rotary]
  readonly layers: readonly LayerParameters[];
  readonly finalNorm: Tensor;
  readonly head: Weight; // [vocab, hidden]
}

/** Declares every parameter. @throws ModelError naming the first tensor that is missing or has another
 *  shape. */
export function declareDecoder(
  config: ModelConfig,
  store: ParameterStore,
  options: {
    readonly embeddingDtype: PlainDtype;
    readonly routerFormat: Dtype;
    readonly positionCount: number;
  },
): DecoderParameters {
  const { vocabCount, hiddenCount, rope } = config;
  const embedding = store.table(
    'model.embed_tokens.weight',
    [vocabCount, hiddenCount],
    options.embeddingDtype,
  );
  const layers = config.layers.map((_, layer) => declareLayer(config, store, layer, options.routerFormat));
  const headName = config.tiedEmbeddings ? 'model.embed_tokens.weight' : 'lm_head.weight';
  return {
    embedding,
    layers,
    finalNorm: store.norm('model.norm.weight', hiddenCount, config.normOffset),
    head: store.matrix([{ name: headName, rowCount: vocabCount }], hiddenCount),
    rope: store.constant([options.positionCount, rope.rotaryCount], () =>
      ropeTable(rope, options.positionCount),
    ),
  };
}

function declareLayer(
  config: ModelConfig,
  store: ParameterStore,
  layer: number,
  routerFormat: Dtype,
): LayerParameters {
  const prefix = `model.layers.${layer}`;
  const norm = (name: string) =>
    store.norm(`${prefix}.${name}.weight`, config.hiddenCount, config.normOffset);
  // Llama calls the norm before feed-forward "post_attention_layernorm"; Gemma 2 has a real one of that name.
  const { sandwichNorms } = config;
  const { window = 0, feedForward = 'dense' } = config.layers[layer] ?? {};
  return {
    window,
    attentionNorm: norm('input_layernorm'),
    attention: declareAttention(config, store, `${prefix}.self_attn`),
    attentionOutputNorm: sandwichNorms ? norm('post_attention_layernorm') : null,
    feedForwardNorm: norm(sandwichNorms ? 'pre_feedforward_layernorm' : 'post_attention_layernorm'),
    feedForward:
      feedForward === 'moe'
        ? declareMoe(config, store, `${prefix}.mlp`, routerFormat)
        : declareDense(config, store, `${prefix}.mlp`),
    feedForwardOutputNorm: sandwichNorms ? norm('post_feedforward_layernorm') : null,
  };
}

function declareAttention(config: ModelConfig, store: ParameterStore, prefix: string): AttentionParameters {
  const { headDim, attention, hiddenCount } = config;
  const queryCount = config.headCount * headDim;
  const keyCount = config.kvHeadCount * headDim;
  const parts =
    config.projections === 'fused'
      ? [{ name: `${prefix}.qkv_proj`, rowCount: queryCount + 2 * keyCount }]
      : [
          { name: `${prefix}.q_proj`, rowCount: queryCount },
          { name: `${prefix}.k_proj`, rowCount: keyCount },
          { name: `${prefix}.v_proj`, rowCount: keyCount },
        ];
  const headNorm = (name: string) =>
    attention.queryKeyNorm ? store.norm(`${prefix}.${name}.weight`, headDim, 0) : null;
  return {
    queryKeyValue: declareLinear(store, parts, hiddenCount, attention.queryKeyValueBias ? 'bias' : 'no bias'),
    output: declareLinear(
      store,
      [{ name: `${prefix}.o_proj`, rowCount: hiddenCount }],
      queryCount,
      attention.outputBias ? 'bias' : 'no bias',
    ),
    queryNorm: headNorm('q_norm'),
    keyNorm: headNorm('k_norm'),
  };
}

function declareDense(config: ModelConfig, store: ParameterStore, prefix: string): DenseParameters {
  const { interCount, hiddenCount } = config;
  const gateUp =
    config.projections === 'fused'
      ? [{ name: `${prefix}.gate_up_proj`, rowCount: 2 * interCount }]
      : [
          { name: `${prefix}.gate_proj`, rowCount: interCount },
          { name: `${prefix}.up_proj`, rowCount: interCount },
        ];
  const bias = config.feedForwardBias ? 'bias' : 'no bias';
  return {
    kind: 'dense',
    gateUp: declareLinear(store, gateUp, hiddenCount, bias),
    down: declareLinear(store, [{ name: `${prefix}.down_proj`, rowCount: hiddenCount }], interCount, bias),
  };
}

function declareMoe(
  config: ModelConfig,
  store: ParameterStore,
  prefix: string,
  routerFormat: Dtype,
): MoeParameters {
  const { expertCount = 0, interCount = 0 } = config.moe ?? {};
  const { hiddenCount } = config;
  const experts = (projections: readonly string[], rowCount: number) =>
    Array.from({ length: expertCount }, (_, expert) =>
      projections.map((name) => ({ name: `${prefix}.experts.${expert}.${name}.weight`, rowCount })),
    );
  return {
    kind: 'moe',
    router: store.matrix(
      [{ name: `${prefix}.gate.weight`, rowCount: expertCount }],
      hiddenCount,
      routerFormat,
    ),
    gateUp: store.matrixStack(experts(['gate_proj', 'up_proj'], interCount), hiddenCount),
    down: store.matrixStack(experts(['down_proj'], hiddenCount), interCount),
  };
}

/** `parts` name modules: their `.weight` and, where there is one, `.bias`. */
function declareLinear(
  store: ParameterStore,
  parts: readonly MatrixPart[],
  k: number,
  bias: 'bias' | 'no bias',
): Linear {
  const named = (suffix: string) => parts.map((part) => ({ ...part, name: `${part.name}.${suffix}` }));
  return {
    weight: store.matrix(named('weight'), k),
    bias: bias === 'bias' ? store.bias(named('bias')) : null,
  };
}
