/** Runs a model by hand, without an engine: packs one batch, forwards it, reads the logits. Sequences get
 *  their KV blocks from a shuffled list, so that a kernel which ignores the block table is caught. Used by
 *  the tests of this folder. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { assert, at } from '../../src/base/assert.js';
import type { TokenId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import type { Device, HostBuffer, Stream } from '../../src/device/device.js';
import type { Dtype } from '../../src/device/dtype.js';
import { openDevice } from '../../src/device/native.js';
import { offsetPointer, type Pointer } from '../../src/device/tensor.js';
import { KvCache } from '../../src/kv/kv-cache.js';
import { KvLayout } from '../../src/kv/kv-layout.js';
import type { OnLayer } from '../../src/model/batch.js';
import { readModelConfig, readModelConfigFile } from '../../src/model/config.js';
import type { Decoder } from '../../src/model/families/decoder.js';
import { loadConfiguredModel } from '../../src/model/load.js';
import type { LoadOptions } from '../../src/model/model.js';

export const packageFolder = path.resolve(import.meta.dirname, '../..');
export const demoFolder = path.join(packageFolder, 'models', 'demo-6m');
export const fixtureFolder = (name: string) => path.join(packageFolder, 'test', 'fixtures', name);
export const fixtureNames = [
  'llama',
  'llama3-rope',
  'qwen2',
  'qwen3',
  'mistral-swa',
  'qwen3-moe',
  'gemma2',
  'phi3',
] as const;
/** Checkpoints that are quantised already. */
export const quantisedFixtureNames = [
  ...[
    'llama-gptq-g128',
    'llama-gptq-actorder-g64',
    'qwen3-gptq-asym-actorder-g32',
    'llama-awq-g128',
    'qwen3-awq-g64',
  ],
  ...[
    'llama-ct-w4a16-g128',
    'qwen3-ct-w4a16-g32',
    'qwen3-ct-fp8-dynamic',
    'qwen3-fp8-block',
    'llama-fp8-block',
  ],
];
/** Contexts past the length before scaling. */
export const ropeFixtureNames = ['qwen3-yarn', 'llama-linear'] as const;

export interface GoldenCase {
  readonly name: string;
  readonly prompt_ids: readonly TokenId[];
  readonly continuation_ids: readonly TokenId[];
  readonly prompt_logprob: number;
  readonly continuation_logprobs: readonly number[];
  readonly top5: readonly { readonly ids: readonly TokenId[]; readonly logprobs: readonly number[] }[];
  readonly gaps: readonly number[];
}

export interface Golden {
  readonly cases: readonly GoldenCase[];
  readonly debug: {
    readonly prompt_ids: readonly TokenId[];
    readonly hidden_states: readonly {
      readonly index: number;
      readonly first8: readonly number[];
      readonly rms: number;
    }[];
    readonly logits_first16: readonly number[];
  };
}

export function readGolden(folder: string): Golden {
  return JSON.parse(readFileSync(path.join(folder, 'golden.json'), 'utf8')) as Golden;
}

export interface HarnessOptions {
  readonly folder: string;
  readonly configName?: string;
  readonly dtype?: LoadOptions['dtype'];
  readonly quantize?: LoadOptions['quantize'];
  readonly kvDtype?: Dtype;
  readonly maxTokenCount?: number;
  readonly threadCount?: number;
  readonly isa?: 'auto' | 'scalar' | 'avx2' | 'avx512';
  readonly blockTokenCount?: number;
  readonly loadFormat?: LoadOptions['loadFormat'];
  /** Opened by the caller; closed with the harness. */
  readonly device?: Device;
}

/** Rows of one forward pass at most; longer chunks are refused. */
export const rowCountMax = 512;

export interface HarnessSequence {
  readonly blockTable: readonly number[];
  cachedTokenCount: number;
}

/** One piece of a step: tokens that follow what the sequence has cached, and whose logits are wanted. */
export interface StepPiece {
  readonly sequence: HarnessSequence;
  readonly ids: readonly TokenId[];
  readonly logits: 'all' | 'last' | 'none';
}

export class Harness {
  readonly device: Device;
  readonly model: Decoder;
  readonly stream: Stream;
  readonly cache: KvCache;
  readonly #inputs: HostBuffer;
  readonly #logits: HostBuffer;
  #freeBlocks: number[];
  #inputOffset = 0;

  private constructor(device: Device, model: Decoder, cache: KvCache) {
    this.device = device;
    this.model = model;
    this.cache = cache;
    this.stream = device.createStream();
    this.#inputs = device.allocateHost(1 << 20);
    this.#logits = device.allocateHost(rowCountMax * model.config.vocabCount * 4);
    this.#freeBlocks = shuffledBlocks(cache.blockCount);
  }

  static async open(options: HarnessOptions): Promise<Harness> {
    const { folder, kvDtype = 'f32', maxTokenCount = 1024, blockTokenCount = 16 } = options;
    const { threadCount = 2, isa = 'auto' } = options;
    const device = options.device ?? openDevice({ kind: 'cpu', index: 0, threadCount, isa });
    const { configName } = options;
    const config =
      configName === undefined ? readModelConfig(folder) : readModelConfigFile(path.join(folder, configName));
    const model = await loadConfiguredModel(folder, config, {
      device,
      loadFormat: options.loadFormat ?? 'auto',
      dtype: options.dtype ?? 'f32',
      quantize: options.quantize ?? 'none',
      limits: { rowCountMax, logitRowCountMax: rowCountMax },
      maxModelTokenCount: maxTokenCount,
    });
    const { layerCount, kvHeadCount, headDim } = config;
    const layout = new KvLayout({
      modelName: folder,
      layerCount,
      kvHeadCount,
      headDim,
      blockTokenCount,
      dtype: kvDtype,
    });
    return new Harness(device, model, new KvCache(device, layout, layout.blockCountFor(maxTokenCount) + 3));
  }

  /** A sequence with room for `tokenCount` tokens; all blocks of earlier sequences are given up. */
  start(tokenCount: number): HarnessSequence {
    this.#freeBlocks = shuffledBlocks(this.cache.blockCount);
    return this.startBeside(tokenCount);
  }

  /** As start, but earlier sequences keep their blocks. */
  startBeside(tokenCount: number): HarnessSequence {
    const count = this.cache.layout.blockCountFor(tokenCount);
    assert(count <= this.#freeBlocks.length, `${count} blocks wanted, ${this.#freeBlocks.length} free`);
    return { blockTable: this.#freeBlocks.splice(0, count), cachedTokenCount: 0 };
  }

  /** One forward pass; the wanted rows of logits, in order: [row][vocab]. Valid until the next step. */
  async step(pieces: readonly StepPiece[], onLayer?: OnLayer): Promise<Float32Array[]> {
    const { vocabCount } = this.model.config;
    const batch = this.#pack(pieces);
    this.model.forward(this.stream, batch, this.cache, onLayer);
    this.stream.copy(this.#logits.pointer, this.model.logits.pointer, batch.logitRowCount * vocabCount * 4);
    await this.stream.wait();
    for (const { sequence, ids } of pieces) sequence.cachedTokenCount += ids.length;
    const { bytes } = this.#logits;
    return Array.from({ length: batch.logitRowCount }, (_, row) => {
      return new Float32Array(bytes.buffer, bytes.byteOffset + row * vocabCount * 4, vocabCount);
    });
  }

  /** Feeds a whole prompt in chunks; the logits of every row (copied), or of the last. */
  async prefill(
    sequence: HarnessSequence,
    ids: readonly TokenId[],
    chunk: number,
    wanted: 'all' | 'last',
  ): Promise<Float32Array[]> {
    const rows: Float32Array[] = [];
    for (let first = 0; first < ids.length; first += chunk) {
      const isLast = first + chunk >= ids.length;
      const logits = wanted === 'all' ? 'all' : isLast ? 'last' : 'none';
      const found = await this.step([{ sequence, ids: ids.slice(first, first + chunk), logits }]);
      rows.push(...found.map((row) => row.slice()));
    }
    return rows;
  }

  async close(): Promise<void> {
    await this.stream.wait();
    this.stream.close();
    this.device.releaseHost(this.#inputs);
    this.device.releaseHost(this.#logits);
    this.cache.close();
    this.model.close();
    this.device.close();
  }

  #pack(pieces: readonly StepPiece[]) {
    this.#inputOffset = 0;
    const { blockTokenCount } = this.cache.layout.shape;
    const stride = Math.max(...pieces.map(({ sequence }) => sequence.blockTable.length));
    const positions = pieces.flatMap(({ sequence, ids }) => ids.map((_, i) => sequence.cachedTokenCount + i));
    const owners = pieces.flatMap((piece) => piece.ids.map(() => piece.sequence));
    const starts = [0];
    for (const { ids } of pieces) starts.push(at(starts, starts.length - 1) + ids.length);
    const logitRows = pieces.flatMap(({ ids, logits }, piece) => {
      const rows = ids.map((_, i) => at(starts, piece) + i);
      return logits === 'all' ? rows : logits === 'last' ? rows.slice(-1) : [];
    });
    const slotOf = (sequence: HarnessSequence, position: number) =>
      at(sequence.blockTable, Math.floor(position / blockTokenCount)) * blockTokenCount +
      (position % blockTokenCount);
    const kvCounts = pieces.map(({ sequence, ids }) => sequence.cachedTokenCount + ids.length);
    return {
      view: {
        rowCount: positions.length,
        sequenceCount: pieces.length,
        blockTableStride: stride,
        queryCountMax: Math.max(...pieces.map(({ ids }) => ids.length)),
        kvCountMax: Math.max(...kvCounts),
        positions: this.#put(positions),
        slots: this.#put(positions.map((position, row) => slotOf(at(owners, row), position))),
        queryStart: this.#put(starts),
        kvCount: this.#put(kvCounts),
        blockTable: this.#put(pieces.flatMap(({ sequence }) => padded(sequence.blockTable, stride))),
      },
      ids: this.#put(pieces.flatMap(({ ids }) => ids)),
      lastTokens: this.#put([0]),
      logitRows: this.#put(logitRows),
      logitRowCount: logitRows.length,
    };
  }

  #put(values: readonly number[]): Pointer {
    const { bytes, pointer } = this.#inputs;
    const offset = this.#inputOffset;
    assert(offset + values.length * 4 <= bytes.length, 'inputs fit');
    new Int32Array(bytes.buffer, bytes.byteOffset + offset, values.length).set(values);
    this.#inputOffset = Math.ceil((offset + values.length * 4) / 64) * 64;
    return offsetPointer(pointer, offset);
  }
}

/** Natural-log probabilities. */
export function logSoftmax(logits: Float32Array): Float64Array {
  let largest = Number.NEGATIVE_INFINITY;
  for (const logit of logits) largest = Math.max(largest, logit);
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - largest);
  const shift = largest + Math.log(sum);
  return Float64Array.from(logits, (logit) => logit - shift);
}

export function argmax(values: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (at(values, i) > at(values, best)) best = i;
  return best;
}

/** Test-only: the largest of many, without spreading a long list over the stack. */
export function largest(values: Iterable<number>): number {
  let most = Number.NEGATIVE_INFINITY;
  for (const value of values) most = value > most || Number.isNaN(value) ? value : most;
  return most;
}

function shuffledBlocks(count: number): number[] {
  const prng = new Prng(count);
  const blocks = Array.from({ length: count }, (_, block) => block);
  for (let i = count - 1; i > 0; i--) {
    const other = prng.integer(0, i);
    [blocks[i], blocks[other]] = [at(blocks, other), at(blocks, i)];
  }
  return blocks;
}

function padded(blocks: readonly number[], count: number): number[] {
  return [...blocks, ...new Array<number>(count - blocks.length).fill(-1)];
}
