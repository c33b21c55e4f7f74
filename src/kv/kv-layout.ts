/** The only source of KV offsets. A block holds `blockTokenCount` positions of every layer and is one
 *  contiguous piece:
 *
 *    block = [layer][K | V]{ [kvHead][slot][headDim], then for fp8 their float32 scales [kvHead][slot] }
 *
 *  so a whole block moves in one copy, and a layer of a block is one contiguous slice (what a layer-wise push
 *  sends). Used by engine/ (copy-on-write), transfer/ (slices and the handshake
 *  hash). */
import { createHash } from 'node:crypto';
import { assert } from '../base/assert.js';
import type { BlockSlice, KvLayerView, KvPlace } from '../device/device.js';
import { type Dtype, dtypeByteCounts } from '../device/dtype.js';
import type { Pointer } from '../device/tensor.js';

export interface KvShape {
  /** Which model the bytes mean something to; part of the hash. */
  readonly modelName: string;
  readonly layerCount: number;
  readonly kvHeadCount: number;
  readonly headDim: number;
  readonly blockTokenCount: number;
  readonly dtype: Dtype;
}

/** How many bytes lie where in a block, of a cache or on the way to one. */
export interface BlockExtents {
  /** Of K (or V) of one layer, without scales: that is where they begin. */
  readonly dataBytes: number;
  readonly halfLayerBytes: number;
  readonly layerBytes: number;
  readonly blockBytes: number;
}

/** i8 and fp8 have a float32 scale for each vector. */
export function extentsOf(shape: Omit<KvShape, 'modelName'>): BlockExtents {
  const { dtype, layerCount, kvHeadCount, headDim, blockTokenCount } = shape;
  const vectorCount = kvHeadCount * blockTokenCount;
  const hasScales = dtype === 'i8' || dtype === 'fp8';
  const dataBytes = vectorCount * headDim * dtypeByteCounts[dtype];
  const halfLayerBytes = dataBytes + (hasScales ? vectorCount * Float32Array.BYTES_PER_ELEMENT : 0);
  const layerBytes = 2 * halfLayerBytes;
  return { dataBytes, halfLayerBytes, layerBytes, blockBytes: layerCount * layerBytes };
}

export class KvLayout {
  readonly shape: KvShape;
  /** Bytes of K (or V) of one layer in one block. */
  readonly halfLayerBytes: number;
  readonly layerBytes: number;
  readonly blockBytes: number;
  /** Two workers may exchange blocks when their hashes are equal. */
  readonly hash: string;
  /** Of a half without its scales. */
  readonly #dataBytes: number;

  constructor(shape: KvShape) {
    const { blockTokenCount } = shape;
    assert(
      blockTokenCount >= 8 && blockTokenCount <= 256 && (blockTokenCount & (blockTokenCount - 1)) === 0,
      'block: 8..256, power of two',
    );
    this.shape = shape;
    const { dataBytes, halfLayerBytes, layerBytes, blockBytes } = extentsOf(shape);
    this.#dataBytes = dataBytes;
    this.halfLayerBytes = halfLayerBytes;
    this.layerBytes = layerBytes;
    this.blockBytes = blockBytes;
    this.hash = createHash('sha256').update(JSON.stringify(shape)).digest('hex').slice(0, 16);
  }

  /** Bytes of one token's K and V over all layers. */
  get tokenBytes(): number {
    return this.blockBytes / this.shape.blockTokenCount;
  }

  blockCountFor(tokenCount: number): number {
    return Math.ceil(tokenCount / this.shape.blockTokenCount);
  }

  layerView(base: Pointer, layer: number, blockCount: number): KvLayerView {
    const keyOffset = layer * this.layerBytes;
    return {
      base,
      blockBytes: this.blockBytes,
      keyOffset,
      valueOffset: keyOffset + this.halfLayerBytes,
      dtype: this.shape.dtype,
      blockTokenCount: this.shape.blockTokenCount,
      kvHeadCount: this.shape.kvHeadCount,
      headDim: this.shape.headDim,
      blockCount,
    };
  }

  /** Some of its blocks, as moveKv takes them. `firstHead`: of the model, when a cache holds only some of the
   *  heads. */
  place(base: Pointer, blocks: readonly number[], firstHead = 0): KvPlace {
    const { kvHeadCount, dtype, blockTokenCount } = this.shape;
    const { blockBytes, layerBytes, halfLayerBytes } = this;
    return {
      base,
      blockBytes,
      layerBytes,
      valueOffset: halfLayerBytes,
      scaleOffset: this.#dataBytes,
      dtype,
      blockTokenCount,
      headCount: kvHeadCount,
      firstHead,
      blocks,
    };
  }

  /** The bytes of layers [first, last) within a block. */
  layerSlice(firstLayer: number, lastLayer: number): BlockSlice {
    const offset = firstLayer * this.layerBytes;
    return { targetOffset: offset, sourceOffset: offset, bytes: (lastLayer - firstLayer) * this.layerBytes };
  }

  wholeBlock(): BlockSlice {
    return this.layerSlice(0, this.shape.layerCount);
  }
}
