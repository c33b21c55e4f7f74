/** Writes GGUF files: of given keys and tensors, or of a Hugging Face folder as llama.cpp's converter
 *  would. Used by the tests of this folder. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { at } from '../../../src/base/assert.js';
import { readModelConfig } from '../../../src/model/config.js';
import { scaledFrequencies } from '../../../src/model/rope.js';
import { readFloats, readSafetensorsHeader } from '../../../src/model/safetensors.js';
import { toBf16, toF16 } from '../../device/halves.js';

const valueTypes = { u8: 0, u16: 2, u32: 4, i32: 5, f32: 6, bool: 7, string: 8, u64: 10 } as const;
type ValueType = keyof typeof valueTypes;
export type Pair =
  | readonly [key: string, type: ValueType, value: string | number | boolean]
  | readonly [key: string, type: `${ValueType}[]`, values: readonly (string | number)[]];

export interface WrittenTensor {
  readonly name: string;
  /** Rows last, as in the file. */
  readonly dimensions: readonly number[];
  readonly type: number;
  readonly bytes: Uint8Array;
}

export interface GgufParts {
  readonly version?: number;
  readonly alignment?: number;
  readonly pairs: readonly Pair[];
  readonly tensors: readonly WrittenTensor[];
}

export function ggufBytes({ version = 3, alignment = 32, pairs, tensors }: GgufParts): Buffer {
  const aligned = (count: number) => Math.ceil(count / alignment) * alignment;
  const padded = (bytes: Uint8Array) =>
    Buffer.concat([bytes, Buffer.alloc(aligned(bytes.length) - bytes.length)]);
  let offset = 0;
  const infos = tensors.map(({ name, dimensions, type, bytes }) => {
    const info = [
      text(name),
      number('u32', dimensions.length),
      ...dimensions.map((extent) => number('u64', extent)),
    ];
    const whole = Buffer.concat([...info, number('u32', type), number('u64', offset)]);
    offset += aligned(bytes.length);
    return whole;
  });
  const counts = [number('u32', version), number('u64', tensors.length), number('u64', pairs.length)];
  const header = Buffer.concat([Buffer.from('GGUF'), ...counts, ...pairs.map(pairBytes), ...infos]);
  return Buffer.concat([padded(header), ...tensors.map(({ bytes }) => padded(bytes))]);
}

function pairBytes([key, type, value]: Pair): Buffer {
  const [, element = '', isList] = /^(\w+)(\[\])?$/.exec(type) ?? [];
  const one = (item: string | number | boolean) =>
    typeof item === 'string' ? text(item) : number(element as ValueType, Number(item));
  const code = number('u32', valueTypes[element as ValueType]);
  if (isList === undefined) return Buffer.concat([text(key), code, one(value as string)]);
  const items = value as readonly (string | number)[];
  return Buffer.concat([text(key), number('u32', 9), code, number('u64', items.length), ...items.map(one)]);
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([number('u64', bytes.length), bytes]);
}

function number(type: ValueType, value: number): Buffer {
  const bytes = Buffer.alloc({ u8: 1, u16: 2, u32: 4, i32: 4, f32: 4, bool: 1, string: 0, u64: 8 }[type]);
  if (type === 'f32') bytes.writeFloatLE(value);
  else if (type === 'i32') bytes.writeInt32LE(value);
  else if (type === 'u64') bytes.writeBigUInt64LE(BigInt(value));
  else bytes.writeUIntLE(value, 0, bytes.length);
  return bytes;
}

export type MatrixType = 'f32' | 'f16' | 'bf16' | 'q8_0' | 'q4_0';
const typeCodes: Readonly<Record<MatrixType, number>> = { f32: 0, f16: 1, bf16: 30, q8_0: 8, q4_0: 2 };

/** Of values whose rows are multiples of 32. */
export function encoded(values: Float32Array, type: MatrixType): Uint8Array {
  const bytesOf = (array: Float32Array | Uint16Array) =>
    new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  if (type === 'f32') return bytesOf(values);
  if (type === 'f16' || type === 'bf16')
    return bytesOf(Uint16Array.from(values, type === 'f16' ? toF16 : toBf16));
  const blockBytes = type === 'q8_0' ? 34 : 18;
  const bytes = Buffer.alloc((values.length / 32) * blockBytes);
  for (let block = 0; block < values.length / 32; block++) {
    const row = values.subarray(block * 32, block * 32 + 32);
    const largest = row.reduce((most, value) => (Math.abs(value) > Math.abs(most) ? value : most), 0);
    const scale = type === 'q8_0' ? Math.abs(largest) / 127 : largest / -8;
    bytes.writeUInt16LE(toF16(scale), block * blockBytes);
    const inverse = scale === 0 ? 0 : 1 / scale;
    for (let i = 0; i < 32; i++) {
      if (type === 'q8_0') bytes.writeInt8(Math.round(at(row, i) * inverse), block * blockBytes + 2 + i);
      else {
        const q = Math.min(15, Math.floor(at(row, i) * inverse + 8.5));
        const place = block * blockBytes + 2 + (i % 16);
        bytes.writeUInt8(bytes.readUInt8(place) | (i < 16 ? q : q << 4), place);
      }
    }
  }
  return bytes;
}

const renames: readonly (readonly [string, string])[] = [
  ...([
    ['self_attn.q_proj', 'attn_q'],
    ['self_attn.k_proj', 'attn_k'],
    ['self_attn.v_proj', 'attn_v'],
  ] as const),
  ...([
    ['self_attn.qkv_proj', 'attn_qkv'],
    ['self_attn.o_proj', 'attn_output'],
  ] as const),
  ...([
    ['self_attn.q_norm', 'attn_q_norm'],
    ['self_attn.k_norm', 'attn_k_norm'],
  ] as const),
  ...([
    ['mlp.gate_proj', 'ffn_gate'],
    ['mlp.gate_up_proj', 'ffn_up'],
    ['mlp.up_proj', 'ffn_up'],
  ] as const),
  ...([
    ['mlp.down_proj', 'ffn_down'],
    ['mlp.gate', 'ffn_gate_inp'],
  ] as const),
];
const architectures = {
  llama: 'llama',
  mistral: 'llama',
  qwen2: 'qwen2',
  qwen3: 'qwen3',
  qwen3_moe: 'qwen3moe',
  phi3: 'phi3',
  gemma2: 'gemma2',
};

/** The tensors and keys of a folder in float32. `typeOf`: how a matrix is written. */
export function convertedFolder(folder: string, typeOf: (name: string) => MatrixType): GgufParts {
  const config = readModelConfig(folder);
  const architecture = architectures[config.architecture];
  const files = readdirSync(folder).filter((name) => name.endsWith('.safetensors'));
  const entries = files.flatMap((name) => [...readSafetensorsHeader(path.join(folder, name))]);
  const tensors: WrittenTensor[] = [];
  const stacks = new Map<string, Float32Array[]>();
  const write = (name: string, shape: readonly number[], values: Float32Array) => {
    const type = shape.length > 1 ? typeOf(name) : 'f32';
    tensors.push({
      name,
      dimensions: [...shape].reverse(),
      type: typeCodes[type],
      bytes: encoded(values, type),
    });
  };
  for (const [name, entry] of entries) {
    let values: Float32Array = readFloats(entry);
    if (architecture === 'llama' && /[qk]_proj/.test(name))
      values = paired(values, config.headDim, entry.shape[1] ?? 1);
    if (architecture === 'gemma2' && name.includes('norm'))
      values = values.map((value) => Math.fround(value + 1));
    const expert = /^model\.layers\.(\d+)\.mlp\.experts\.(\d+)\.(\w+)_proj\.weight$/.exec(name);
    if (expert === null) write(renamed(name, architecture), entry.shape, values);
    else {
      const stack = `blk.${expert[1]}.ffn_${expert[3]}_exps.weight`;
      const parts = stacks.get(stack) ?? [];
      parts[Number(expert[2])] = values;
      stacks.set(stack, parts);
    }
  }
  for (const [name, parts] of stacks) {
    const k = name.includes('down') ? (config.moe?.interCount ?? 0) : config.hiddenCount;
    const all = Float32Array.from(parts.flatMap((part) => [...part]));
    write(name, [parts.length, at(parts, 0).length / k, k], all);
  }
  if (config.rope.scaling.kind === 'llama3') {
    const scaled = scaledFrequencies(config.rope, config.maxPositionCount);
    const plain = scaledFrequencies(
      { ...config.rope, scaling: { kind: 'default' } },
      config.maxPositionCount,
    );
    write(
      'rope_freqs.weight',
      [scaled.length],
      Float32Array.from(scaled, (frequency, i) => at(plain, i) / frequency),
    );
  }
  return { pairs: configPairs(folder, architecture), tensors };
}

function renamed(name: string, architecture: string): string {
  const global = name
    .replace('model.embed_tokens', 'token_embd')
    .replace('model.norm', 'output_norm')
    .replace('lm_head', 'output')
    .replace(/^model\.layers\.(\d+)\./, 'blk.$1.')
    .replace('input_layernorm', 'attn_norm')
    .replace('pre_feedforward_layernorm', 'ffn_norm')
    .replace('post_feedforward_layernorm', 'post_ffw_norm')
    .replace('post_attention_layernorm', architecture === 'gemma2' ? 'post_attention_norm' : 'ffn_norm');
  const found = renames.find(([from]) => global.includes(`.${from}.`));
  return found === undefined ? global : global.replace(found[0], found[1]);
}

/** Rows (h, half, i) to (h, i, half), as LlamaModel.permute in convert_hf_to_gguf.py. */
function paired(values: Float32Array, headDim: number, k: number): Float32Array {
  const turned = new Float32Array(values.length);
  for (let row = 0; row < values.length / k; row++) {
    const within = row % headDim;
    const target = row - within + (within % (headDim / 2)) * 2 + Math.floor(within / (headDim / 2));
    turned.set(values.subarray(row * k, (row + 1) * k), target * k);
  }
  return turned;
}

function configPairs(folder: string, architecture: string): readonly Pair[] {
  const config = readModelConfig(folder);
  const { rope, moe } = config;
  const u32 = (key: string, value: number): Pair => [`${architecture}.${key}`, 'u32', value];
  const f32 = (key: string, value: number): Pair => [`${architecture}.${key}`, 'f32', value];
  const { scaling } = rope;
  return [
    ['general.architecture', 'string', architecture],
    ['general.name', 'string', path.basename(folder)],
    u32('block_count', config.layerCount),
    u32(
      'context_length',
      scaling.kind === 'yarn' || scaling.kind === 'linear'
        ? scaling.originalPositionCount
        : config.maxPositionCount,
    ),
    u32('embedding_length', config.hiddenCount),
    u32('feed_forward_length', config.interCount),
    u32('attention.head_count', config.headCount),
    u32('attention.head_count_kv', config.kvHeadCount),
    u32('attention.key_length', config.headDim),
    u32('attention.value_length', config.headDim),
    f32('attention.layer_norm_rms_epsilon', config.normEps),
    f32('rope.freq_base', rope.theta),
    u32('rope.dimension_count', rope.rotaryCount),
    u32('vocab_size', config.vocabCount),
    ...(at(config.layers, 0).window > 0
      ? [u32('attention.sliding_window', at(config.layers, 0).window)]
      : []),
    ...(scaling.kind === 'yarn' || scaling.kind === 'linear'
      ? ([
          [`${architecture}.rope.scaling.type`, 'string', scaling.kind],
          f32('rope.scaling.factor', scaling.factor),
        ] as const)
      : []),
    ...(scaling.kind === 'yarn'
      ? [u32('rope.scaling.original_context_length', scaling.originalPositionCount)]
      : []),
    ...(moe === null
      ? []
      : [
          u32('expert_count', moe.expertCount),
          u32('expert_used_count', moe.expertsPerToken),
          u32('expert_feed_forward_length', moe.interCount),
        ]),
    ...(architecture === 'gemma2'
      ? [
          f32('attention.scale', config.attention.scale),
          f32('attn_logit_softcapping', config.attention.softcap),
          f32('final_logit_softcapping', config.finalSoftcap),
        ]
      : []),
    ['tokenizer.ggml.eos_token_id', 'u32', config.endTokenIds[0] ?? 0],
  ];
}

/** The keys of a byte-level tokenizer.json and its chat template. */
export function tokenizerPairs(folder: string, pre: string, vocabCount: number): readonly Pair[] {
  const read = (name: string) => JSON.parse(readFileSync(path.join(folder, name), 'utf8'));
  const tokenizer = read('tokenizer.json');
  const config = read('tokenizer_config.json');
  const tokens = Array.from({ length: vocabCount }, (_, id) => `[PAD${id}]`);
  const types = new Array<number>(vocabCount).fill(5);
  for (const [token, id] of Object.entries(tokenizer.model.vocab as Record<string, number>))
    [tokens[id], types[id]] = [token, 1];
  for (const { id, content, special } of tokenizer.added_tokens)
    [tokens[id], types[id]] = [content, special ? 3 : 4];
  const merges = (tokenizer.model.merges as readonly (string | readonly string[])[]).map((merge) =>
    typeof merge === 'string' ? merge : merge.join(' '),
  );
  return [
    ['tokenizer.ggml.model', 'string', 'gpt2'],
    ['tokenizer.ggml.pre', 'string', pre],
    ['tokenizer.ggml.tokens', 'string[]', tokens],
    ['tokenizer.ggml.token_type', 'i32[]', types],
    ['tokenizer.ggml.merges', 'string[]', merges],
    ['tokenizer.chat_template', 'string', config.chat_template],
  ];
}

export function writeGguf(file: string, parts: GgufParts): string {
  writeFileSync(file, ggufBytes(parts));
  return file;
}
