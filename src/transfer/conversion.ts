/** What has to happen to K and V between two caches that are not laid out alike, or that agreed on a smaller
 *  dtype for the way. Used by the members of the family: today for the dtype.
 *  Workers of one gateway have one block size and all heads; the KV store will bring other block sizes,
 *  tensor parallelism ranges of heads. Invariant: only what is the same model in the same
 *  dtype is converted; the rest is refused by name. */
import { TwostrokeError } from '../base/errors.js';
import type { WorkerId } from '../base/ids.js';
import type { KvRange } from '../device/device.js';
import type { Dtype } from '../device/dtype.js';
import { KvLayout, type KvShape } from '../kv/kv-layout.js';
import type { KvIdentity, TransferDtype } from './connector.js';

export interface Conversion {
  readonly target: KvLayout;
  readonly source: KvLayout;
  /** Of the model. */
  readonly targetFirstHead: number;
  readonly sourceFirstHead: number;
  /** What both sides hold. */
  readonly firstHead: number;
  readonly headCount: number;
  readonly wireDtype: Dtype;
}

const wireDtypes: Readonly<Record<Exclude<TransferDtype, 'auto'>, Dtype>> = { fp8: 'fp8', int8: 'i8' };

/** In which dtype K and V travel when they are converted. */
export function wireDtypeOf({ transferDtype = 'auto', dtype }: KvIdentity): Dtype {
  return transferDtype === 'auto' ? dtype : wireDtypes[transferDtype];
}

/** Null: bytes go as they are. Throws `layout_mismatch` naming the first thing that differs and cannot be
 *  converted. */
export function conversionOf(
  source: KvIdentity,
  target: KvIdentity,
  targetName: WorkerId,
): Conversion | null {
  const [dtype, otherDtype] = [source.transferDtype ?? 'auto', target.transferDtype ?? 'auto'];
  refuseUnlessEqual('protocolVersion', source.protocolVersion, target.protocolVersion, targetName);
  refuseUnlessEqual('modelName', source.modelName, target.modelName, targetName);
  refuseUnlessEqual('dtype', source.dtype, target.dtype, targetName);
  refuseUnlessEqual('transferDtype', dtype, otherDtype, targetName);
  if (dtype === 'auto' && source.layoutHash === target.layoutHash) return null;
  const [from, to] = [source.geometry, target.geometry];
  if (from === undefined || to === undefined || !isSameModel(from.shape, to.shape)) {
    refuseUnlessEqual('layoutHash', source.layoutHash, target.layoutHash, targetName);
    throw new TwostrokeError(
      'layout_mismatch',
      `KV cannot go to ${targetName}: nothing is known of its layout`,
    );
  }
  const firstHead = Math.max(from.firstHead, to.firstHead);
  const headEnd = Math.min(from.firstHead + from.shape.kvHeadCount, to.firstHead + to.shape.kvHeadCount);
  if (headEnd <= firstHead)
    throw new TwostrokeError('layout_mismatch', `KV cannot go to ${targetName}: no head is on both sides`);
  return {
    source: new KvLayout(from.shape),
    target: new KvLayout(to.shape),
    sourceFirstHead: from.firstHead,
    targetFirstHead: to.firstHead,
    firstHead,
    headCount: headEnd - firstHead,
    wireDtype: wireDtypeOf(source),
  };
}

/** Tokens that a piece moves: those for which it names blocks on both sides. */
export function tokenCountOf(
  conversion: Conversion,
  sourceBlockCount: number,
  targetBlockCount: number,
): number {
  const { source, target } = conversion;
  return Math.min(
    sourceBlockCount * source.shape.blockTokenCount,
    targetBlockCount * target.shape.blockTokenCount,
  );
}

/** The part of a range that is the same for every frame of a piece. */
export function rangeOf({
  firstHead,
  headCount,
  source,
}: Conversion): Pick<KvRange, 'firstHead' | 'headCount' | 'headDim'> {
  return { firstHead, headCount, headDim: source.shape.headDim };
}

function isSameModel(a: KvShape, b: KvShape): boolean {
  return a.layerCount === b.layerCount && a.headDim === b.headDim && a.dtype === b.dtype;
}

function refuseUnlessEqual(what: string, here: unknown, there: unknown, targetName: WorkerId): void {
  if (here === there) return;
  throw new TwostrokeError(
    'layout_mismatch',
    `KV cannot go to ${targetName}: ${what} differs (${here} here, ${there} there)`,
  );
}
