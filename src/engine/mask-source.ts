/** Which tokens a choice may draw next, as someone beside the engine computes it. Made by worker/ (a
 *  thread with the grammar) and by tests; used by the scheduler, which leaves a choice out of steps until
 *  its mask is there, and by batch-packing.ts. Invariant: a choice without a grammar never waits for any
 *  of this. */
import type { TokenId } from '../base/ids.js';

export interface MaskRequest {
  /** As packGrammar of grammar/ writes it. */
  readonly grammar: string;
  /** Allowed where the text may end. */
  readonly endTokenIds: readonly TokenId[];
  /** What the choice has drawn so far. */
  readonly tokenIds: readonly TokenId[];
  /** Most tokens it may draw in all. */
  readonly outputLimit: number;
}

/** The masks of one choice, one draw after another. */
export interface ChoiceMasks {
  /** [ceil(vocabulary / 32)]: bit set, token allowed; null: still being computed. Of the draw after the
   *  last token accepted. */
  readonly words: Uint32Array | null;
  /** The grammar cannot be enforced, or a token was drawn that it does not allow. */
  readonly error: Error | null;
  accept(tokenId: TokenId): void;
  /** Nothing more is asked. */
  close(): void;
}

export interface MaskSource {
  open(request: MaskRequest): ChoiceMasks;
  /** Its grammar will be needed soon. */
  prepare(grammar: string): void;
  /** Choices whose next mask is being computed; those whose grammar is still being compiled are not
   *  counted. */
  readonly computingCount: number;
  /** Grows with every choice whose masks cannot be made. */
  readonly failureCount: number;
  /** Resolves when the next masks have arrived, or one has failed. */
  arrival(): Promise<void>;
}
