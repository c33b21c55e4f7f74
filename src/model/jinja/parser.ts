/** Tokens → statements. Used by template.ts. */
import { ExpressionParser } from './expression-parser.js';
import { tokenize } from './lexer.js';
import type { Expression, MacroBody, Signature, Statement, Target } from './nodes.js';

/** @throws TemplateSyntaxError */
export function parse(source: string): readonly Statement[] {
  return new Parser(tokenize(source)).template();
}

class Parser extends ExpressionParser {
  #loopDepth = 0;

  template(): readonly Statement[] {
    const body = this.#body([]);
    if (this.current !== undefined) this.fail(`unexpected ${this.described()}`);
    return body;
  }

  /** Up to a block tag with one of these names (its `begin` is read, its name is not), or to the end. */
  #body(ends: readonly string[]): Statement[] {
    const statements: Statement[] = [];
    for (let token = this.current; token !== undefined; token = this.current) {
      this.at++;
      if (token.kind === 'text') statements.push({ kind: 'text', text: token.text });
      else if (token.text === 'variable') {
        statements.push({ kind: 'output', of: this.tuple() });
        this.expect('end', 'variable');
      } else if (ends.includes(this.current?.text ?? '')) return statements;
      else {
        const statement = this.deeper(() => this.#statement());
        this.expect('end', 'block');
        statements.push(statement);
      }
    }
    return ends.length === 0
      ? statements
      : this.fail(`unexpected end of the template, looking for ${ends.join(' or ')}`);
  }

  /** The body after a tag's head, and the tag that closes it. */
  #block(...ends: string[]): Statement[] {
    this.expect('end', 'block');
    return this.#body(ends);
  }

  #closed(end: string): Statement[] {
    const body = this.#block(end);
    this.expect('name', end);
    return body;
  }

  #statement(): Statement {
    const name = this.expect('name').text;
    switch (name) {
      case 'for':
        return this.#for();
      case 'if':
        return this.#if();
      case 'set':
        return this.#set();
      case 'with':
        return this.#with();
      case 'macro':
        return { kind: 'macro', macro: this.#macro(this.expect('name').text, 'endmacro') };
      case 'call':
        return this.#callBlock();
      case 'filter':
        return { kind: 'filterBlock', filter: this.#filters(), body: this.#closed('endfilter') };
      case 'generation':
        return { kind: 'scope', body: this.#closed('endgeneration') };
      case 'print':
        return { kind: 'output', of: this.tuple() };
      case 'block':
        return this.#namedBlock();
      case 'break':
      case 'continue':
        if (this.#loopDepth === 0) this.fail(`'${name}' outside loop`);
        return { kind: name };
      default:
        this.at--;
        return this.fail(`unknown tag ${this.described()}`);
    }
  }

  #for(): Statement {
    const target = this.#target(false);
    this.expect('name', 'in');
    const over = this.tuple({ withoutIf: true, endsAt: 'recursive' });
    const filter = this.skip('name', 'if') ? this.expression() : null;
    const isRecursive = this.skip('name', 'recursive');
    this.#loopDepth++;
    const body = this.#block('endfor', 'else');
    this.#loopDepth--;
    const otherwise = this.skip('name', 'else') ? this.#block('endfor') : [];
    this.expect('name', 'endfor');
    return { kind: 'for', target, over, filter, isRecursive, body, else: otherwise };
  }

  #if(): Statement {
    const branches: [Expression, readonly Statement[]][] = [];
    do branches.push([this.tuple({ withoutIf: true }), this.#block('elif', 'else', 'endif')]);
    while (this.skip('name', 'elif'));
    const otherwise = this.skip('name', 'else') ? this.#block('endif') : [];
    this.expect('name', 'endif');
    return { kind: 'if', branches, else: otherwise };
  }

  #set(): Statement {
    const target = this.#target(true);
    if (this.skip('operator', '=')) return { kind: 'set', target, value: this.tuple() };
    const filter = this.skip('operator', '|') ? this.#filters() : null;
    return { kind: 'setBlock', target, filter, body: this.#closed('endset') };
  }

  #with(): Statement {
    const targets: [Target, Expression][] = [];
    while (!this.is('end')) {
      if (targets.length > 0) this.expect('operator', ',');
      const target = this.#oneTarget(false);
      this.expect('operator', '=');
      targets.push([target, this.expression()]);
    }
    return { kind: 'with', targets, body: this.#closed('endwith') };
  }

  #callBlock(): Statement {
    const signature = this.is('operator', '(') ? this.#signature() : { names: [], defaults: [] };
    const of = this.expression();
    if (of.kind !== 'call') return this.fail('expected call');
    return { kind: 'callBlock', of, caller: this.#macroBody('caller', signature, 'endcall') };
  }

  #macro(name: string, end: string): MacroBody {
    return this.#macroBody(name, this.#signature(), end);
  }

  #macroBody(name: string, signature: Signature, end: string): MacroBody {
    const start = this.namesRead.length;
    const loopDepth = this.#loopDepth;
    this.#loopDepth = 0;
    const body = this.#closed(end);
    this.#loopDepth = loopDepth;
    const special = ['varargs', 'kwargs', 'caller'].filter(
      (word) => this.namesRead.indexOf(word, start) >= 0,
    );
    return { name, ...signature, body, reads: new Set(special) };
  }

  #signature(): Signature {
    this.expect('operator', '(');
    const names: string[] = [];
    const defaults: Expression[] = [];
    while (!this.is('operator', ')')) {
      if (names.length > 0) this.expect('operator', ',');
      names.push(this.expect('name').text);
      if (this.skip('operator', '=')) defaults.push(this.expression());
      else if (defaults.length > 0) this.fail('non-default argument follows default argument');
    }
    this.expect('operator', ')');
    return { names, defaults };
  }

  /** `upper | replace(…)`: the first takes the block's text. */
  #filters(): Expression {
    let node = this.filter(null);
    while (this.skip('operator', '|')) node = this.filter(node);
    return node;
  }

  #namedBlock(): Statement {
    this.expect('name');
    for (const word of ['scoped', 'required']) this.skip('name', word);
    const body = this.#closed('endblock');
    if (this.is('name')) this.at++;
    return { kind: 'scope', body };
  }

  #target(takesNamespace: boolean): Target {
    const first = this.#oneTarget(takesNamespace);
    if (!this.is('operator', ',')) return first;
    const items = [first];
    while (this.skip('operator', ',') && !this.is('name', 'in') && !this.is('operator', '='))
      items.push(this.#oneTarget(false));
    return { kind: 'tuple', items };
  }

  #oneTarget(takesNamespace: boolean): Target {
    if (this.skip('operator', '(')) {
      const inner = this.#target(false);
      this.expect('operator', ')');
      return inner;
    }
    const name = this.expect('name').text;
    if (['true', 'false', 'none', 'True', 'False', 'None'].includes(name))
      this.fail(`can't assign to '${name}'`);
    if (!takesNamespace || !this.skip('operator', '.')) return { kind: 'name', name };
    return { kind: 'namespace', name, attribute: this.expect('name').text };
  }
}
