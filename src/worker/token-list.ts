/** Token lists on the bus: little-endian int32 in base64. A prompt of 100 thousand tokens costs a memory
 *  copy, not a JSON parse. */
import type { TokenId } from '../base/ids.js';

export function packTokens(tokens: readonly TokenId[]): string {
  const words = Int32Array.from(tokens);
  return Buffer.from(words.buffer, words.byteOffset, words.byteLength).toString('base64');
}

export function unpackTokens(text: string): readonly TokenId[] {
  const bytes = Buffer.from(text, 'base64');
  const tokens = new Array<TokenId>(bytes.byteLength / Int32Array.BYTES_PER_ELEMENT);
  for (let i = 0; i < tokens.length; i++)
    tokens[i] = bytes.readInt32LE(i * Int32Array.BYTES_PER_ELEMENT) as TokenId;
  return tokens;
}
