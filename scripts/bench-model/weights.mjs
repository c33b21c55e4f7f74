/* The tensors of a Qwen3-shaped model and their random values, the same in every run and for every file
 *  format.
   Values come from one pool of normals, read from another offset for every tensor: fast, and no two tensors
   are equal. */

const poolCount = 1 << 20;
const standardDeviation = 0.02;

/** [name, shape] of every tensor, in file order. */
export function listTensors(dimensions) {
  const {
    hidden_size: hidden,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: headDim,
  } = dimensions;
  const { intermediate_size: inter, vocab_size: vocab, num_hidden_layers: layerCount } = dimensions;
  const layerTensors = [
    ['input_layernorm.weight', [hidden]],
    ['self_attn.q_proj.weight', [heads * headDim, hidden]],
    ['self_attn.k_proj.weight', [kvHeads * headDim, hidden]],
    ['self_attn.v_proj.weight', [kvHeads * headDim, hidden]],
    ['self_attn.o_proj.weight', [hidden, heads * headDim]],
    ['self_attn.q_norm.weight', [headDim]],
    ['self_attn.k_norm.weight', [headDim]],
    ['post_attention_layernorm.weight', [hidden]],
    ['mlp.gate_proj.weight', [inter, hidden]],
    ['mlp.up_proj.weight', [inter, hidden]],
    ['mlp.down_proj.weight', [hidden, inter]],
  ];
  const layers = Array.from({ length: layerCount }, (_, layer) =>
    layerTensors.map(([name, shape]) => [`model.layers.${layer}.${name}`, shape]),
  );
  const head = dimensions.tie_word_embeddings === false ? [['lm_head.weight', [vocab, hidden]]] : [];
  return [
    ['model.embed_tokens.weight', [vocab, hidden]],
    ...layers.flat(),
    ['model.norm.weight', [hidden]],
    ...head,
  ];
}

export const elementCount = (shape) => shape.reduce((product, extent) => product * extent, 1);
export const isNorm = (name) => name.includes('norm');
export const bytesOf = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength);

/** xorshift32, uniform in [0, 1). */
function createUniform(seed) {
  let state = seed;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

/** Returns (name, count) → Uint16Array of bf16 values. */
export function createWeightSource(tensors) {
  const uniform = createUniform(0x9e3779b9);
  const pool = bf16Of(normals(uniform));
  const offsets = new Map(tensors.map(([name]) => [name, Math.floor(uniform() * poolCount)]));
  return (name, count) => {
    const values = new Uint16Array(count);
    if (isNorm(name)) return values.fill(0x3f80);
    let offset = offsets.get(name);
    for (let at = 0; at < count; ) {
      const take = Math.min(count - at, poolCount - offset);
      values.set(pool.subarray(offset, offset + take), at);
      at += take;
      offset = (offset + 7919) % 4096; // a prime stride: the next turn of the pool starts elsewhere
    }
    return values;
  };
}

/** Box-Muller, two at a time. */
function normals(uniform) {
  const values = new Float32Array(poolCount);
  for (let i = 0; i < poolCount; i += 2) {
    const radius = Math.sqrt(-2 * Math.log(uniform() + 1e-12)) * standardDeviation;
    const angle = 2 * Math.PI * uniform();
    values[i] = radius * Math.cos(angle);
    values[i + 1] = radius * Math.sin(angle);
  }
  return values;
}

/** Round to nearest, ties to even. */
function bf16Of(values) {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const rounded = new Uint16Array(values.length);
  for (let i = 0; i < rounded.length; i++) rounded[i] = (bits[i] + 0x7fff + ((bits[i] >>> 16) & 1)) >>> 16;
  return rounded;
}
