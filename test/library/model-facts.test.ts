/** What a model needs and how fast memory lets it be, against figures reckoned by hand. */
import path from 'node:path';
import { expect, it } from 'vitest';
import { type DeviceFacts, modelFacts } from '../../src/library/model-facts.js';
import { readModelConfig } from '../../src/model/config.js';

const root = path.resolve(import.meta.dirname, '../..');
const qwen3 = readModelConfig(path.join(root, 'models/shape-qwen3-8b'));
const mixture = readModelConfig(path.join(root, 'test/fixtures/qwen3-moe'));
const gpu: DeviceFacts = {
  device: 'cuda:0',
  kind: 'cuda',
  name: 'H200',
  totalBytes: 140 * 2 ** 30,
  freeBytes: 139 * 2 ** 30,
  readBytesPerSecond: 4e12,
};

it('reckons a dense model', () => {
  const { parameterCount, kvBytesPerToken, weightBytes, devices } = modelFacts(qwen3, null, [gpu], 0.9);
  expect(kvBytesPerToken).toBe(36 * 2 * 8 * 128 * 2); // layers, K and V, heads, head dim, bytes
  expect(weightBytes).toBe(2 * parameterCount);
  const { kvTokenCount = 0, contexts = [], speeds = [] } = devices[0]?.fit ?? {};
  const kvBytes = (0.9 * 140 - 1 - 2) * 2 ** 30 - weightBytes;
  expect(kvTokenCount).toBe(16 * Math.floor(kvBytes / (16 * kvBytesPerToken)));
  expect(contexts).toContainEqual({ tokenCount: 8192, sequenceCount: Math.floor(kvTokenCount / 8192) });
  expect(contexts.at(-1)?.tokenCount).toBe(40_960);
  const readBytes = weightBytes - 2 * qwen3.vocabCount * qwen3.hiddenCount + 1024 * kvBytesPerToken;
  expect(speeds[0]?.tokensPerSecond).toBeCloseTo(4e12 / readBytes, 3);
});

it('reads of a mixture the experts that are chosen', () => {
  const { parameterCount, readParameterCount } = modelFacts(mixture, null, [], 0.9);
  const { expertCount, expertsPerToken, interCount } = mixture.moe!;
  const mixtureLayers = mixture.layers.filter(({ feedForward }) => feedForward === 'moe').length;
  const unreadExperts =
    mixtureLayers * (expertCount - expertsPerToken) * 3 * mixture.hiddenCount * interCount;
  const table = mixture.tiedEmbeddings ? 0 : mixture.vocabCount * mixture.hiddenCount;
  expect(parameterCount - readParameterCount).toBeCloseTo(unreadExperts + table, 3);
});

it('says when the weights do not fit', () => {
  expect(modelFacts(qwen3, 200 * 2 ** 30, [gpu], 0.9).devices[0]?.fit).toBeNull();
  const cpu: DeviceFacts = { ...gpu, device: 'cpu', kind: 'cpu', freeBytes: 8 * 2 ** 30 };
  expect(modelFacts(qwen3, null, [cpu], 0.9).devices[0]?.fit).toBeNull();
});
