/** How K and V lie in staging when they are converted on the way: blocks of the target's tokens, with the layers and heads of one frame,
 *
 *    block = [layer][K | V]{ [head][slot][headDim], then for i8 and fp8 their float32 scales [head][slot] }
 *
 *  Used by both sides of transfer/. Invariant: both compute it from the frame's own words, so they agree or the frame is refused. */
import type { KvPlace } from '../device/device.js';
import { type Dtype, dtypeByteCounts } from '../device/dtype.js';
import type { Pointer } from '../device/tensor.js';

export interface WireShape {
  readonly dtype: Dtype;
  readonly blockTokenCount: number;
  readonly layerCount: number;
  readonly firstHead: number;
  readonly headCount: number;
  readonly headDim: number;
}

export class WireLayout {
  readonly shape: WireShape;
  readonly blockBytes: number;
  readonly #dataBytes: number;
  readonly #halfBytes: number;

  constructor(shape: WireShape) {
    const { dtype, blockTokenCount, layerCount, headCount, headDim } = shape;
    const vectorCount = headCount * blockTokenCount;
    const hasScales = dtype === 'i8' || dtype === 'fp8';
    this.shape = shape;
    this.#dataBytes = vectorCount * headDim * dtypeByteCounts[dtype];
    this.#halfBytes = this.#dataBytes + (hasScales ? vectorCount * Float32Array.BYTES_PER_ELEMENT : 0);
    this.blockBytes = layerCount * 2 * this.#halfBytes;
  }

  /** `blockCount` of them, one behind the other. */
  place(base: Pointer, blockCount: number): KvPlace {
    const { dtype, blockTokenCount, headCount, firstHead } = this.shape;
    const [valueOffset, scaleOffset] = [this.#halfBytes, this.#dataBytes];
    const blocks = Array.from({ length: blockCount }, (_, index) => index);
    return {
      ...{ base, blockBytes: this.blockBytes, layerBytes: 2 * valueOffset, valueOffset, scaleOffset },
      ...{ dtype, blockTokenCount, headCount, firstHead, blocks },
    };
  }
}
