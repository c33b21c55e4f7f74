/** A JSON answer of any length, made while it is sent: a large one neither holds the event loop nor is kept
 *  as text until its client has read it. Used by exchange.ts, tokenize.ts and app.ts. */
import type { Clock } from '../base/clock.js';
import { type Outlet, ResponseWriter } from './response-writer.js';

/** A list in an answer whose items are made one by one. It stands in the answer itself or in an object of
 *  one; its items have long lists only if that is said. */
export class LongList<Item> {
  readonly items: () => Iterable<Item>;
  readonly itemForm: 'plain' | 'with lists';

  constructor(items: () => Iterable<Item>, itemForm: 'plain' | 'with lists' = 'plain') {
    this.items = items;
    this.itemForm = itemForm;
  }
}

/** A value in which any list may be a long one. */
export type WithLongLists<Value> = Value extends readonly (infer Item)[]
  ? readonly Item[] | LongList<WithLongLists<Item>>
  : Value extends object
    ? { [Key in keyof Value]: WithLongLists<Value[Key]> }
    : Value;

export function* mapped<Source, Item>(
  source: Iterable<Source>,
  itemOf: (each: Source, index: number) => Item,
): Generator<Item> {
  let index = 0;
  for (const each of source) yield itemOf(each, index++);
}

/** Written at once, with its length before it. */
const unitsPerPiece = 65_536;
const contentType = 'application/json';

/** Resolves when all of it has been written, or the client is gone. What fails after it has begun ends the
 *  connection: half an answer is none. */
export async function sendJson(outlet: Outlet, answer: object, clock: Clock): Promise<void> {
  const writer = new ResponseWriter(outlet, clock);
  try {
    await write(writer, answer);
  } catch (error) {
    if (writer.isOpen) outlet.incoming.socket.destroy();
    throw error;
  }
}

async function write(writer: ResponseWriter, answer: object): Promise<void> {
  let text = '';
  for (const piece of jsonPieces(answer)) {
    text += piece;
    if (text.length < unitsPerPiece) continue;
    if (!writer.isOpen) writer.open({ 'content-type': contentType });
    await writer.write(text);
    if (writer.isClosed) return;
    text = '';
  }
  if (!writer.isOpen) {
    writer.open({ 'content-type': contentType, 'content-length': Buffer.byteLength(text) });
  }
  writer.end(text);
}

/** JSON.stringify's text in pieces. */
export function* jsonPieces(value: unknown): Generator<string> {
  if (value instanceof LongList) yield* listPieces(value);
  else if (typeof value !== 'object' || value === null || Array.isArray(value)) yield plainJson(value);
  else {
    let separator = '{';
    for (const [key, item] of Object.entries(value)) {
      if (item === undefined) continue;
      yield `${separator}${JSON.stringify(key)}:`;
      yield* jsonPieces(item);
      separator = ',';
    }
    yield separator === '{' ? '{}' : '}';
  }
}

function* listPieces({ items, itemForm }: LongList<unknown>): Generator<string> {
  let separator = '[';
  for (const item of items()) {
    if (itemForm === 'plain') yield separator + plainJson(item);
    else {
      yield separator;
      yield* jsonPieces(item);
    }
    separator = ',';
  }
  yield separator === '[' ? '[]' : ']';
}

function plainJson(value: unknown): string {
  return JSON.stringify(value) ?? 'null';
}
