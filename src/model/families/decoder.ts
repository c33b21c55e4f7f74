/** The forward pass of a decoder-only transformer, op by op: llama, mistral, qwen2, qwen3, qwen3_moe, phi3
 *  and gemma2 are one shape with different switches (see ModelConfig). Made by load.ts, run by
 *  engine/model-runner.
 *
 *    residual = embedding
 *    per layer:  residual += [norm] attention(norm(residual))
 *                residual += [norm] feedForward(norm(residual))      [norm]: gemma2 only
 *    logits = head(norm(residual))
 *
 *  The invariant: a row's result depends on that row and on its sequence's cached keys and values alone,
 *  never on what else is in the batch or how the prompt was cut into chunks (native/pd.h keeps it within each
 *  op). */
import type { Ops, Stream } from '../../device/device.js';
import type { Tensor } from '../../device/tensor.js';
import type { WeightFormat } from '../../device/weight-format.js';
import type { KvCache } from '../../kv/kv-cache.js';
import type { Batch, OnLayer } from '../batch.js';
import type { ModelConfig } from '../config.js';
import type { Model } from '../model.js';
import type { Activations, ExpertActivations } from './activations.js';
import type {
  DecoderParameters,
  DenseParameters,
  LayerParameters,
  Linear,
  MoeParameters,
} from './parameters.js';

/** The rows a part of the pass works on: all of them, or after the last attention only those whose logits are
 *  wanted. */
interface Rows {
  readonly count: number;
  readonly residual: Tensor;
  readonly attended: Tensor;
}

export class Decoder implements Model {
  readonly config: ModelConfig;
  readonly weightBytes: number;
  readonly activationBytes: number;
  readonly weightFormat: WeightFormat;
  readonly logits: Tensor;
  /** [rowCountMax, hidden]; in `onLayer(i)` of a forward pass it holds the residual stream as layer i reads
   *  it. For tests. */
  readonly residual: Tensor;
  readonly #parameters: DecoderParameters;
  readonly #activations: Activations;
  readonly #embeddingScale: number;
  readonly #release: () => void;

  constructor(parts: {
    readonly config: ModelConfig;
    readonly parameters: DecoderParameters;
    readonly activations: Activations;
    readonly weightBytes: number;
    readonly activationBytes: number;
    readonly weightFormat: WeightFormat;
    readonly embeddingScale: number;
    readonly release: () => void;
  }) {
    this.config = parts.config;
    this.weightBytes = parts.weightBytes;
    this.activationBytes = parts.activationBytes;
    this.weightFormat = parts.weightFormat;
    this.logits = parts.activations.logits;
    this.residual = parts.activations.residual;
    this.#parameters = parts.parameters;
    this.#activations = parts.activations;
    this.#embeddingScale = parts.embeddingScale;
    this.#release = parts.release;
  }

  forward(stream: Stream, batch: Batch, cache: KvCache, onLayer?: OnLayer): void {
    const { ops } = stream;
    const { embedding, layers, finalNorm, head } = this.#parameters;
    const { residual, attended, normed, update, logits } = this.#activations;
    const { normEps, finalSoftcap } = this.config;
    let rows: Rows = { count: batch.view.rowCount, residual, attended };

    ops.embedding(residual, embedding, batch.ids, batch.lastTokens, rows.count, this.#embeddingScale);
    for (const [index, layer] of layers.entries()) {
      if (index === 0) ops.rmsnorm(normed, residual, layer.attentionNorm, rows.count, normEps);

      this.#attend(ops, index, layer, batch, cache, () => onLayer?.(index));
      if (index === layers.length - 1) rows = this.#keepLogitRows(ops, batch);
      // a prompt chunk that is not the last: its keys and values are all that was wanted
      if (rows.count === 0) return;

      linear(ops, update, rows.attended, layer.attention.output, rows.count);
      if (layer.attentionOutputNorm !== null)
        ops.rmsnorm(update, update, layer.attentionOutputNorm, rows.count, normEps);
      ops.addRmsnorm(normed, rows.residual, update, layer.feedForwardNorm, rows.count, normEps);

      this.#feedForward(ops, layer, rows.count);
      if (layer.feedForwardOutputNorm !== null)
        ops.rmsnorm(update, update, layer.feedForwardOutputNorm, rows.count, normEps);
      ops.addRmsnorm(
        normed,
        rows.residual,
        update,
        layers[index + 1]?.attentionNorm ?? finalNorm,
        rows.count,
        normEps,
      );
    }
    ops.linear(logits, normed, head, null, rows.count);
    if (finalSoftcap > 0) ops.softcap(logits, rows.count, finalSoftcap);
  }

  close(): void {
    this.#release();
  }

  /** normed → attended; this step's keys and values are in the cache when `onStored` is called. */
  #attend(
    ops: Ops,
    index: number,
    layer: LayerParameters,
    batch: Batch,
    cache: KvCache,
    onStored: () => void,
  ): void {
    const { normed, queryKeyValue, attended } = this.#activations;
    const { headCount, normEps, attention } = this.config;
    const { queryNorm, keyNorm } = layer.attention;
    const view = cache.layers[index];
    if (view === undefined) throw new RangeError(`the cache has no layer ${index}`);
    linear(ops, queryKeyValue, normed, layer.attention.queryKeyValue, batch.view.rowCount);
    ops.ropeStore(queryKeyValue, view, batch.view, {
      headCount,
      queryNorm,
      keyNorm,
      eps: normEps,
      rope: this.#parameters.rope,
    });
    onStored();
    const { scale, softcap } = attention;
    ops.pagedAttention(attended, queryKeyValue, view, batch.view, {
      headCount,
      scale,
      window: layer.window,
      softcap,
    });
  }

  /** No later row depends on the others after the last attention: carry on with the wanted ones alone. */
  #keepLogitRows(ops: Ops, batch: Batch): Rows {
    const { residual, attended, lastResidual, lastAttended } = this.#activations;
    const { logitRows, logitRowCount } = batch;
    if (logitRowCount > 0) {
      ops.gatherRows(lastResidual, residual, logitRows, logitRowCount);
      ops.gatherRows(lastAttended, attended, logitRows, logitRowCount);
    }
    return { count: logitRowCount, residual: lastResidual, attended: lastAttended };
  }

  /** normed → update */
  #feedForward(ops: Ops, layer: LayerParameters, rowCount: number): void {
    const { experts } = this.#activations;
    if (layer.feedForward.kind === 'dense') this.#dense(ops, layer.feedForward, rowCount);
    else if (experts !== null) this.#mixture(ops, layer.feedForward, experts, rowCount);
  }

  #dense(ops: Ops, parameters: DenseParameters, rowCount: number): void {
    const { normed, gateUp, activated, update } = this.#activations;
    linear(ops, gateUp, normed, parameters.gateUp, rowCount);
    ops.actMul(activated, gateUp, rowCount, this.config.activation);
    linear(ops, update, activated, parameters.down, rowCount);
  }

  /** Each token goes through its best experts; their outputs are summed by the router's weights. */
  #mixture(ops: Ops, parameters: MoeParameters, experts: ExpertActivations, rowCount: number): void {
    const { normed, update } = this.#activations;
    const { normalise = 'none', expertsPerToken = 0 } = this.config.moe ?? {};
    const pairCount = rowCount * expertsPerToken;
    ops.linear(experts.routerLogits, normed, parameters.router, null, rowCount);
    ops.moeRoute(experts.ids, experts.weights, experts.routerLogits, rowCount, normalise);
    ops.moeLinear(experts.gateUp, normed, parameters.gateUp, experts.ids, pairCount, expertsPerToken);
    ops.actMul(experts.activated, experts.gateUp, pairCount, this.config.activation);
    ops.moeLinear(experts.outputs, experts.activated, parameters.down, experts.ids, pairCount, 1);
    ops.moeCombine(update, experts.outputs, experts.weights, rowCount);
  }
}

function linear(ops: Ops, out: Tensor, x: Tensor, layer: Linear, rowCount: number): void {
  ops.linear(out, x, layer.weight, layer.bias, rowCount);
}
