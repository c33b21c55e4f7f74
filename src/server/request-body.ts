/** Reads a request's body as JSON: bounded before it is buffered, strict UTF-8, and errors that say where.
 *  Reads the raw Node stream: the size is enforced while bytes arrive, whatever content-length claims. */
import type { IncomingMessage } from 'node:http';
import { InvalidRequestError, messageOf, TwostrokeError } from '../base/errors.js';
import { bodyTooLarge, HttpError } from './api-error.js';
import { type BodyRoom, type BodyShare, smallByteCount } from './body-room.js';
import { contentDecoder } from './content-encoding.js';

/** Runs `handle` with the body, which has its room until that has ended: what is read may be kept as long.
 *  Throws: 415 other content type or encoding, 413 over the room's limit for one, 429 when others fill the
 *  room, 400 bad UTF-8 or bad JSON, cancelled when the client is gone. */
export async function withJsonBody<Result>(
  incoming: IncomingMessage,
  room: BodyRoom,
  handle: (json: unknown) => Promise<Result>,
): Promise<Result> {
  const { bodyBytesMax } = room;
  checkContentType(incoming.headers['content-type']);
  const decode = contentDecoder(incoming.headers['content-encoding'], bodyBytesMax);
  const claimed = Number(incoming.headers['content-length'] ?? 0);
  if (claimed > bodyBytesMax) throw bodyTooLarge(bodyBytesMax);
  return room.with(async (share) => handle(await readJson(incoming, room, share, decode)));
}

async function readJson(
  incoming: IncomingMessage,
  room: BodyRoom,
  share: BodyShare,
  decode: ((bytes: Buffer) => Promise<Buffer>) | null,
): Promise<unknown> {
  const bytes = await readBytes(incoming, room.bodyBytesMax, share);
  if (decode === null && bytes.length <= smallByteCount) return parsed(bytes);
  return room.inTurn(async () => {
    if (incoming.socket.destroyed) throw goneError();
    if (decode === null) return parsedInTurns(bytes, () => room.nextTurn());
    const unpacked = await decode(bytes);
    share.grow(Math.max(0, unpacked.length - bytes.length));
    return parsedInTurns(unpacked, () => room.nextTurn());
  });
}

function parsed(bytes: Buffer): unknown {
  const measure = new Measure();
  measure.add(bytes);
  measure.refuse();
  return parseJson(decodeUtf8(bytes));
}

const byteCountPerTurn = 2 ** 20;

/** Each step of it takes a turn of the event loop of its own. */
async function parsedInTurns(bytes: Buffer, nextTurn: () => Promise<unknown>): Promise<unknown> {
  const measure = new Measure();
  for (let start = 0; start < bytes.length; start += byteCountPerTurn) {
    measure.add(bytes.subarray(start, start + byteCountPerTurn));
    await nextTurn();
  }
  measure.refuse();
  const text = decodeUtf8(bytes);
  await nextTurn();
  const value = parseJson(text);
  await nextTurn();
  return value;
}

/** JSON in UTF-8, or nothing said. What curl -d sends without -H, and browsers to any site without asking, is
 *  refused. */
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

function readBytes(incoming: IncomingMessage, bytesMax: number, share: BodyShare): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let byteCount = 0;
    const settle = (finish: () => void) => {
      incoming.off('data', onData).off('end', onEnd).off('error', onGone).off('close', onGone);
      finish();
    };
    const onData = (chunk: Buffer) => {
      byteCount += chunk.length;
      try {
        if (byteCount > bytesMax) throw bodyTooLarge(bytesMax);
        share.grow(chunk.length);
        chunks.push(chunk);
      } catch (error) {
        settle(() => reject(error));
      }
    };
    const onEnd = () => settle(() => resolve(Buffer.concat(chunks, byteCount)));
    const onGone = () => settle(() => reject(goneError()));
    incoming.on('data', onData).on('end', onEnd).on('error', onGone).on('close', onGone);
  });
}

function goneError(): TwostrokeError {
  return new TwostrokeError('cancelled', 'the client closed the connection');
}

/** What JSON.parse takes per item, in units of a number in a list (up to 0.1 µs): a list four, a field of an
 *  object sixteen. */
const unitsPerList = 4;
const unitsPerField = 16;
/** So much keeps the event loop for at most 50 ms: half a million token ids, or some ten thousand messages.
 *  Texts count as one item, however long they are. */
const parseUnitsMax = 2 ** 19;
/** Lists and objects in one another. What goes through a value goes down by calls, and JSON.parse alone has
 *  no end to its stack. */
const depthMax = 256;

/** How much work it is to parse a body, and how deep it goes, by its bytes in any pieces. */
class Measure {
  #units = 0;
  #open = 0;
  #depth = 0;
  #state: 'outside' | 'in text' | 'escaped' = 'outside';

  add(bytes: Buffer): void {
    let [units, open, depth, state] = [this.#units, this.#open, this.#depth, this.#state];
    for (let i = 0; i < bytes.length; i++) {
      const byte = bytes[i];
      if (state === 'escaped') state = 'in text';
      else if (state === 'in text') {
        if (byte === 0x5c) state = 'escaped';
        else if (byte === 0x22) state = 'outside';
      } else if (byte === 0x22) state = 'in text';
      else if (byte === 0x2c) units++;
      else if (byte === 0x3a) units += unitsPerField;
      else if (byte === 0x5b || byte === 0x7b) {
        units += unitsPerList;
        if (++open > depth) depth = open;
      } else if (byte === 0x5d || byte === 0x7d) open--;
    }
    [this.#units, this.#open, this.#depth, this.#state] = [units, open, depth, state];
  }

  /** Throws 413 for a body of so many values that parsing it would hold everybody else up, 400 for one nested
   *  too deeply. */
  refuse(): void {
    if (this.#depth > depthMax)
      throw new InvalidRequestError(
        `The body has lists or objects in one another more than ${depthMax} deep`,
      );
    if (this.#units <= parseUnitsMax) return;
    const what = `The request body has too many values: about ${parseUnitsMax} token ids, or ${parseUnitsMax / unitsPerField} fields, are the limit`;
    throw new HttpError(413, 'too_large', `${what}. Send prompts as text, or in several requests.`);
  }
}

function decodeUtf8(bytes: Buffer): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw new InvalidRequestError(`The body is not valid UTF-8 (first bad byte at ${firstBadByte(bytes)})`);
  }
}

/** Where decoding stops being lossless: the longest prefix that decodes strictly, found by going through
 *  pieces, then by bisection. */
function firstBadByte(bytes: Buffer): number {
  const isValid = (start: number, end: number) => {
    try {
      new TextDecoder('utf-8', { fatal: true }).decode(bytes.subarray(start, end), { stream: true });
      return true;
    } catch {
      return false;
    }
  };
  let start = 0;
  for (let end = pieceByteCount; end < bytes.length && isValid(start, end); end = start + pieceByteCount)
    start = boundaryBefore(bytes, end);
  let good = start;
  let bad = Math.min(bytes.length, start + pieceByteCount);
  while (bad - good > 1) {
    const middle = (good + bad) >>> 1;
    if (isValid(start, middle)) good = middle;
    else bad = middle;
  }
  return good;
}

const pieceByteCount = 65_536;

/** Where the last character of a valid piece begins. */
function boundaryBefore(bytes: Buffer, end: number): number {
  let start = end - 1;
  while (((bytes[start] ?? 0) & 0xc0) === 0x80) start--;
  return start;
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

/** V8 names the position only in some messages; the longest prefix that merely ends too early is found by
 *  bisection. */
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
    return (
      message.includes('end of JSON input') || Number(/position (\d+)/.exec(message)?.[1]) === prefix.length
    );
  }
}
