/** Reads a request's body as JSON: bounded before it is buffered, strict UTF-8, and errors that say where.
 *  Reads the raw Node stream: the size is enforced while bytes arrive, whatever content-length claims. */
import type { IncomingMessage } from 'node:http';
import { InvalidRequestError, messageOf, TwostrokeError } from '../base/errors.js';
import { bodyTooLarge, HttpError } from './api-error.js';
import { contentDecoder } from './content-encoding.js';

/** Throws: 415 other content type or encoding, 413 over `bytesMax`, 400 bad UTF-8 or bad JSON, cancelled when the client is gone. */
export async function readJsonBody(incoming: IncomingMessage, bytesMax: number): Promise<unknown> {
  checkContentType(incoming.headers['content-type']);
  const decode = contentDecoder(incoming.headers['content-encoding'], bytesMax);
  const claimed = Number(incoming.headers['content-length'] ?? 0);
  if (claimed > bytesMax) throw bodyTooLarge(bytesMax);
  return parseJson(decodeUtf8(await decode(await readBytes(incoming, bytesMax))));
}

/** JSON in UTF-8, or nothing said. What curl -d sends without -H, and browsers to any site without asking, is refused. */
function checkContentType(contentType: string | undefined): void {
  if (contentType === undefined || contentType.trim() === '') return;
  const type = contentType.toLowerCase();
  const isJson = /^[^;]*[/+]json\s*(;|$)/.test(type);
  const charset = /;\s*charset\s*=\s*"?([^";\s]*)/.exec(type)?.[1] ?? 'utf-8';
  if (isJson && ['utf-8', 'utf8', 'us-ascii'].includes(charset)) return;
  throw new HttpError(
    415,
    'invalid_request',
    `Content-Type "${contentType.slice(0, 100)}" is not supported: send JSON in UTF-8 with the header "Content-Type: application/json" (curl -H)`,
  );
}

function readBytes(incoming: IncomingMessage, bytesMax: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let byteCount = 0;
    const settle = (finish: () => void) => {
      incoming.off('data', onData).off('end', onEnd).off('error', onGone).off('close', onGone);
      finish();
    };
    const onData = (chunk: Buffer) => {
      byteCount += chunk.length;
      if (byteCount > bytesMax) settle(() => reject(bodyTooLarge(bytesMax)));
      else chunks.push(chunk);
    };
    const onEnd = () => settle(() => resolve(Buffer.concat(chunks, byteCount)));
    const onGone = () => settle(() => reject(new TwostrokeError('cancelled', 'the client closed the connection')));
    incoming.on('data', onData).on('end', onEnd).on('error', onGone).on('close', onGone);
  });
}

function decodeUtf8(bytes: Buffer): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw new InvalidRequestError(`The body is not valid UTF-8 (first bad byte at ${firstBadByte(bytes)})`);
  }
}

/** Where decoding stops being lossless: the longest prefix that decodes strictly, found by bisection. */
function firstBadByte(bytes: Buffer): number {
  const isValid = (end: number) => {
    try {
      new TextDecoder('utf-8', { fatal: true }).decode(bytes.subarray(0, end), { stream: true });
      return true;
    } catch {
      return false;
    }
  };
  let good = 0;
  let bad = bytes.length;
  while (bad - good > 1) {
    const middle = (good + bad) >>> 1;
    if (isValid(middle)) good = middle;
    else bad = middle;
  }
  return good;
}

function parseJson(text: string): unknown {
  if (text.trim() === '') throw new InvalidRequestError('The body is empty: send a JSON object');
  try {
    return JSON.parse(text);
  } catch (error) {
    const message = messageOf(error);
    throw new InvalidRequestError(
      `The body is not valid JSON: ${message}${/position \d+/.test(message) ? '' : positionHint(text)}`,
    );
  }
}

const positionTextMax = 65_536;

/** V8 names the position only in some messages; the longest prefix that merely ends too early is found by bisection. */
function positionHint(text: string): string {
  if (text.length > positionTextMax) return '';
  let good = 0;
  let bad = text.length + 1;
  while (bad - good > 1) {
    const middle = (good + bad) >>> 1;
    if (isUnfinishedJson(text.slice(0, middle))) good = middle;
    else bad = middle;
  }
  return ` (at position ${good})`;
}

function isUnfinishedJson(prefix: string): boolean {
  try {
    JSON.parse(prefix);
    return true;
  } catch (error) {
    const message = messageOf(error);
    return message.includes('end of JSON input') || Number(/position (\d+)/.exec(message)?.[1]) === prefix.length;
  }
}
