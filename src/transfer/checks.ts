/** What every connector checks before a byte moves: that both sides mean the same, and that a piece names
 *  blocks that exist. Used by the members of the family. Invariant: no address is made of a block index that
 *  was not checked here. */
import { assert, at } from '../base/assert.js';
import { TwostrokeError } from '../base/errors.js';
import type { RequestId } from '../base/ids.js';
import type { BlockPair } from '../device/device.js';
import type { KvCache } from '../kv/kv-cache.js';
import type { KvHandle } from '../kv/kv-handle.js';
import type { KvLayout } from '../kv/kv-layout.js';
import type { KvIdentity, KvPiece, KvTarget } from './connector.js';
import { type Conversion, conversionOf } from './conversion.js';

/** What has to happen on the way; null: nothing. Throws `layout_mismatch` naming the first thing that
 *  differs. */
export function checkTarget(source: KvIdentity, target: KvTarget, layout: KvLayout): Conversion | null {
  const conversion = conversionOf(source, target.kv, target.workerId);
  const neededBytes = target.blockCount * (conversion?.target ?? layout).blockBytes;
  if (target.cache.bytes >= neededBytes) return conversion;
  const counts = `${target.cache.bytes} bytes for ${target.blockCount} blocks, ${neededBytes} needed`;
  throw new TwostrokeError('layout_mismatch', `KV cannot go to ${target.workerId}: its cache has ${counts}`);
}

export function checkHandle(handle: KvHandle, requestId: RequestId, layoutHash: string): void {
  assert(handle.requestId === requestId, `handle of ${handle.requestId} in the transfer of ${requestId}`);
  if (handle.layoutHash === layoutHash) return;
  const hashes = `${handle.layoutHash}, the target's ${layoutHash}`;
  throw new TwostrokeError('layout_mismatch', `request ${requestId}: the handle's layout is ${hashes}`);
}

/** A broken piece is a bug of ours, hence an assertion. */
export function checkPiece(piece: KvPiece, cache: KvCache, targetBlockCount: number): void {
  const { sourceBlocks, targetBlocks, firstLayer, layerEnd } = piece;
  const { layerCount } = cache.layout.shape;
  assert(
    firstLayer >= 0 && firstLayer < layerEnd && layerEnd <= layerCount,
    `layers ${firstLayer}..${layerEnd}`,
  );
  for (const source of sourceBlocks)
    assert(source >= 0 && source < cache.blockCount, `source block ${source} of ${cache.blockCount}`);
  for (const target of targetBlocks)
    assert(target >= 0 && target < targetBlockCount, `target block ${target} of ${targetBlockCount}`);
}

/** Of blocks of the same layout. */
export function pairsOf(piece: KvPiece, cache: KvCache, targetBlockCount: number): BlockPair[] {
  const { sourceBlocks, targetBlocks } = piece;
  assert(sourceBlocks.length === targetBlocks.length, 'a piece pairs its blocks');
  checkPiece(piece, cache, targetBlockCount);
  return sourceBlocks.map((source, i) => ({ target: at(targetBlocks, i), source }));
}
