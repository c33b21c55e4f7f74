/** Bodies that clients send compressed. Used by request-body.ts. Invariant: a body that unpacks to more than the limit is given up at the
 *  limit, however small it came. */
import { promisify } from 'node:util';
import { brotliDecompress, gunzip, inflate } from 'node:zlib';
import { InvalidRequestError, messageOf } from '../base/errors.js';
import { bodyTooLarge, HttpError } from './api-error.js';

const identity = async (bytes: Buffer): Promise<Buffer> => bytes;
const decoders: ReadonlyMap<string, (bytes: Buffer, options: { maxOutputLength: number }) => Promise<Buffer>> = new Map([
  ['', identity],
  ['identity', identity],
  ['gzip', promisify(gunzip)],
  ['x-gzip', promisify(gunzip)],
  ['deflate', promisify(inflate)],
  ['br', promisify(brotliDecompress)],
]);

/** How to undo a Content-Encoding. Throws 415 for one that is not known, several at once included. The decoder throws 413 and 400. */
export function contentDecoder(encoding: string | undefined, bytesMax: number): (bytes: Buffer) => Promise<Buffer> {
  const name = encoding?.trim().toLowerCase() ?? '';
  const decode = decoders.get(name);
  if (decode === undefined) {
    throw new HttpError(415, 'invalid_request', `Content-Encoding "${name}" is not supported: send gzip, deflate, br or none`, {
      headers: { 'accept-encoding': 'gzip, deflate, br' },
    });
  }
  return async (bytes) => {
    if (bytes.length === 0) return bytes;
    try {
      return await decode(bytes, { maxOutputLength: bytesMax });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE') throw bodyTooLarge(bytesMax);
      throw new InvalidRequestError(`The body is not valid ${name}: ${messageOf(error)}`);
    }
  };
}
