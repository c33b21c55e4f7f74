/* What both engines do, and how many bytes it reads. Used by both sides and by the report; keeps the two
 *  sides equal. */
import { elementCount, isNorm, listTensors } from '../../scripts/bench-model/weights.mjs';

export const promptTokenCount = 512;
export const batchCountMax = 8;

/** name, sequences decoded together (0: a prefill) */
export const phases = [
  { name: 'prefill', batchCount: 0 },
  { name: 'decode1', batchCount: 1 },
  { name: 'decode8', batchCount: 8 },
];

/** Ids below Qwen3's special tokens, spread over the vocabulary; another seed shares no prefix. */
export function promptIds(seed) {
  return Array.from({ length: promptTokenCount }, (_, index) => {
    const mixed = Math.imul((seed + 1) * 7919 + index, 2654435761) >>> 0;
    return mixed % 150000;
  });
}

/** Bytes that one decode step of `batchCount` sequences with `keyCount` keys each must read: every matrix
 *  once, every key and value.
 *  @param config Hugging Face's config.json; elementBytes: of a weight; kvElementBytes: of the cache */
export function decodeStepBytes(config, { batchCount, keyCount, elementBytes, kvElementBytes }) {
  const matrixCount = listTensors(config)
    .filter(([name]) => !isNorm(name))
    // the tied embedding is read once, as the output matrix
    .reduce((sum, [, shape]) => sum + elementCount(shape), 0);
  const keyValueCount = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim;
  return matrixCount * elementBytes + batchCount * keyCount * keyValueCount * kvElementBytes;
}

/** Floating-point operations of prefilling the prompt: 2 per weight and token, the output matrix for one
 *  token; attention is causal. */
export function prefillOperations(config) {
  const matrices = listTensors(config).filter(([name]) => !isNorm(name));
  const [, ...layerMatrices] = matrices.map(([, shape]) => elementCount(shape));
  const layerCount = layerMatrices.reduce((sum, count) => sum + count, 0);
  const outputCount = config.vocab_size * config.hidden_size;
  const pairCount = (promptTokenCount * (promptTokenCount + 1)) / 2;
  const attention = 4 * pairCount * config.num_attention_heads * config.head_dim * config.num_hidden_layers;
  return 2 * layerCount * promptTokenCount + 2 * outputCount + attention;
}
