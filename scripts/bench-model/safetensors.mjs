/* Writes tensors as one safetensors file: u64 header length, JSON header padded with spaces to 8 bytes, then
 *  the data. */
import fs from 'node:fs';
import { bytesOf, elementCount } from './weights.mjs';

/** Returns the bytes of all tensors. */
export function writeSafetensors(file, tensors, weights) {
  const entries = {};
  let byteCount = 0;
  for (const [name, shape] of tensors) {
    const end = byteCount + elementCount(shape) * 2;
    entries[name] = { dtype: 'BF16', shape, data_offsets: [byteCount, end] };
    byteCount = end;
  }
  const json = Buffer.from(JSON.stringify(entries));
  const header = Buffer.concat([json, Buffer.alloc((8 - (json.length % 8)) % 8, ' ')]);
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(header.length));
  const descriptor = fs.openSync(file, 'w');
  fs.writeSync(descriptor, prefix);
  fs.writeSync(descriptor, header);
  for (const [name, shape] of tensors) fs.writeSync(descriptor, bytesOf(weights(name, elementCount(shape))));
  fs.closeSync(descriptor);
  return byteCount;
}
