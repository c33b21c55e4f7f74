/** Token lists on the bus: little-endian int32 in base64. A prompt of 100 thousand tokens costs a memory copy, not a JSON parse. */
import type { TokenId } from '../base/ids.js';

export function packTokens(tokens: readonly TokenId[]): string {
  const words = Int32Array.from(tokens);
  return Buffer.from(words.buffer, words.byteOffset, words.byteLength).toString('base64');
}

export function unpackTokens(text: string): readonly TokenId[] {
  const bytes = Buffer.from(text, 'base64');
  const copy = new Uint8Array(bytes); // aligned, unlike a slice of Buffer's pool
  return Array.from(new Int32Array(copy.buffer, 0, copy.byteLength / Int32Array.BYTES_PER_ELEMENT));
}
