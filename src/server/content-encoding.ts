/** Bodies that clients send compressed. Used by request-body.ts. Invariant: a body that unpacks to more than
 *  the limit is given up at the limit, however small it came. */
import { promisify } from 'node:util';
import { brotliDecompress, gunzip, inflate } from 'node:zlib';
import { InvalidRequestError, messageOf } from '../base/errors.js';
import { bodyTooLarge, HttpError } from './api-error.js';

const decoders: ReadonlyMap<
  string,
  (bytes: Buffer, options: { maxOutputLength: number; chunkSize: number }) => Promise<Buffer>
> = new Map([
  ['gzip', promisify(gunzip)],
  ['x-gzip', promisify(gunzip)],
  ['deflate', promisify(inflate)],
  ['br', promisify(brotliDecompress)],
]);

/** Unpacked by one task of the thread pool; Node's own 16 KiB make hundreds of tasks of a large body. */
const chunkSize = 2 ** 18;

/** How to undo a Content-Encoding; null: there is none. Throws 415 for one that is not known, several at once
 *  included. The decoder throws 413 and 400. */
export function contentDecoder(
  encoding: string | undefined,
  bytesMax: number,
): ((bytes: Buffer) => Promise<Buffer>) | null {
  const name = encoding?.trim().toLowerCase() ?? '';
  if (name === '' || name === 'identity') return null;
  const decode = decoders.get(name);
  if (decode === undefined) {
    throw new HttpError(
      415,
      'invalid_request',
      `Content-Encoding "${name}" is not supported: send gzip, deflate, br or none`,
      {
        headers: { 'accept-encoding': 'gzip, deflate, br' },
      },
    );
  }
  return async (bytes) => {
    if (bytes.length === 0) return bytes;
    try {
      return await decode(bytes, { maxOutputLength: bytesMax, chunkSize });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE') throw bodyTooLarge(bytesMax);
      throw new InvalidRequestError(`The body is not valid ${name}: ${messageOf(error)}`);
    }
  };
}
