/** The forward pass as plain loops in float64, without cache, batch or packed weights: what the paper says
 *  and nothing else. Checked against the goldens itself, it then judges shapes that no golden covers. Also
 *  makes random checkpoints for them. */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { at } from '../../src/base/assert.js';
import { Prng } from '../../src/base/prng.js';
import { elementCount } from '../../src/device/tensor.js';
import type { ModelConfig } from '../../src/model/config.js';
import { ropeTable } from '../../src/model/rope.js';
import { readFloats, readSafetensorsHeader } from '../../src/model/safetensors.js';

export type Vector = Float64Array;
/** A tensor's values by checkpoint name, row-major. */
export type Tensors = (name: string) => Vector;

export function readTensors(file: string): Tensors {
  const entries = readSafetensorsHeader(file);
  const known = new Map<string, Vector>();
  return (name) => {
    const values = known.get(name) ?? Float64Array.from(readFloats(entries.get(name)!));
    known.set(name, values);
    return values;
  };
}

/** Logits after each token: [token][vocab]. */
export function referenceLogits(config: ModelConfig, tensors: Tensors, ids: readonly number[]): Vector[] {
  const { hiddenCount, normOffset } = config;
  const norm = (x: Vector, name: string) => rmsNorm(x, tensors(name), config.normEps, normOffset);
  let stream = ids.map((id) =>
    tensors('model.embed_tokens.weight')
      .slice(id * hiddenCount, (id + 1) * hiddenCount)
      .map((v) => v * config.embeddingScale),
  );
  for (const layer of config.layers.keys()) {
    const prefix = `model.layers.${layer}`;
    const sandwich = (update: Vector, name: string) =>
      config.sandwichNorms ? norm(update, `${prefix}.${name}.weight`) : update;
    const attended = attention(
      config,
      tensors,
      layer,
      stream.map((x) => norm(x, `${prefix}.input_layernorm.weight`)),
    );
    stream = stream.map((x, t) => add(x, sandwich(at(attended, t), 'post_attention_layernorm')));
    const second = config.sandwichNorms ? 'pre_feedforward_layernorm' : 'post_attention_layernorm';
    stream = stream.map((x) => {
      const update = feedForward(config, tensors, layer, norm(x, `${prefix}.${second}.weight`));
      return add(x, sandwich(update, 'post_feedforward_layernorm'));
    });
  }
  const head = tensors(config.tiedEmbeddings ? 'model.embed_tokens.weight' : 'lm_head.weight');
  const cap = config.finalSoftcap;
  return stream.map((x) =>
    multiply(head, norm(x, 'model.norm.weight')).map((v) => (cap > 0 ? cap * Math.tanh(v / cap) : v)),
  );
}

function attention(
  config: ModelConfig,
  tensors: Tensors,
  layer: number,
  inputs: readonly Vector[],
): Vector[] {
  const { headCount, kvHeadCount, headDim } = config;
  const { scale, softcap } = config.attention;
  const { window } = at(config.layers, layer);
  const prefix = `model.layers.${layer}.self_attn`;
  const table = ropeTable(config.rope, inputs.length);
  const split = inputs.map((x, position) => {
    const all =
      config.projections === 'fused'
        ? multiply(tensors(`${prefix}.qkv_proj.weight`), x)
        : joined(
            ['q', 'k', 'v'].map((name) =>
              project(tensors, `${prefix}.${name}_proj`, x, config.attention.queryKeyValueBias),
            ),
          );
    const head = (index: number) => all.slice(index * headDim, (index + 1) * headDim);
    const turned = (index: number, name: string) => {
      const x = config.attention.queryKeyNorm
        ? rmsNorm(head(index), tensors(`${prefix}.${name}_norm.weight`), config.normEps, 0)
        : head(index);
      return rotate(
        x,
        table.subarray(position * config.rope.rotaryCount, (position + 1) * config.rope.rotaryCount),
      );
    };
    return {
      queries: Array.from({ length: headCount }, (_, h) => turned(h, 'q')),
      keys: Array.from({ length: kvHeadCount }, (_, h) => turned(headCount + h, 'k')),
      values: Array.from({ length: kvHeadCount }, (_, h) => head(headCount + kvHeadCount + h)),
    };
  });
  return split.map(({ queries }, position) => {
    const heads = queries.map((query, h) => {
      const kvHead = Math.floor(h / (headCount / kvHeadCount));
      const first = window > 0 ? Math.max(0, position - window + 1) : 0;
      const seen = split.slice(first, position + 1);
      const scores = seen.map(({ keys }) => {
        const score = dot(query, at(keys, kvHead)) * scale;
        return softcap > 0 ? softcap * Math.tanh(score / softcap) : score;
      });
      const weights = softmax(scores);
      return Float64Array.from({ length: headDim }, (_, i) =>
        seen.reduce((sum, { values }, t) => sum + at(weights, t) * at(at(values, kvHead), i), 0),
      );
    });
    return project(tensors, `${prefix}.o_proj`, joined(heads), config.attention.outputBias);
  });
}

function feedForward(config: ModelConfig, tensors: Tensors, layer: number, x: Vector): Vector {
  const prefix = `model.layers.${layer}.mlp`;
  const { moe } = config;
  if (at(config.layers, layer).feedForward === 'dense' || moe === null)
    return dense(config, tensors, prefix, x);
  const shares = softmax([...multiply(tensors(`${prefix}.gate.weight`), x)]);
  const chosen = [...shares.keys()]
    .sort((a, b) => at(shares, b) - at(shares, a) || a - b)
    .slice(0, moe.expertsPerToken);
  const total = moe.normalise === 'topk' ? chosen.reduce((sum, expert) => sum + at(shares, expert), 0) : 1;
  return chosen
    .map((expert) =>
      dense(config, tensors, `${prefix}.experts.${expert}`, x).map((v) => (v * at(shares, expert)) / total),
    )
    .reduce(add);
}

function dense(config: ModelConfig, tensors: Tensors, prefix: string, x: Vector): Vector {
  const bias = config.feedForwardBias;
  const both =
    config.projections === 'fused'
      ? multiply(tensors(`${prefix}.gate_up_proj.weight`), x)
      : joined(['gate', 'up'].map((name) => project(tensors, `${prefix}.${name}_proj`, x, bias)));
  const half = both.length / 2;
  const activated = both.slice(0, half).map((v, i) => activation(config.activation, v) * at(both, half + i));
  return project(tensors, `${prefix}.down_proj`, activated, bias);
}

function activation(kind: ModelConfig['activation'], v: number): number {
  if (kind === 'silu') return v / (1 + Math.exp(-v));
  return 0.5 * v * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3)));
}

function project(tensors: Tensors, name: string, x: Vector, hasBias: boolean): Vector {
  const product = multiply(tensors(`${name}.weight`), x);
  return hasBias ? add(product, tensors(`${name}.bias`)) : product;
}

function rmsNorm(x: Vector, weight: Vector, eps: number, offset: number): Vector {
  const scale = 1 / Math.sqrt(dot(x, x) / x.length + eps);
  return x.map((v, i) => v * scale * (at(weight, i) + offset));
}

/** Pairs (i, i + rotary / 2); dimensions past rotary stay. row: cosines, then sines. */
function rotate(x: Vector, row: Float32Array): Vector {
  const half = row.length / 2;
  return x.map((v, i) => {
    if (i >= row.length) return v;
    const [cosine, sine] = [at(row, i % half), at(row, half + (i % half))];
    return i < half ? v * cosine - at(x, i + half) * sine : v * cosine + at(x, i - half) * sine;
  });
}

function softmax(scores: readonly number[]): number[] {
  const largest = Math.max(...scores);
  const parts = scores.map((score) => Math.exp(score - largest));
  const sum = parts.reduce((a, b) => a + b, 0);
  return parts.map((part) => part / sum);
}

function multiply(matrix: Vector, x: Vector): Vector {
  return Float64Array.from({ length: matrix.length / x.length }, (_, row) =>
    dot(matrix.subarray(row * x.length, (row + 1) * x.length), x),
  );
}

function dot(a: Vector, b: Vector): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}

const add = (a: Vector, b: Vector) => a.map((v, i) => v + at(b, i));
const joined = (parts: readonly Vector[]) => Float64Array.from(parts.flatMap((part) => [...part]));

/** Writes model.safetensors with random values for every tensor `config` needs. Norms are near 1 (or 0 where
 *  offset). */
export function writeRandomCheckpoint(
  folder: string,
  config: ModelConfig,
  dtype: 'F32' | 'F16' | 'BF16',
  seed: number,
): void {
  const prng = new Prng(seed);
  const bytesPer = dtype === 'F32' ? 4 : 2;
  let end = 0;
  const header: Record<string, unknown> = {};
  const chunks = tensorShapes(config).map(([name, shape]) => {
    const isNorm = name.includes('norm');
    const values = Float32Array.from(
      { length: elementCount(shape) },
      () => prng.normal() * 0.15 + (isNorm ? 1 - config.normOffset : 0),
    );
    const bytes =
      dtype === 'F32'
        ? new Uint8Array(values.buffer)
        : new Uint8Array(Uint16Array.from(values, dtype === 'F16' ? toF16 : toBf16).buffer);
    header[name] = { dtype, shape, data_offsets: [end, end + values.length * bytesPer] };
    end += values.length * bytesPer;
    return bytes;
  });
  const text = Buffer.from(JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path.join(folder, 'model.safetensors'), Buffer.concat([prefix, text, ...chunks]));
}

/** Truncation is rounding enough: the reference reads the same file. */
function toBf16(value: number): number {
  return new Uint32Array(Float32Array.of(value).buffer)[0]! >>> 16;
}

/** Normal numbers only; smaller ones become zero. */
function toF16(value: number): number {
  const magnitude = Math.abs(value);
  if (magnitude < 2 ** -14) return 0;
  const exponent = Math.floor(Math.log2(magnitude));
  return (
    (value < 0 ? 0x8000 : 0) | ((exponent + 15) << 10) | Math.floor((magnitude / 2 ** exponent - 1) * 1024)
  );
}

function tensorShapes(config: ModelConfig): [string, number[]][] {
  const { vocabCount, hiddenCount, headDim, kvHeadCount } = config;
  const queryCount = config.headCount * headDim;
  const linear = (name: string, rows: number, columns: number, hasBias: boolean): [string, number[]][] => [
    [`${name}.weight`, [rows, columns]],
    ...(hasBias ? ([[`${name}.bias`, [rows]]] as [string, number[]][]) : []),
  ];
  const mlp = (prefix: string, inter: number) => [
    ...linear(`${prefix}.gate_proj`, inter, hiddenCount, config.feedForwardBias),
    ...linear(`${prefix}.up_proj`, inter, hiddenCount, config.feedForwardBias),
    ...linear(`${prefix}.down_proj`, hiddenCount, inter, config.feedForwardBias),
  ];
  const layers = config.layers.flatMap(({ feedForward }, layer) => {
    const prefix = `model.layers.${layer}`;
    const { moe } = config;
    const bias = config.attention.queryKeyValueBias;
    return [
      ...['input_layernorm', 'post_attention_layernorm'].flatMap((name) =>
        linear(`${prefix}.${name}`, hiddenCount, 1, false),
      ),
      ...linear(`${prefix}.self_attn.q_proj`, queryCount, hiddenCount, bias),
      ...linear(`${prefix}.self_attn.k_proj`, kvHeadCount * headDim, hiddenCount, bias),
      ...linear(`${prefix}.self_attn.v_proj`, kvHeadCount * headDim, hiddenCount, bias),
      ...linear(`${prefix}.self_attn.o_proj`, hiddenCount, queryCount, config.attention.outputBias),
      ...(config.attention.queryKeyNorm
        ? ['q', 'k'].flatMap((name) => linear(`${prefix}.self_attn.${name}_norm`, headDim, 1, false))
        : []),
      ...(feedForward === 'dense' || moe === null
        ? mlp(`${prefix}.mlp`, config.interCount)
        : [
            ...linear(`${prefix}.mlp.gate`, moe.expertCount, hiddenCount, false),
            ...Array.from({ length: moe.expertCount }, (_, expert) =>
              mlp(`${prefix}.mlp.experts.${expert}`, moe.interCount),
            ).flat(),
          ]),
    ];
  });
  const head = config.tiedEmbeddings ? [] : linear('lm_head', vocabCount, hiddenCount, false);
  const all = [
    ...linear('model.embed_tokens', vocabCount, hiddenCount, false),
    ...layers,
    ...linear('model.norm', hiddenCount, 1, false),
    ...head,
  ];
  return all.map(([name, shape]) => [name, name.includes('norm') ? shape.slice(0, 1) : shape]);
}
