/** Cuts a piece into frames that fit a staging slot. Used by tcp.ts. Invariant: all frames of a target block
 *  take one lane. */
import type { BlockPair, Stream } from '../device/device.js';
import type { Pointer } from '../device/tensor.js';
import type { KvCache } from '../kv/kv-cache.js';
import { WireLayout } from '../kv/wire-layout.js';
import { checkPiece, pairsOf } from './checks.js';
import type { KvPiece } from './connector.js';
import { type Conversion, rangeOf, tokenCountOf } from './conversion.js';
import type { Packed } from './wire.js';

export const laneCount = 2;

export interface FramePlan {
  readonly laneIndex: number;
  /** Of the target; none: a probe. */
  readonly blocks: readonly number[];
  /** In a block of the target; 0 when packed. */
  readonly offset: number;
  /** Per block, as it travels. */
  readonly bytes: number;
  readonly packed?: Packed;
  /** Enqueues what brings it into a slot. */
  readonly stage: (stream: Stream, slot: Pointer) => void;
}

/** Bytes as they are: the same slice of pairs of blocks. */
export function plainFrames(
  piece: KvPiece,
  cache: KvCache,
  targetBlockCount: number,
  slotBytes: number,
): FramePlan[] {
  const pairs = pairsOf(piece, cache, targetBlockCount);
  const { sourceOffset, bytes } = cache.layout.layerSlice(piece.firstLayer, piece.layerEnd);
  const partBytes = Math.min(bytes, slotBytes);
  const blockCount = Math.floor(slotBytes / partBytes);
  const frames: FramePlan[] = [];
  for (let laneIndex = 0; laneIndex < laneCount; laneIndex++) {
    const own = pairs.filter(({ target }) => target % laneCount === laneIndex);
    for (let first = 0; first < own.length; first += blockCount) {
      for (let part = 0; part < bytes; part += partBytes) {
        const ownBytes = Math.min(partBytes, bytes - part);
        frames.push(plainFrame(own.slice(first, first + blockCount), cache, sourceOffset + part, ownBytes));
      }
    }
  }
  return frames;
}

function plainFrame(pairs: readonly BlockPair[], cache: KvCache, offset: number, bytes: number): FramePlan {
  const blocks = pairs.map(({ target }) => target);
  return {
    laneIndex: (blocks[0] ?? 0) % laneCount,
    blocks,
    offset,
    bytes,
    stage: (stream, slot) =>
      stream.copySlices(
        { base: slot, blockBytes: bytes },
        { base: cache.pointer, blockBytes: cache.layout.blockBytes },
        pairs.map(({ source }, target) => ({ target, source })),
        [{ targetOffset: 0, sourceOffset: offset, bytes }],
      ),
  };
}

/** Converted: runs of target blocks in token order, so they share a lane. */
export function packedFrames(
  piece: KvPiece,
  cache: KvCache,
  conversion: Conversion,
  limits: { readonly targetBlockCount: number; readonly slotBytes: number },
): FramePlan[] {
  checkPiece(piece, cache, limits.targetBlockCount);
  const { firstLayer, layerEnd, sourceBlocks, targetBlocks } = piece;
  const layerBytes = wireOf(conversion, 1).blockBytes;
  const layerStep = Math.min(layerEnd - firstLayer, Math.max(1, Math.floor(limits.slotBytes / layerBytes)));
  const blockStep = Math.max(1, Math.floor(limits.slotBytes / (layerStep * layerBytes)));
  const { blockTokenCount } = conversion.target.shape;
  const tokenCount = tokenCountOf(conversion, sourceBlocks.length, targetBlocks.length);
  const frames: FramePlan[] = [];
  for (let firstBlock = 0; firstBlock * blockTokenCount < tokenCount; firstBlock += blockStep) {
    const blocks = targetBlocks.slice(firstBlock, firstBlock + blockStep);
    const firstToken = firstBlock * blockTokenCount;
    const tokens = {
      first: firstToken,
      count: Math.min(blocks.length * blockTokenCount, tokenCount - firstToken),
    };
    for (let layer = firstLayer; layer < layerEnd; layer += layerStep) {
      const layers = { first: layer, count: Math.min(layerStep, layerEnd - layer) };
      frames.push(packedFrame({ blocks, sourceBlocks, tokens, layers }, cache, conversion));
    }
  }
  return frames;
}

interface Part {
  readonly blocks: readonly number[];
  readonly sourceBlocks: readonly number[];
  readonly tokens: { readonly first: number; readonly count: number };
  readonly layers: { readonly first: number; readonly count: number };
}

function packedFrame(
  { blocks, sourceBlocks, tokens, layers }: Part,
  cache: KvCache,
  conversion: Conversion,
): FramePlan {
  const { wireDtype, firstHead, headCount, sourceFirstHead, source } = conversion;
  const wire = wireOf(conversion, layers.count);
  const { blockTokenCount } = source.shape;
  const own = sourceBlocks.slice(Math.floor(tokens.first / blockTokenCount));
  const range = {
    targetStart: 0,
    sourceStart: tokens.first % blockTokenCount,
    tokenCount: tokens.count,
    targetLayer: 0,
    sourceLayer: layers.first,
    layerCount: layers.count,
    ...rangeOf(conversion),
  };
  const packed = {
    dtype: wireDtype,
    firstLayer: layers.first,
    layerCount: layers.count,
    tokenCount: tokens.count,
    firstHead,
    headCount,
  };
  return {
    laneIndex: 0,
    blocks,
    offset: 0,
    bytes: wire.blockBytes,
    packed,
    stage: (stream, slot) =>
      stream.moveKv(
        wire.place(slot, blocks.length),
        cache.layout.place(cache.pointer, own, sourceFirstHead),
        range,
      ),
  };
}

function wireOf({ wireDtype, target, firstHead, headCount }: Conversion, layerCount: number): WireLayout {
  const { blockTokenCount, headDim } = target.shape;
  return new WireLayout({ dtype: wireDtype, blockTokenCount, layerCount, firstHead, headCount, headDim });
}
