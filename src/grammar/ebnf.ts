/** Grammars as clients write them: EBNF with `name ::= …`, as in GBNF and XGrammar. Used by shapes.ts.
 *
 *    root ::= "yes" | "no" rest*        strings, alternatives, rules, * + ? {2} {2,} {2,5}, ( … )
 *    rest ::= [a-z0-9_] | [^\n"]        sets of characters; escapes \n \t \r \\ \" \] \xFF \u00FF \U0001F600
 *    # a remark, to the end of the line */
import { InvalidRequestError } from '../base/errors.js';
import {
  type CharRange,
  chars,
  choice,
  codePointMax,
  complement,
  type Grammar,
  type GrammarNode,
  repeat,
  rule,
  sequence,
  text,
} from './grammar.js';

const lengthMax = 2 ** 18;
const depthMax = 100;
const repeatMax = 100_000;
const namePattern = /[A-Za-z_][A-Za-z0-9_.-]*/y;
const namedEscapes: Readonly<Record<string, number>> = { n: 10, r: 13, t: 9, '0': 0 };

/** Its root is the rule "root". @throws InvalidRequestError with the line of what is wrong. */
export function parseEbnf(source: string, param: string): Grammar {
  return new EbnfParser(source, param).parse();
}

class EbnfParser {
  readonly #source: string;
  readonly #param: string;
  #place = 0;
  #depth = 0;

  constructor(source: string, param: string) {
    this.#source = source;
    this.#param = param;
    if (source.length > lengthMax) this.#refuse(`longer than ${lengthMax} characters`);
  }

  parse(): Grammar {
    const rules = new Map<string, GrammarNode>();
    for (this.#skip(); this.#place < this.#source.length; this.#skip()) {
      const name = this.#name() ?? this.#refuse('a rule begins with its name and "::="');
      this.#skip();
      if (!this.#takes('::=')) this.#refuse(`"::=" is missing after "${name}"`);
      if (rules.has(`u-${name}`)) this.#refuse(`rule "${name}" is there twice`);
      rules.set(`u-${name}`, this.#alternatives());
    }
    if (!rules.has('u-root')) this.#refuse('there is no rule "root"');
    return { root: rule('u-root'), rules: Object.fromEntries(rules) };
  }

  #refuse(what: string): never {
    const line = this.#source.slice(0, this.#place).split('\n').length;
    throw new InvalidRequestError(`${this.#param}: line ${line}: ${what}`, this.#param);
  }

  /** White space and remarks. */
  #skip(): void {
    const blank = /(?:\s|#[^\n]*)*/y;
    blank.lastIndex = this.#place;
    this.#place += blank.exec(this.#source)?.[0].length ?? 0;
  }

  #takes(word: string): boolean {
    if (!this.#source.startsWith(word, this.#place)) return false;
    this.#place += word.length;
    return true;
  }

  #name(): string | null {
    namePattern.lastIndex = this.#place;
    const found = namePattern.exec(this.#source)?.[0] ?? null;
    this.#place += found?.length ?? 0;
    return found;
  }

  #alternatives(): GrammarNode {
    if (this.#depth++ > depthMax) this.#refuse('nested too deep');
    const items = [this.#terms()];
    for (this.#skip(); this.#takes('|'); this.#skip()) items.push(this.#terms());
    this.#depth--;
    return items.length === 1 && items[0] !== undefined ? items[0] : choice(...items);
  }

  #terms(): GrammarNode {
    const items: GrammarNode[] = [];
    for (;;) {
      this.#skip();
      const next = this.#source[this.#place];
      if (next === undefined || next === '|' || next === ')' || this.#isRuleStart()) break;
      items.push(this.#repeated());
    }
    return items.length === 1 && items[0] !== undefined ? items[0] : sequence(...items);
  }

  #isRuleStart(): boolean {
    const start = /[A-Za-z_][A-Za-z0-9_.-]*(?:\s|#[^\n]*)*::=/y;
    start.lastIndex = this.#place;
    return start.test(this.#source);
  }

  #repeated(): GrammarNode {
    let item = this.#atom();
    for (;;) {
      if (this.#takes('*')) item = repeat(item, 0, null);
      else if (this.#takes('+')) item = repeat(item, 1, null);
      else if (this.#takes('?')) item = repeat(item, 0, 1);
      else if (this.#source[this.#place] === '{') item = this.#counted(item);
      else return item;
      if (this.#depth++ > depthMax) this.#refuse('nested too deep');
    }
  }

  #counted(item: GrammarNode): GrammarNode {
    const form = /\{\s*(\d{1,9})\s*(,\s*(\d{1,9})?\s*)?\}/y;
    form.lastIndex = this.#place;
    const found = form.exec(this.#source) ?? this.#refuse('a repetition is {2}, {2,} or {2,5}');
    const min = Number(found[1]);
    const max = found[2] === undefined ? min : found[3] === undefined ? null : Number(found[3]);
    if (min > repeatMax || (max ?? 0) > repeatMax || (max !== null && max < min))
      this.#refuse(`${found[0]} cannot be enforced`);
    this.#place += found[0].length;
    return repeat(item, min, max);
  }

  #atom(): GrammarNode {
    if (this.#takes('"')) return this.#string('"');
    if (this.#takes("'")) return this.#string("'");
    if (this.#takes('[')) return this.#set();
    if (this.#takes('(')) {
      const inner = this.#alternatives();
      this.#skip();
      if (!this.#takes(')')) this.#refuse('")" is missing');
      return inner;
    }
    if (this.#takes('.')) return chars([0, codePointMax]);
    const name = this.#name();
    return name === null
      ? this.#refuse(`"${this.#source[this.#place]}" is not expected here`)
      : rule(`u-${name}`);
  }

  #string(quote: string): GrammarNode {
    let value = '';
    while (!this.#takes(quote)) value += String.fromCodePoint(this.#character('a string'));
    return text(value);
  }

  #set(): GrammarNode {
    const isNegated = this.#takes('^');
    const ranges: CharRange[] = [];
    while (!this.#takes(']')) {
      const first = this.#character('a set');
      const hasRange = this.#source[this.#place] === '-' && this.#source[this.#place + 1] !== ']';
      if (hasRange) this.#place++;
      const last = hasRange ? this.#character('a set') : first;
      if (last < first) this.#refuse('a range of characters that is none');
      ranges.push([first, last]);
    }
    return chars(...(isNegated ? complement(ranges) : ranges));
  }

  #character(where: string): number {
    const codePoint = this.#source.codePointAt(this.#place);
    if (codePoint === undefined || codePoint === 10) return this.#refuse(`${where} without its end`);
    this.#place += codePoint > 0xffff ? 2 : 1;
    if (codePoint !== 0x5c) return codePoint;
    const letter = this.#source[this.#place] ?? this.#refuse(`${where} without its end`);
    this.#place++;
    const digitCount = letter === 'x' ? 2 : letter === 'u' ? 4 : letter === 'U' ? 8 : 0;
    if (digitCount === 0)
      return Object.hasOwn(namedEscapes, letter) ? (namedEscapes[letter] ?? 0) : (letter.codePointAt(0) ?? 0);
    const digits = this.#source.slice(this.#place, this.#place + digitCount);
    const value =
      /^[0-9A-Fa-f]+$/.test(digits) && digits.length === digitCount
        ? Number.parseInt(digits, 16)
        : Number.NaN;
    if (!(value <= codePointMax) || (value >= 0xd800 && value <= 0xdfff))
      this.#refuse(`\\${letter} needs ${digitCount} digits of a character`);
    this.#place += digitCount;
    return value;
  }
}
