/** Calls that a model writes as text: a marker, a header with the function's name, the arguments as JSON,
 *  an end. What differs between models is CallSyntax (tool-formats.ts). Arguments are passed on as they
 *  come. */
import { type AnswerPart, firstOf, heldLength, type PartReader } from './answer-parts.js';
import { JsonEnd } from './json-end.js';

export interface CallSyntax {
  /** Calls follow; null: a text that begins with "{" is calls. */
  readonly begin: string | null;
  /** From behind the marker (or the end of a call) to the arguments; its group `name` is the function's. */
  readonly header: RegExp;
  /** Behind the arguments. */
  readonly footer: RegExp;
  /** What ends a call that is not as the header says: the text up to it may be JSON all the same; null:
   *  only the text's end does. */
  readonly close: string | null;
  /** What may stand around calls and is no content. */
  readonly filling: RegExp;
  /** Whether another header may follow without a marker. */
  readonly follows: boolean;
}

/** A header is shorter, or it is none. */
const headerLengthMax = 4096;

export class CallReader implements PartReader {
  readonly #syntax: CallSyntax;
  #state: 'text' | 'header' | 'arguments' | 'footer' = 'text';
  #held = '';
  #callCount = 0;
  #hasText = false;
  #json = new JsonEnd();

  constructor(syntax: CallSyntax) {
    this.#syntax = syntax;
  }

  push(text: string): readonly AnswerPart[] {
    this.#held += text;
    const parts: AnswerPart[] = [];
    while (this.#step(parts, false));
    return parts;
  }

  end(): readonly AnswerPart[] {
    const parts: AnswerPart[] = [];
    while (this.#step(parts, true));
    return parts;
  }

  /** Whether it got further. */
  #step(parts: AnswerPart[], isEnd: boolean): boolean {
    if (this.#held === '') return false;
    if (this.#state === 'text') return this.#text(parts, isEnd);
    if (this.#state === 'header') return this.#header(parts, isEnd);
    if (this.#state === 'arguments') return this.#arguments(parts);
    return this.#footer(isEnd);
  }

  #text(parts: AnswerPart[], isEnd: boolean): boolean {
    const { begin } = this.#syntax;
    if (begin === null) {
      const start = this.#held.trimStart();
      if (start === '' && !isEnd) return false;
      if (!this.#hasText && start.startsWith('{')) {
        this.#held = start;
        this.#state = 'header';
        return true;
      }
      return this.#content(parts, this.#held.length);
    }
    const found = firstOf(this.#held, [begin]);
    if (found === null) {
      const held = isEnd ? 0 : heldLength(this.#held, [begin]);
      // white space before a marker is the marker's
      const sure = isEnd ? this.#held.length : this.#held.slice(0, this.#held.length - held).trimEnd().length;
      return this.#content(parts, sure);
    }
    this.#content(parts, this.#held.slice(0, found.at).trimEnd().length);
    this.#held = this.#held.slice(this.#held.indexOf(begin) + begin.length);
    this.#state = 'header';
    return true;
  }

  #content(parts: AnswerPart[], length: number): boolean {
    if (length === 0) return false;
    const text = this.#held.slice(0, length);
    this.#held = this.#held.slice(length);
    if (this.#callCount > 0 && text.trim() === '') return true;
    this.#hasText = true;
    parts.push({ kind: 'content', text });
    return true;
  }

  #header(parts: AnswerPart[], isEnd: boolean): boolean {
    const { header, close } = this.#syntax;
    const found = header.exec(this.#held);
    if (found !== null) {
      const { name = found.groups?.name2 ?? '' } = found.groups ?? {};
      this.#held = this.#held.slice(found[0].length);
      this.#json = new JsonEnd();
      this.#state = 'arguments';
      parts.push({ kind: 'call', index: this.#callCount++, name: unquoted(name), text: '' });
      return true;
    }
    const at = close === null ? -1 : this.#held.indexOf(close);
    if (at < 0 && !isEnd && this.#held.length < headerLengthMax) return false;
    return this.#irregular(parts, at < 0 ? this.#held.length : at, at < 0 ? 0 : (close ?? '').length);
  }

  /** Not as the header says: an object with its members in another order, or no call at all. */
  #irregular(parts: AnswerPart[], length: number, closeLength: number): boolean {
    const text = this.#held.slice(0, length);
    this.#held = this.#held.slice(length + closeLength);
    this.#state = 'text';
    const call = callOf(text);
    if (call === null) {
      const isEmpty = this.#syntax.filling.test(text);
      if (!isEmpty)
        parts.push({
          kind: 'content',
          text: `${this.#callCount === 0 ? (this.#syntax.begin ?? '') : ''}${text}`,
        });
      this.#hasText = true;
      return true;
    }
    parts.push({ kind: 'call', index: this.#callCount++, ...call });
    return true;
  }

  #arguments(parts: AnswerPart[]): boolean {
    const { length, isComplete } = this.#json.push(this.#held);
    parts.push({ kind: 'call', index: this.#callCount - 1, text: this.#held.slice(0, length) });
    this.#held = this.#held.slice(length);
    if (isComplete) this.#state = 'footer';
    return true;
  }

  #footer(isEnd: boolean): boolean {
    const found = this.#syntax.footer.exec(this.#held);
    if (found === null && !isEnd && this.#held.length < headerLengthMax) return false;
    this.#held = this.#held.slice(found?.[0].length ?? this.#held.length);
    this.#state = this.#syntax.follows ? 'header' : 'text';
    return true;
  }
}

function unquoted(name: string): string {
  try {
    return name.startsWith('"') ? String(JSON.parse(name)) : name.trim();
  } catch {
    return name;
  }
}

function callOf(text: string): { name: string; text: string } | null {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== 'object' || value === null) return null;
    const { name, arguments: given, parameters } = value as Readonly<Record<string, unknown>>;
    if (typeof name !== 'string') return null;
    const all = given ?? parameters ?? {};
    return { name, text: typeof all === 'string' ? all : JSON.stringify(all) };
  } catch {
    return null;
  }
}
