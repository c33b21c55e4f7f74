/* Writes the tensors of weights.mjs as one GGUF file (version 3) that llama.cpp opens: metadata, vocabulary,
 *  tensor infos, data.
   Matrices are bf16, f16 or q8_0; norms are f32. Format: ggml's docs/gguf.md. */
import fs from 'node:fs';
import { bytesOf, elementCount, isNorm } from './weights.mjs';

/** ggml type, bytes per element, general.file_type. */
export const ggufTypes = {
  bf16: { ggmlType: 30, elementBytes: 2, fileType: 32, encode: bytesOf },
  f16: { ggmlType: 1, elementBytes: 2, fileType: 1, encode: encodeF16 },
  q8_0: { ggmlType: 8, elementBytes: 34 / 32, fileType: 7, encode: encodeQ8 },
};
const f32GgmlType = 0;
const alignment = 32;
const align = (bytes) => Math.ceil(bytes / alignment) * alignment;
const valueTypes = { u32: 4, i32: 5, f32: 6, string: 8, array: 9 };

/** llama.cpp's names for Hugging Face's. */
const renames = [
  ['model.embed_tokens', 'token_embd'],
  ['model.norm', 'output_norm'],
  [/model\.layers\.(\d+)\./, 'blk.$1.'],
  ['input_layernorm', 'attn_norm'],
  ['post_attention_layernorm', 'ffn_norm'],
  ['self_attn.q_proj', 'attn_q'],
  ['self_attn.k_proj', 'attn_k'],
  ['self_attn.v_proj', 'attn_v'],
  ['self_attn.o_proj', 'attn_output'],
  ['self_attn.q_norm', 'attn_q_norm'],
  ['self_attn.k_norm', 'attn_k_norm'],
  ['mlp.gate_proj', 'ffn_gate'],
  ['mlp.up_proj', 'ffn_up'],
  ['mlp.down_proj', 'ffn_down'],
];
const renamed = (name) => renames.reduce((text, [from, to]) => text.replace(from, to), name);

export function writeGguf(file, { type, name, dimensions, tensors, weights, tokenizerFile }) {
  const { ggmlType, elementBytes, fileType, encode } = ggufTypes[type];
  const byteCounts = tensors.map(
    ([tensor, shape]) => elementCount(shape) * (isNorm(tensor) ? 4 : elementBytes),
  );
  const metadata = [
    ...modelMetadata(name, fileType, dimensions),
    ...vocabularyMetadata(tokenizerFile, dimensions.vocab_size),
  ];
  let offset = 0;
  const infos = tensors.map(([tensor, shape], index) => {
    const extents = [...shape].reverse().map(u64);
    const info = [
      string(renamed(tensor)),
      u32(shape.length),
      ...extents,
      u32(isNorm(tensor) ? f32GgmlType : ggmlType),
      u64(offset),
    ];
    offset += align(byteCounts[index]);
    return Buffer.concat(info);
  });
  const header = Buffer.concat([
    Buffer.from('GGUF'),
    u32(3),
    u64(tensors.length),
    u64(metadata.length),
    ...metadata,
    ...infos,
  ]);
  const descriptor = fs.openSync(file, 'w');
  const writePadded = (bytes) => {
    fs.writeSync(descriptor, bytes);
    fs.writeSync(descriptor, Buffer.alloc(align(bytes.length) - bytes.length));
  };
  writePadded(header);
  for (const [tensor, shape] of tensors) {
    const count = elementCount(shape);
    writePadded(isNorm(tensor) ? bytesOf(new Float32Array(count).fill(1)) : encode(weights(tensor, count)));
  }
  fs.closeSync(descriptor);
}

function modelMetadata(name, fileType, dimensions) {
  return [
    pair('general.architecture', 'string', string('qwen3')),
    pair('general.name', 'string', string(name)),
    pair('general.file_type', 'u32', u32(fileType)),
    pair('qwen3.block_count', 'u32', u32(dimensions.num_hidden_layers)),
    pair('qwen3.context_length', 'u32', u32(40960)),
    pair('qwen3.embedding_length', 'u32', u32(dimensions.hidden_size)),
    pair('qwen3.feed_forward_length', 'u32', u32(dimensions.intermediate_size)),
    pair('qwen3.attention.head_count', 'u32', u32(dimensions.num_attention_heads)),
    pair('qwen3.attention.head_count_kv', 'u32', u32(dimensions.num_key_value_heads)),
    pair('qwen3.attention.key_length', 'u32', u32(dimensions.head_dim)),
    pair('qwen3.attention.value_length', 'u32', u32(dimensions.head_dim)),
    pair('qwen3.rope.freq_base', 'f32', f32(1e6)),
    pair('qwen3.attention.layer_norm_rms_epsilon', 'f32', f32(1e-6)),
    pair('qwen3.vocab_size', 'u32', u32(dimensions.vocab_size)),
  ];
}

/** Token types: 1 normal, 3 control, 4 user-defined, 5 unused. */
function vocabularyMetadata(tokenizerFile, vocabCount) {
  const tokenizer = JSON.parse(fs.readFileSync(tokenizerFile, 'utf8'));
  const tokens = Array.from({ length: vocabCount }, (_, id) => `<unused${id}>`);
  const types = new Int32Array(vocabCount).fill(5);
  const set = (id, text, type) => {
    if (id >= vocabCount) return;
    tokens[id] = text;
    types[id] = type;
  };
  for (const [text, id] of Object.entries(tokenizer.model.vocab)) set(id, text, 1);
  for (const { id, content, special } of tokenizer.added_tokens ?? []) set(id, content, special ? 3 : 4);
  const merges = tokenizer.model.merges.map((merge) => (Array.isArray(merge) ? merge.join(' ') : merge));
  return [
    pair('tokenizer.ggml.model', 'string', string('gpt2')),
    pair('tokenizer.ggml.pre', 'string', string('qwen2')),
    pair('tokenizer.ggml.tokens', 'array', array('string', vocabCount, tokens.map(string))),
    pair('tokenizer.ggml.token_type', 'array', array('i32', vocabCount, [bytesOf(types)])),
    pair('tokenizer.ggml.merges', 'array', array('string', merges.length, merges.map(string))),
    pair('tokenizer.ggml.eos_token_id', 'u32', u32(Math.min(151645, vocabCount - 1))),
    pair('tokenizer.ggml.bos_token_id', 'u32', u32(Math.min(151643, vocabCount - 2))),
  ];
}

// ---- encodings of matrices, from bf16

function encodeF16(values) {
  const floats = floatsOf(values);
  const halves = new Uint16Array(values.length);
  // TypedArray.from with a function is 10 times slower
  for (let i = 0; i < halves.length; i++) halves[i] = halfOf(floats[i]);
  return bytesOf(halves);
}

/** Blocks of 32: an f16 scale, then 32 signed bytes. */
function encodeQ8(values) {
  const floats = floatsOf(values);
  const bytes = Buffer.alloc((values.length / 32) * 34);
  for (let block = 0; block < values.length / 32; block++) {
    let largest = 0;
    for (let i = 0; i < 32; i++) largest = Math.max(largest, Math.abs(floats[block * 32 + i]));
    const scale = largest / 127;
    bytes.writeUInt16LE(halfOf(scale), block * 34);
    for (let i = 0; i < 32; i++) {
      const rounded = scale === 0 ? 0 : Math.round(floats[block * 32 + i] / scale);
      bytes.writeInt8(Math.max(-127, Math.min(127, rounded)), block * 34 + 2 + i);
    }
  }
  return bytes;
}

function floatsOf(bf16Values) {
  const words = new Uint32Array(bf16Values.length);
  for (let i = 0; i < words.length; i++) words[i] = bf16Values[i] << 16;
  return new Float32Array(words.buffer);
}

const word = new Uint32Array(1);
const wordAsFloat = new Float32Array(word.buffer);

/** f32 → f16, truncating; values here are far from overflow. */
function halfOf(value) {
  wordAsFloat[0] = value;
  const sign = (word[0] >>> 16) & 0x8000;
  const exponent = ((word[0] >>> 23) & 255) - 112;
  const mantissa = word[0] & 0x7fffff;
  if (exponent > 0) return sign | (exponent << 10) | (mantissa >>> 13);
  return exponent < -10 ? sign : sign | ((mantissa | 0x800000) >>> (14 - exponent));
}

// ---- primitives of the format

function u32(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}
function u64(value) {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}
function f32(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return bytes;
}
function string(text) {
  const bytes = Buffer.from(text);
  return Buffer.concat([u64(bytes.length), bytes]);
}
function array(elementType, count, elements) {
  return Buffer.concat([u32(valueTypes[elementType]), u64(count), ...elements]);
}
function pair(key, valueType, value) {
  return Buffer.concat([string(key), u32(valueTypes[valueType]), value]);
}
