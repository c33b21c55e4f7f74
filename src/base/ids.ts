/** Branded ids: a worker's id is never taken for a request's. */

declare const brand: unique symbol;
type Branded<T, Name extends string> = T & { readonly [brand]: Name };

export type RequestId = Branded<string, 'RequestId'>;
export type WorkerId = Branded<string, 'WorkerId'>;
/** Index of a KV block within one worker's cache. */
export type BlockId = Branded<number, 'BlockId'>;
/** Index into the vocabulary. Plain, since token arrays are everywhere. */
export type TokenId = number;

export const requestId = (text: string): RequestId => text as RequestId;
export const workerId = (text: string): WorkerId => text as WorkerId;
export const blockId = (index: number): BlockId => index as BlockId;
