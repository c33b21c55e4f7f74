/** How K and V lie in staging when they are converted on the way: blocks of the target's tokens, with the
 *  layers and heads of one frame,
 *
 *    block = [layer][K | V]{ [head][slot][headDim], then for i8 and fp8 their float32 scales [head][slot] }
 *
 *  Used by both sides of transfer/. Invariant: both compute it from the frame's own words, so they agree or
 *  the frame is refused. */
import type { KvPlace } from '../device/device.js';
import type { Dtype } from '../device/dtype.js';
import type { Pointer } from '../device/tensor.js';
import { type BlockExtents, extentsOf } from './kv-layout.js';

interface WireShape {
  readonly dtype: Dtype;
  readonly blockTokenCount: number;
  readonly layerCount: number;
  readonly firstHead: number;
  readonly headCount: number;
  readonly headDim: number;
}

export class WireLayout {
  readonly shape: WireShape;
  readonly #extents: BlockExtents;

  constructor(shape: WireShape) {
    this.shape = shape;
    this.#extents = extentsOf({ ...shape, kvHeadCount: shape.headCount });
  }

  get blockBytes(): number {
    return this.#extents.blockBytes;
  }

  /** `blockCount` of them, one behind the other. */
  place(base: Pointer, blockCount: number): KvPlace {
    const { dtype, blockTokenCount, headCount, firstHead } = this.shape;
    const { blockBytes, layerBytes, halfLayerBytes: valueOffset, dataBytes: scaleOffset } = this.#extents;
    const blocks = Array.from({ length: blockCount }, (_, index) => index);
    return {
      base,
      blockBytes,
      layerBytes,
      valueOffset,
      scaleOffset,
      dtype,
      blockTokenCount,
      headCount,
      firstHead,
      blocks,
    };
  }
}
