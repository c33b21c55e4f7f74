/** Regular expressions (JavaScript's, as JSON Schema has them) as grammar. What no automaton can do
 *  (look-around, back-references) and anchors in the middle are refused by name. Used by json-strings.ts
 *  and shapes.ts. */
import { InvalidRequestError } from '../base/errors.js';
import { type CharRange, codePointMax, complement, type GrammarNode, nothing } from './grammar.js';

interface RegexOptions {
  /** How a set of characters is spelt in the text: as it is, or as a JSON string has it. */
  readonly spell: (ranges: readonly CharRange[]) => GrammarNode;
  /** pattern: somewhere in the text, unless anchored, as JSON Schema says. whole: all of it. */
  readonly match: 'whole' | 'pattern';
  readonly param: string;
}

const repeatMax = 100_000;
const lengthMax = 16_384;
const depthMax = 100;

export function regexNode(pattern: string, options: RegexOptions): GrammarNode {
  return new RegexParser(pattern, options).parse();
}

const digits: readonly CharRange[] = [[0x30, 0x39]];
const word: readonly CharRange[] = [
  [0x30, 0x39],
  [0x41, 0x5a],
  [0x5f, 0x5f],
  [0x61, 0x7a],
];
const space: readonly CharRange[] = [
  ...([
    [0x09, 0x0d],
    [0x20, 0x20],
    [0xa0, 0xa0],
    [0x1680, 0x1680],
    [0x2000, 0x200a],
    [0x2028, 0x2029],
  ] as const),
  ...([
    [0x202f, 0x202f],
    [0x205f, 0x205f],
    [0x3000, 0x3000],
    [0xfeff, 0xfeff],
  ] as const),
];
const lineEnds: readonly CharRange[] = [
  [0x0a, 0x0a],
  [0x0d, 0x0d],
  [0x2028, 0x2029],
];
const anything: readonly CharRange[] = [[0, codePointMax]];

const classOf: Readonly<Record<string, readonly CharRange[]>> = {
  d: digits,
  D: complement(digits),
  w: word,
  W: complement(word),
  s: space,
  S: complement(space),
};
const controlOf: Readonly<Record<string, number>> = { n: 10, r: 13, t: 9, f: 12, v: 11, 0: 0 };

class RegexParser {
  readonly #characters: readonly string[];
  readonly #options: RegexOptions;
  #place = 0;
  #depth = 0;

  constructor(pattern: string, options: RegexOptions) {
    this.#options = options;
    if (pattern.length > lengthMax) this.#refuse(`longer than ${lengthMax} characters`);
    this.#characters = [...pattern];
  }

  parse(): GrammarNode {
    const node = this.#alternatives('top');
    if (this.#place < this.#characters.length) this.#refuse(`"${this.#next}" without its opening`);
    return node;
  }

  get #next(): string | undefined {
    return this.#characters[this.#place];
  }

  #takes(text: string): boolean {
    if (this.#characters.slice(this.#place, this.#place + text.length).join('') !== text) return false;
    this.#place += text.length;
    return true;
  }

  #refuse(what: string): never {
    const { param } = this.#options;
    throw new InvalidRequestError(
      `${param}: the pattern cannot be enforced: ${what} (at character ${this.#place})`,
      param,
    );
  }

  #alternatives(level: 'top' | 'group'): GrammarNode {
    if (this.#depth++ > depthMax) this.#refuse('nested too deep');
    const items = [this.#terms(level)];
    while (this.#takes('|')) items.push(this.#terms(level));
    this.#depth--;
    return items.length === 1 ? (items[0] ?? nothing) : { kind: 'choice', items };
  }

  /** Anchors stand at the ends of an alternative of the whole pattern. */
  #terms(level: 'top' | 'group'): GrammarNode {
    const items: GrammarNode[] = [];
    const isAnchored = this.#takes('^');
    if (isAnchored && level !== 'top') this.#refuse('"^" within a group');
    while (this.#takes('^'));
    let isEnded = false;
    while (this.#next !== undefined && this.#next !== '|' && this.#next !== ')') {
      if (this.#takes('$')) {
        isEnded = true;
        if (level !== 'top') this.#refuse('"$" within a group');
        if (this.#next !== undefined && this.#next !== '|' && this.#next !== '$')
          this.#refuse('"$" before the end');
        continue;
      }
      items.push(this.#repeated());
    }
    if (level === 'top' && this.#options.match === 'pattern') {
      const any: GrammarNode = { kind: 'repeat', item: this.#options.spell(anything), min: 0, max: null };
      if (!isAnchored) items.unshift(any);
      if (!isEnded) items.push(any);
    }
    return items.length === 1 ? (items[0] ?? nothing) : { kind: 'sequence', items };
  }

  #repeated(): GrammarNode {
    let item = this.#atom();
    for (let count = 0; ; count++) {
      const times = this.#times();
      if (times === null) return item;
      if (count > 0) this.#refuse('a repetition of a repetition');
      this.#takes('?'); // lazy or not, the texts are the same
      item = { kind: 'repeat', item, ...times };
    }
  }

  #times(): { min: number; max: number | null } | null {
    if (this.#takes('*')) return { min: 0, max: null };
    if (this.#takes('+')) return { min: 1, max: null };
    if (this.#takes('?')) return { min: 0, max: 1 };
    if (this.#next !== '{') return null;
    const found = /^\{(\d{1,9})(,(\d{1,9})?)?\}/.exec(
      this.#characters.slice(this.#place, this.#place + 24).join(''),
    );
    if (found === null) return this.#refuse('"{" that begins no repetition: write \\{');
    this.#place += found[0].length;
    const min = Number(found[1]);
    const max = found[2] === undefined ? min : found[3] === undefined ? null : Number(found[3]);
    if (max !== null && max < min) this.#refuse(`{${min},${max}}`);
    if (min > repeatMax || (max ?? 0) > repeatMax) this.#refuse(`more than ${repeatMax} times`);
    return { min, max };
  }

  #atom(): GrammarNode {
    const character = this.#next;
    if (this.#takes('(')) return this.#group();
    if (this.#takes('[')) return this.#options.spell(this.#set());
    if (this.#takes('.')) return this.#options.spell(complement(lineEnds));
    if (this.#takes('\\')) return this.#options.spell(this.#escape('outside'));
    if (character === '^') this.#refuse('"^" after the beginning');
    if (character === undefined || '*+?{'.includes(character))
      this.#refuse(`"${character ?? ''}" with nothing to repeat`);
    this.#place++;
    return this.#options.spell(one(character));
  }

  #group(): GrammarNode {
    if (this.#takes('?')) {
      const isNamed = /^<[A-Za-z_$][\w$]*>/.exec(
        this.#characters.slice(this.#place, this.#place + 100).join(''),
      );
      if (isNamed !== null) this.#place += isNamed[0].length;
      else if (!this.#takes(':'))
        this.#refuse(
          this.#next === '=' || this.#next === '!' || this.#next === '<'
            ? 'look-around'
            : `"(?${this.#next ?? ''}"`,
        );
    }
    const node = this.#alternatives('group');
    if (!this.#takes(')')) this.#refuse('a group without its end');
    return node;
  }

  #escape(where: 'outside' | 'set'): readonly CharRange[] {
    const character = this.#next ?? this.#refuse('"\\" at the end');
    this.#place++;
    const known = Object.hasOwn(classOf, character) ? classOf[character] : undefined;
    if (known !== undefined) return known;
    if (character === 'b' && where === 'set') return one('\b');
    if (/[1-9]/.test(character)) this.#refuse('a back-reference');
    if (character === 'b' || character === 'B') this.#refuse('a word boundary');
    if (character === 'k' || character === 'p' || character === 'P') this.#refuse(`\\${character}`);
    if (Object.hasOwn(controlOf, character)) return one(String.fromCodePoint(controlOf[character] ?? 0));
    if (character === 'c') this.#refuse('\\c');
    if (character === 'x') return this.#hex(/^[0-9A-Fa-f]{2}/);
    if (character === 'u')
      return this.#next === '{' ? this.#hex(/^\{[0-9A-Fa-f]{1,6}\}/) : this.#hex(/^[0-9A-Fa-f]{4}/);
    return one(character);
  }

  #hex(form: RegExp): readonly CharRange[] {
    const found = form.exec(this.#characters.slice(this.#place, this.#place + 8).join(''));
    if (found === null) return this.#refuse('an escape without its digits');
    this.#place += found[0].length;
    const codePoint = Number.parseInt(found[0].replace(/[{}]/g, ''), 16);
    if (codePoint > codePointMax || (codePoint >= 0xd800 && codePoint <= 0xdfff))
      this.#refuse('half a character');
    return [[codePoint, codePoint]];
  }

  #set(): readonly CharRange[] {
    const isNegated = this.#takes('^');
    const ranges: CharRange[] = [];
    while (!this.#takes(']')) {
      if (this.#next === undefined) this.#refuse('"[" without its end');
      const first = this.#setItem();
      const hasRange =
        this.#next === '-' &&
        this.#characters[this.#place + 1] !== ']' &&
        this.#characters[this.#place + 1] !== undefined;
      if (!hasRange) {
        ranges.push(...first);
        continue;
      }
      this.#place++;
      const last = this.#setItem();
      const [from, to] = [first[0]?.[0] ?? 0, last[0]?.[1] ?? 0];
      if (first.length !== 1 || last.length !== 1 || first[0]?.[0] !== first[0]?.[1] || from > to)
        this.#refuse('a range that is none');
      ranges.push([from, to]);
    }
    return isNegated ? complement(ranges) : ranges;
  }

  #setItem(): readonly CharRange[] {
    if (this.#takes('\\')) return this.#escape('set');
    const character = this.#next ?? this.#refuse('"[" without its end');
    this.#place++;
    return one(character);
  }
}

function one(character: string): readonly CharRange[] {
  const codePoint = character.codePointAt(0) ?? 0;
  return [[codePoint, codePoint]];
}
