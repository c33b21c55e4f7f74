/** What prefill hands to decode. The prefill worker owns the source blocks until release. Plain data: it
 *  crosses the bus. */
import type { RequestId, TokenId } from '../base/ids.js';

export interface KvHandle {
  readonly requestId: RequestId;
  /** Of the reservation it was pushed into. */
  readonly epoch: number;
  /** KvLayout.hash: model, block token count, dtype. */
  readonly layoutHash: string;
  /** Positions holding valid K and V. */
  readonly tokenCount: number;
  /** One per choice; their own K and V are not cached yet. */
  readonly firstTokens: readonly TokenId[];
  /** When the sender was asked for them. */
  readonly checksums?: KvChecksums;
}

/** CRC-32C of every block that was sent, in token order. */
export interface KvChecksums {
  /** Index in the prompt's block table; those before it the target had already. */
  readonly firstBlock: number;
  readonly values: readonly number[];
}
