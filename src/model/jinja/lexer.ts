/** A template's source → text and tokens, with white space taken off as trim_blocks, lstrip_blocks and the
 *  signs in tags say. Used by parser.ts; follows jinja2's lexer. */
import { TemplateError } from './values.js';

export type Token =
  | { readonly kind: 'text' | 'string' | 'name' | 'operator'; readonly text: string; readonly line: number }
  | { readonly kind: 'integer'; readonly value: bigint; readonly text: string; readonly line: number }
  | { readonly kind: 'float'; readonly value: number; readonly text: string; readonly line: number }
  | { readonly kind: 'begin' | 'end'; readonly text: 'block' | 'variable'; readonly line: number };

export class TemplateSyntaxError extends TemplateError {
  constructor(message: string, line: number) {
    super(`${message} (line ${line})`);
  }
}

const closers = { '{%': 'block', '{{': 'variable', '{#': 'comment' } as const;
const operators = /\*\*|\/\/|==|!=|>=|<=|[-+/*%~[\](){}><=.:|,;]/y;
const names = /[\p{L}\p{Nl}_][\p{L}\p{Nl}\p{Mn}\p{Mc}\p{Nd}\p{Pc}_]*/uy;
const floats = /(?:\d+_)*\d+(?:(?:\.(?:\d+_)*\d+)?e[+-]?(?:\d+_)*\d+|\.(?:\d+_)*\d+)/iy;
const integers = /0b(?:_?[01])+|0o(?:_?[0-7])+|0x(?:_?[\da-f])+|(?:0|[1-9])(?:_?\d)*/iy;
const strings = /'[^'\\]*(?:\\[\s\S][^'\\]*)*'|"[^"\\]*(?:\\[\s\S][^"\\]*)*"/y;
const rawBegins = /\{%[-+]?\s*raw\s*(?:-%\}\s*|%\})/y;
const rawEnds = /\{%([-+]?)\s*endraw\s*(?:\+%\}|-%\}\s*|%\}\n?)/g;

export function tokenize(source: string): Token[] {
  return new Lexer(source.replace(/\r\n|\r/g, '\n').replace(/\n$/, '')).run();
}

class Lexer {
  readonly #source: string;
  readonly #tokens: Token[] = [];
  #at = 0;
  /** Whether what comes next begins a line, for lstrip_blocks. */
  #isLineStart = true;

  constructor(source: string) {
    this.#source = source;
  }

  run(): Token[] {
    const opening = /\{[%{#]/g;
    for (;;) {
      opening.lastIndex = this.#at;
      const found = opening.exec(this.#source);
      if (found === null) break;
      this.#tag(found[0] as keyof typeof closers, found.index);
    }
    this.#text(this.#source.slice(this.#at));
    return this.#tokens;
  }

  #tag(opener: keyof typeof closers, start: number): void {
    const raw = opener === '{%' ? this.#match(rawBegins, start) : null;
    const sign = /[-+]/.test(this.#source[start + 2] ?? '') ? (this.#source[start + 2] ?? '') : '';
    this.#text(this.#stripped(this.#source.slice(this.#at, start), sign, opener));
    if (raw !== null) {
      this.#raw(start + raw.length);
      return;
    }
    this.#isLineStart = false;
    this.#at = start + 2 + sign.length;
    const kind = closers[opener];
    if (kind === 'comment') {
      this.#comment(start);
      return;
    }
    this.#push({ kind: 'begin', text: kind, line: this.#line(start) });
    this.#expression(kind, start);
  }

  #stripped(text: string, sign: string, opener: string): string {
    if (sign === '-') return text.trimEnd();
    if (sign === '+' || opener === '{{') return text;
    const lineStart = text.lastIndexOf('\n') + 1;
    if (lineStart === 0 && !this.#isLineStart) return text;
    return text.slice(lineStart).trim() === '' ? text.slice(0, lineStart) : text;
  }

  #raw(bodyStart: number): void {
    rawEnds.lastIndex = bodyStart;
    const end = rawEnds.exec(this.#source);
    if (end === null) throw new TemplateSyntaxError('Missing end of raw directive', this.#line(bodyStart));
    this.#isLineStart = this.#source[bodyStart - 1] === '\n';
    this.#text(this.#stripped(this.#source.slice(bodyStart, end.index), end[1] ?? '', '{%'));
    this.#leave(end.index + end[0].length);
  }

  #comment(start: number): void {
    const end = this.#source.indexOf('#}', this.#at);
    if (end < 0) throw new TemplateSyntaxError('Missing end of comment tag', this.#line(start));
    this.#close(end, this.#source[end - 1] ?? '', true);
  }

  /** Behind a tag that closes at `end`, with the sign before it. */
  #close(end: number, sign: string, trimsNewline: boolean): void {
    let next = end + 2;
    if (sign === '-') next += this.#source.slice(next).length - this.#source.slice(next).trimStart().length;
    else if (sign !== '+' && trimsNewline && this.#source[next] === '\n') next++;
    this.#leave(next);
  }

  #leave(next: number): void {
    this.#at = next;
    this.#isLineStart = this.#source[next - 1] === '\n';
  }

  #expression(kind: 'block' | 'variable', start: number): void {
    const closer = kind === 'block' ? '%}' : '}}';
    const open: string[] = [];
    for (;;) {
      const space = this.#match(/\s+/y, this.#at);
      this.#at += space?.length ?? 0;
      if (this.#at >= this.#source.length)
        throw new TemplateSyntaxError('unexpected end of template', this.#line(start));
      if (open.length === 0) {
        const sign = /[-+]/.test(this.#source[this.#at] ?? '') ? (this.#source[this.#at] ?? '') : '';
        const isClosed =
          this.#source.startsWith(closer, this.#at + sign.length) && !(sign === '+' && kind === 'variable');
        if (isClosed) {
          this.#push({ kind: 'end', text: kind, line: this.#line(this.#at) });
          this.#close(this.#at + sign.length, sign, kind === 'block');
          return;
        }
      }
      this.#push(this.#next(open));
    }
  }

  #next(open: string[]): Token {
    const line = this.#line(this.#at);
    const take = (pattern: RegExp): string | null => {
      const text = this.#match(pattern, this.#at);
      this.#at += text?.length ?? 0;
      return text;
    };
    const isAfterDot = this.#source[this.#at - 1] === '.';
    let text = isAfterDot ? null : take(floats);
    if (text !== null) return { kind: 'float', value: Number(text.replaceAll('_', '')), text, line };
    text = take(integers);
    if (text !== null) return { kind: 'integer', value: BigInt(text.replaceAll('_', '')), text, line };
    text = take(names);
    if (text !== null) return { kind: 'name', text, line };
    text = take(strings);
    if (text !== null) return { kind: 'string', text: unescaped(text.slice(1, -1)), line };
    text = take(operators);
    if (text === null) throw new TemplateSyntaxError(`unexpected char '${this.#source[this.#at]}'`, line);
    if ('([{'.includes(text)) open.push(text);
    else if (')]}'.includes(text) && '([{'.indexOf(open.pop() ?? ' ') !== ')]}'.indexOf(text)) {
      throw new TemplateSyntaxError(`unexpected '${text}'`, line);
    }
    return { kind: 'operator', text, line };
  }

  #match(pattern: RegExp, at: number): string | null {
    pattern.lastIndex = at;
    return pattern.exec(this.#source)?.[0] ?? null;
  }

  #text(text: string): void {
    if (text !== '') this.#push({ kind: 'text', text, line: this.#line(this.#at) });
  }

  #push(token: Token): void {
    this.#tokens.push(token);
  }

  #line(at: number): number {
    while (this.#lineAt < at) if (this.#source[this.#lineAt++] === '\n') this.#lineCount++;
    return this.#lineCount;
  }
  #lineAt = 0;
  #lineCount = 1;
}

const simpleEscapes: Readonly<Record<string, string>> = {
  '\n': '',
  '\\': '\\',
  "'": "'",
  '"': '"',
  a: '\x07',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
  v: '\v',
};

/** As Python reads a literal; an escape it does not know stays as it is. */
function unescaped(body: string): string {
  const pattern = /\\(?:x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|([0-7]{1,3})|([\s\S]))/g;
  return body.replace(pattern, (whole, ...[x, u, long, octal, single]: (string | undefined)[]) => {
    const hex = x ?? u ?? long;
    if (hex !== undefined) return String.fromCodePoint(Number.parseInt(hex, 16));
    if (octal !== undefined) return String.fromCodePoint(Number.parseInt(octal, 8));
    return simpleEscapes[single ?? ''] ?? whole;
  });
}
