/** What a step tells about one request: tokens, in order, and why a choice ended. Plain data: it crosses the
 *  bus. */

import type { WireError } from '../base/errors.js';
import type { RequestId, TokenId } from '../base/ids.js';

export interface TokenLogprob {
  readonly logprob: number;
  /** Best first. */
  readonly top: readonly (readonly [TokenId, number])[];
}

export interface TokenOutput {
  readonly tokenId: TokenId;
  readonly logprob?: TokenLogprob;
}

/** 'stop': an end or stop token (the last token of the choice); 'length': maxTokenCount or the context is
 *  full. */
export type FinishReason = 'stop' | 'length';

export type TokenEvent =
  | {
      readonly kind: 'tokens';
      readonly requestId: RequestId;
      readonly choiceIndex: number;
      readonly tokens: readonly TokenOutput[];
      readonly finishReason?: FinishReason;
      /** On 'stop': the id that ended it, so that a request's own stop id can be distinguished from the
       *  model's end. */
      readonly stopTokenId?: TokenId;
    }
  /** Log-probabilities of prompt tokens 1..n-1 (the first has none), once, before the first tokens: in one
   *  event, or in several that follow one another. */
  | {
      readonly kind: 'promptLogprobs';
      readonly requestId: RequestId;
      /** How many came before. Absent: none. */
      readonly start?: number;
      readonly logprobs: readonly TokenLogprob[];
    }
  /** Prompt tokens found in the prefix cache, once, when first scheduled. */
  | { readonly kind: 'cached'; readonly requestId: RequestId; readonly cachedTokenCount: number }
  | { readonly kind: 'failed'; readonly requestId: RequestId; readonly error: WireError };
