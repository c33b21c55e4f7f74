/** Tokens → expressions, with jinja2's precedence: if, or, and, not, comparisons, + -, ~, * / // %, **,
 *  unary, postfix. Extended by parser.ts. */
import { TemplateSyntaxError, type Token } from './lexer.js';
import type { Call, Expression } from './nodes.js';

const noArguments: Call = { positional: [], named: [], star: null, doubleStar: null };
const comparisons = new Set(['==', '!=', '<', '<=', '>', '>=']);
const constants = new Map([
  ...(['true', 'True'].map((name) => [name, true]) as [string, true][]),
  ...(['false', 'False'].map((name) => [name, false]) as [string, false][]),
  ...(['none', 'None'].map((name) => [name, null]) as [string, null][]),
]);
/** Deep enough for any template that people write, and far from the end of the stack. */
const depthMax = 200;

export class ExpressionParser {
  protected readonly tokens: readonly Token[];
  protected at = 0;
  /** Every name read since the outermost macro began, for its varargs, kwargs and caller. */
  protected readonly namesRead: string[] = [];
  #depth = 0;

  constructor(tokens: readonly Token[]) {
    this.tokens = tokens;
  }

  protected get current(): Token | undefined {
    return this.tokens[this.at];
  }

  protected is(kind: Token['kind'], text?: string): boolean {
    const token = this.current;
    return token !== undefined && token.kind === kind && (text === undefined || token.text === text);
  }

  protected skip(kind: Token['kind'], text: string): boolean {
    if (!this.is(kind, text)) return false;
    this.at++;
    return true;
  }

  protected expect(kind: Token['kind'], text?: string): Token {
    const token = this.current;
    if (token === undefined || !this.is(kind, text))
      return this.fail(`expected ${text ?? kind}, got ${this.described()}`);
    this.at++;
    return token;
  }

  protected fail(message: string): never {
    throw new TemplateSyntaxError(message, this.current?.line ?? this.tokens.at(-1)?.line ?? 1);
  }

  protected described(): string {
    const token = this.current;
    if (token === undefined) return 'the end of the template';
    return token.kind === 'end' ? 'the end of the tag' : `'${token.text}'`;
  }

  protected deeper<T>(parse: () => T): T {
    if (++this.#depth > depthMax) this.fail('nested too deeply');
    const result = parse();
    this.#depth--;
    return result;
  }

  /** `a if b else c`. */
  expression(): Expression {
    return this.deeper(() => {
      let then = this.or();
      while (this.skip('name', 'if')) {
        const test = this.or();
        then = { kind: 'if', test, then, else: this.skip('name', 'else') ? this.expression() : null };
      }
      return then;
    });
  }

  protected or(): Expression {
    let left = this.#and();
    while (this.skip('name', 'or')) left = { kind: 'binary', operator: 'or', left, right: this.#and() };
    return left;
  }

  #and(): Expression {
    let left = this.#not();
    while (this.skip('name', 'and')) left = { kind: 'binary', operator: 'and', left, right: this.#not() };
    return left;
  }

  #not(): Expression {
    if (!this.skip('name', 'not')) return this.#comparison();
    return { kind: 'unary', operator: 'not', of: this.deeper(() => this.#not()) };
  }

  #comparison(): Expression {
    const first = this.#sum();
    const rest: [string, Expression][] = [];
    for (;;) {
      const token = this.current;
      const next = this.tokens[this.at + 1];
      if (token?.kind === 'operator' && comparisons.has(token.text)) {
        this.at++;
        rest.push([token.text, this.#sum()]);
      } else if (this.skip('name', 'in')) {
        rest.push(['in', this.#sum()]);
      } else if (this.is('name', 'not') && next?.kind === 'name' && next.text === 'in') {
        this.at += 2;
        rest.push(['not in', this.#sum()]);
      } else {
        return rest.length === 0 ? first : { kind: 'compare', first, rest };
      }
    }
  }

  #sum(): Expression {
    return this.#binary(['+', '-'], () => this.#concat());
  }

  #concat(): Expression {
    const items = [this.#product()];
    while (this.skip('operator', '~')) items.push(this.#product());
    const [only] = items;
    return items.length === 1 && only !== undefined ? only : { kind: 'concat', items };
  }

  #product(): Expression {
    return this.#binary(['*', '/', '//', '%'], () => this.#binary(['**'], () => this.#unary(true)));
  }

  #binary(operators: readonly string[], operand: () => Expression): Expression {
    let left = operand();
    for (;;) {
      const token = this.current;
      if (token?.kind !== 'operator' || !operators.includes(token.text)) return left;
      this.at++;
      left = { kind: 'binary', operator: token.text, left, right: operand() };
    }
  }

  #unary(takesFilters: boolean): Expression {
    const sign = this.is('operator', '-') ? '-' : this.is('operator', '+') ? '+' : null;
    let node: Expression;
    if (sign !== null) {
      this.at++;
      node = { kind: 'unary', operator: sign, of: this.deeper(() => this.#unary(false)) };
    } else {
      node = this.#primary();
    }
    node = this.#postfix(node);
    return takesFilters ? this.#filtersAndTests(node) : node;
  }

  #primary(): Expression {
    const token = this.current;
    if (token === undefined || token.kind === 'end') return this.fail('expected an expression');
    if (token.kind === 'integer' || token.kind === 'float') {
      this.at++;
      return { kind: 'constant', value: token.value };
    }
    if (token.kind === 'name') {
      this.at++;
      const constant = constants.get(token.text);
      if (constant !== undefined) return { kind: 'constant', value: constant };
      this.namesRead.push(token.text);
      return { kind: 'name', name: token.text };
    }
    if (token.kind === 'string') {
      let value = '';
      while (this.is('string')) value += this.expect('string').text;
      return { kind: 'constant', value };
    }
    if (this.skip('operator', '(')) {
      const inner = this.tuple({ isParenthesised: true });
      this.expect('operator', ')');
      return inner;
    }
    if (this.skip('operator', '[')) return { kind: 'list', items: this.#items(']') };
    if (this.skip('operator', '{')) return this.#dict();
    return this.fail(`expected an expression, got ${this.described()}`);
  }

  #items(closer: string): Expression[] {
    const items: Expression[] = [];
    while (!this.is('operator', closer)) {
      if (items.length > 0) this.expect('operator', ',');
      if (this.is('operator', closer)) break;
      items.push(this.expression());
    }
    this.expect('operator', closer);
    return items;
  }

  #dict(): Expression {
    const entries: [Expression, Expression][] = [];
    while (!this.is('operator', '}')) {
      if (entries.length > 0) this.expect('operator', ',');
      if (this.is('operator', '}')) break;
      const key = this.expression();
      this.expect('operator', ':');
      entries.push([key, this.expression()]);
    }
    this.expect('operator', '}');
    return { kind: 'dict', entries };
  }

  /** One expression, or several with commas between. `endsAt`: a name that ends it. */
  tuple(options: { isParenthesised?: boolean; withoutIf?: boolean; endsAt?: string } = {}): Expression {
    const items: Expression[] = [];
    let isTuple = false;
    while (
      !(
        this.is('end') ||
        this.is('operator', ')') ||
        (options.endsAt !== undefined && this.is('name', options.endsAt))
      )
    ) {
      items.push(options.withoutIf === true ? this.or() : this.expression());
      if (!this.skip('operator', ',')) break;
      isTuple = true;
    }
    const [only] = items;
    if (!isTuple && only !== undefined) return only;
    if (!isTuple && options.isParenthesised !== true)
      this.fail(`expected an expression, got ${this.described()}`);
    return { kind: 'tuple', items };
  }

  #postfix(start: Expression): Expression {
    let node = start;
    for (;;) {
      if (this.skip('operator', '.')) node = this.#dotted(node);
      else if (this.skip('operator', '[')) node = { kind: 'item', of: node, key: this.#subscript() };
      else if (this.is('operator', '(')) node = { kind: 'call', of: node, call: this.call() };
      else return node;
    }
  }

  #dotted(of: Expression): Expression {
    const token = this.current;
    if (token?.kind !== 'integer') return { kind: 'attribute', of, name: this.expect('name').text };
    this.at++;
    return { kind: 'item', of, key: { kind: 'constant', value: token.value } };
  }

  #subscript(): Expression {
    const items: Expression[] = [];
    do items.push(this.#subscriptItem());
    while (this.skip('operator', ',') && !this.is('operator', ']'));
    this.expect('operator', ']');
    const [only] = items;
    return items.length === 1 && only !== undefined ? only : { kind: 'tuple', items };
  }

  #subscriptItem(): Expression {
    const bounds: (Expression | null)[] = [];
    const isBound = () => !this.is('operator', ':') && !this.is('operator', ']') && !this.is('operator', ',');
    const first = isBound() ? this.expression() : null;
    if (!this.is('operator', ':')) return first ?? this.fail('expected an index');
    bounds.push(first);
    while (bounds.length < 3 && this.skip('operator', ':')) bounds.push(isBound() ? this.expression() : null);
    return { kind: 'slice', bounds };
  }

  #filtersAndTests(start: Expression): Expression {
    let node = start;
    for (;;) {
      if (this.skip('operator', '|')) node = this.filter(node);
      else if (this.skip('name', 'is')) node = this.#test(node);
      else if (this.is('operator', '(')) node = { kind: 'call', of: node, call: this.call() };
      else return node;
    }
  }

  /** `of`: null for the input of a block. */
  protected filter(of: Expression | null): Expression {
    const name = this.#dottedName();
    return { kind: 'filter', of, name, call: this.is('operator', '(') ? this.call() : noArguments };
  }

  #dottedName(): string {
    let name = this.expect('name').text;
    while (this.skip('operator', '.')) name += `.${this.expect('name').text}`;
    return name;
  }

  #test(of: Expression): Expression {
    const isNegated = this.skip('name', 'not');
    const name = this.#dottedName();
    let call = noArguments;
    if (this.is('operator', '(')) call = this.call();
    else if (this.#beginsTestArgument()) {
      if (this.is('name', 'is')) this.fail('You cannot chain multiple tests with is');
      call = { ...noArguments, positional: [this.#postfix(this.#primary())] };
    }
    const test: Expression = { kind: 'test', of, name, call };
    return isNegated ? { kind: 'unary', operator: 'not', of: test } : test;
  }

  #beginsTestArgument(): boolean {
    if (['string', 'integer', 'float'].includes(this.current?.kind ?? '')) return true;
    if (this.is('operator', '[') || this.is('operator', '{')) return true;
    return this.is('name') && !['else', 'or', 'and'].includes(this.current?.text ?? '');
  }

  protected call(): Call {
    this.expect('operator', '(');
    const positional: Expression[] = [];
    const named: [string, Expression][] = [];
    let star: Expression | null = null;
    let doubleStar: Expression | null = null;
    for (let isFirst = true; !this.is('operator', ')'); isFirst = false) {
      if (!isFirst) this.expect('operator', ',');
      if (this.is('operator', ')')) break;
      const next = this.tokens[this.at + 1];
      if (this.skip('operator', '*')) star = this.expression();
      else if (this.skip('operator', '**')) doubleStar = this.expression();
      else if (this.is('name') && next?.kind === 'operator' && next.text === '=') {
        const name = this.expect('name').text;
        this.at++;
        named.push([name, this.expression()]);
      } else if (named.length > 0 || doubleStar !== null)
        this.fail('invalid syntax for function call expression');
      else positional.push(this.expression());
    }
    this.expect('operator', ')');
    return { positional, named, star, doubleStar };
  }
}
