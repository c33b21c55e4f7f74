/** What a worker and its mask thread say to each other. Plain data for postMessage; read by mask-thread.ts
 *  and mask-thread-entry.ts. A batch is answered item by item: those that go on all at once, then each one
 *  that is opened. */
import type { WireError } from '../../base/errors.js';
import type { TokenId } from '../../base/ids.js';

interface OpenItem {
  readonly kind: 'open';
  readonly id: number;
  readonly grammar: string;
  readonly endTokenIds: readonly TokenId[];
  readonly tokenIds: readonly TokenId[];
  readonly outputLimit: number;
}

interface AcceptItem {
  readonly kind: 'accept';
  readonly id: number;
  readonly tokenId: TokenId;
}

export type MaskItem =
  | OpenItem
  | AcceptItem
  | { readonly kind: 'close'; readonly id: number }
  | { readonly kind: 'prepare'; readonly grammar: string };

export type MaskBatch = readonly MaskItem[];

export type MaskAnswer =
  /** Masks one after the other, each as long as the rest. */
  | { readonly kind: 'masks'; readonly ids: readonly number[]; readonly words: Uint32Array }
  | { readonly kind: 'failed'; readonly id: number; readonly error: WireError }
  /** The thread cannot serve at all. */
  | { readonly kind: 'broken'; readonly error: WireError };

export interface MaskThreadData {
  readonly folder: string;
  /** Of the model's logits. */
  readonly vocabCount: number;
  /** [1] i32: the text that the thread is at, to blame when it ends; or one of the two below. */
  readonly current: SharedArrayBuffer;
}

export const atNothing = -1;
/** At a grammar that is compiled before it is needed. */
export const atPreparation = -2;
