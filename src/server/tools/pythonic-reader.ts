/** Calls as Python writes them: `[get_weather(city="Paris", days=3), now()]`. A call is passed on when it
 *  is complete. */
import type { AnswerPart, PartReader } from './answer-parts.js';

export class PythonicReader implements PartReader {
  #held = '';
  #isText = false;

  push(text: string): readonly AnswerPart[] {
    this.#held += text;
    const start = this.#held.trimStart();
    if (!this.#isText && start !== '' && !/^\[\s*($|[A-Za-z_])/.test(start)) this.#isText = true;
    return this.#isText ? this.#content() : [];
  }

  end(): readonly AnswerPart[] {
    const calls = this.#isText ? null : callsOf(this.#held.trim());
    if (calls === null) return this.#content();
    return calls.map(({ name, values }, index) => ({
      kind: 'call',
      index,
      name,
      text: JSON.stringify(values),
    }));
  }

  #content(): readonly AnswerPart[] {
    const text = this.#held;
    this.#held = '';
    return text === '' ? [] : [{ kind: 'content', text }];
  }
}

interface Call {
  readonly name: string;
  readonly values: Readonly<Record<string, unknown>>;
}

function callsOf(text: string): readonly Call[] | null {
  try {
    return new PythonParser(text).calls();
  } catch {
    return null;
  }
}

const escapes: Readonly<Record<string, string>> = {
  n: '\n',
  t: '\t',
  r: '\r',
  b: '\b',
  f: '\f',
  '\\': '\\',
  '"': '"',
  "'": "'",
};

class PythonParser {
  readonly #text: string;
  #place = 0;

  constructor(text: string) {
    this.#text = text;
  }

  calls(): readonly Call[] {
    const calls = this.#list('[', ']', () => this.#call());
    if (this.#place < this.#text.length || calls.length === 0) throw new SyntaxError('more than calls');
    return calls;
  }

  #call(): Call {
    const name = this.#match(/[A-Za-z_][\w.]*/y);
    const entries = this.#list('(', ')', () => {
      const key = this.#match(/[A-Za-z_]\w*/y);
      this.#expect('=');
      return [key, this.#value(0)] as const;
    });
    return { name, values: Object.fromEntries(entries) };
  }

  #list<T>(open: string, close: string, item: () => T): T[] {
    this.#expect(open);
    const items: T[] = [];
    while (!this.#takes(close)) {
      items.push(item());
      if (!this.#takes(',')) {
        this.#expect(close);
        break;
      }
    }
    return items;
  }

  #value(depth: number): unknown {
    this.#skip();
    const next = this.#text[this.#place];
    if (depth > 64) throw new SyntaxError('too deep');
    if (next === '[') return this.#list('[', ']', () => this.#value(depth + 1));
    if (next === '(') return this.#list('(', ')', () => this.#value(depth + 1));
    if (next === '{') {
      const entries = this.#list('{', '}', () => {
        const key = this.#value(depth + 1);
        this.#expect(':');
        return [String(key), this.#value(depth + 1)] as const;
      });
      return Object.fromEntries(entries);
    }
    if (next === '"' || next === "'") return this.#string(next);
    const word = this.#match(/[\w.+-]+/y);
    const words: Readonly<Record<string, unknown>> = {
      True: true,
      true: true,
      False: false,
      false: false,
      None: null,
      null: null,
    };
    if (Object.hasOwn(words, word)) return words[word];
    const number = Number(word);
    if (Number.isNaN(number)) throw new SyntaxError('no literal');
    return number;
  }

  #string(quote: string): string {
    const literal = this.#match(quote === '"' ? /"(?:[^"\\]|\\[\s\S])*"/y : /'(?:[^'\\]|\\[\s\S])*'/y);
    return literal
      .slice(1, -1)
      .replace(/\\(u[0-9A-Fa-f]{4}|x[0-9A-Fa-f]{2}|[\s\S])/g, (whole, escaped: string) => {
        if (escaped.length > 1) return String.fromCharCode(Number.parseInt(escaped.slice(1), 16));
        return escapes[escaped] ?? (escaped === '\n' ? '' : whole);
      });
  }

  #skip(): void {
    while (/\s/.test(this.#text[this.#place] ?? '')) this.#place++;
  }

  #takes(word: string): boolean {
    this.#skip();
    if (!this.#text.startsWith(word, this.#place)) return false;
    this.#place += word.length;
    return true;
  }

  #expect(word: string): void {
    if (!this.#takes(word)) throw new SyntaxError(`${word} is missing`);
  }

  #match(form: RegExp): string {
    this.#skip();
    form.lastIndex = this.#place;
    const found = form.exec(this.#text)?.[0];
    if (found === undefined) throw new SyntaxError('not expected');
    this.#place += found.length;
    return found;
  }
}
