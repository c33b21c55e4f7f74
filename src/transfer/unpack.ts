/** The receiving end of converted frames: whether one makes sense here, and bringing it into blocks. Used by
 *  tcp-receiver.ts.
 *  Invariant: nothing is moved by numbers that were not checked against this side's own layout. */
import type { Stream } from '../device/device.js';
import type { Pointer } from '../device/tensor.js';
import type { KvCache } from '../kv/kv-cache.js';
import type { KvLayout } from '../kv/kv-layout.js';
import { WireLayout } from '../kv/wire-layout.js';
import type { KvIdentity } from './connector.js';
import { wireDtypeOf } from './conversion.js';
import type { FrameMeta, Packed } from './wire.js';

function isWithin(offset: number, bytes: number, limit: number): boolean {
  return offset >= 0 && offset + bytes <= limit;
}

interface Unpacking {
  readonly cache: KvCache;
  readonly identity: KvIdentity;
}

/** Every number of it comes from the network. */
export function isUnpackable(
  { blocks, bytes }: FrameMeta,
  packed: Packed,
  { cache, identity }: Unpacking,
): boolean {
  const { layout } = cache;
  const { shape } = layout;
  const { dtype, tokenCount, firstLayer, layerCount, firstHead, headCount } = packed;
  const areCounts = [tokenCount, layerCount, headCount].every(
    (count) => Number.isSafeInteger(count) && count > 0,
  );
  if (!areCounts || !Number.isSafeInteger(firstLayer) || !Number.isSafeInteger(firstHead)) return false;
  const headOffset = firstHead - (identity.geometry?.firstHead ?? 0);
  return (
    dtype === wireDtypeOf(identity) &&
    isWithin(firstLayer, layerCount, shape.layerCount) &&
    isWithin(headOffset, headCount, shape.kvHeadCount) &&
    Math.ceil(tokenCount / shape.blockTokenCount) === blocks.length &&
    wireOf(packed, layout).blockBytes === bytes
  );
}

/** Enqueues it; the frame has been checked. */
export function unpack(
  stream: Stream,
  {
    blocks,
    packed,
    from,
  }: { readonly blocks: readonly number[]; readonly packed: Packed; readonly from: Pointer },
  { cache, identity }: Unpacking,
): void {
  const { layout, pointer } = cache;
  const { tokenCount, firstLayer, layerCount, firstHead, headCount } = packed;
  stream.moveKv(
    layout.place(pointer, blocks, identity.geometry?.firstHead ?? 0),
    wireOf(packed, layout).place(from, blocks.length),
    {
      targetStart: 0,
      sourceStart: 0,
      tokenCount,
      targetLayer: firstLayer,
      sourceLayer: 0,
      layerCount,
      firstHead,
      headCount,
      headDim: layout.shape.headDim,
    },
  );
}

function wireOf({ dtype, layerCount, firstHead, headCount }: Packed, { shape }: KvLayout): WireLayout {
  const { blockTokenCount, headDim } = shape;
  return new WireLayout({ dtype, blockTokenCount, layerCount, firstHead, headCount, headDim });
}
