/** Statements → text. Used by template.ts. */

import { call } from './arguments.js';
import { argumentsOf, evaluate } from './evaluate.js';
import { Loop, notRecursive } from './loop.js';
import { bindMacro, Macro } from './macro.js';
import type { ForLoop, MacroBody, Statement, Target } from './nodes.js';
import { Scope } from './scope.js';
import { str } from './text.js';
import {
  type Arguments,
  Attributes,
  type Callable,
  fail,
  isTrue,
  iterate,
  joinedText,
  type Value,
} from './values.js';

/** How a body ended: a break or a continue passes up to its loop. */
type Ending = 'end' | 'break' | 'continue';

/** Deep enough for any tree of tools, far from the end of the stack. */
const callDepthMax = 200;

export class Renderer {
  #out: string[] = [];
  #callDepth = 0;

  render(body: readonly Statement[], scope: Scope): string {
    return this.#captured(() => this.#run(body, scope));
  }

  /** What `write` puts out, as a text of its own. */
  #captured(write: () => void): string {
    const outer = this.#out;
    this.#out = [];
    write();
    const text = joinedText(this.#out);
    this.#out = outer;
    return text;
  }

  #run(body: readonly Statement[], scope: Scope): Ending {
    for (const statement of body) {
      const ending = this.#step(statement, scope);
      if (ending !== 'end') return ending;
    }
    return 'end';
  }

  #step(node: Statement, scope: Scope): Ending {
    switch (node.kind) {
      case 'text':
        this.#out.push(node.text);
        return 'end';
      case 'output':
        this.#out.push(str(evaluate(node.of, scope)));
        return 'end';
      case 'if': {
        const branch = node.branches.find(([test]) => isTrue(evaluate(test, scope)));
        return this.#run(branch?.[1] ?? node.else, scope);
      }
      case 'for':
        this.#loop(node, evaluate(node.over, scope), scope, 1);
        return 'end';
      case 'scope':
        return this.#run(node.body, new Scope(scope));
      case 'break':
      case 'continue':
        return node.kind;
      default:
        this.#define(node, scope);
        return 'end';
    }
  }

  #define(
    node: Exclude<Statement, { kind: 'text' | 'output' | 'if' | 'for' | 'scope' | 'break' | 'continue' }>,
    scope: Scope,
  ): void {
    switch (node.kind) {
      case 'set':
        assign(node.target, evaluate(node.value, scope), scope);
        return;
      case 'setBlock': {
        const text = this.render(node.body, new Scope(scope));
        assign(node.target, node.filter === null ? text : evaluate(node.filter, scope, text), scope);
        return;
      }
      case 'with': {
        const inner = new Scope(scope);
        for (const [target, value] of node.targets) assign(target, evaluate(value, scope), inner);
        this.#run(node.body, inner);
        return;
      }
      case 'macro':
        scope.set(node.macro.name, this.#macro(node.macro, scope));
        return;
      case 'callBlock': {
        const given = argumentsOf(node.of.call, scope);
        const named = new Map([...given.named, ['caller', this.#macro(node.caller, scope)]]);
        this.#out.push(str(call(evaluate(node.of.of, scope), { positional: given.positional, named })));
        return;
      }
      case 'filterBlock': {
        const text = this.render(node.body, new Scope(scope));
        this.#out.push(str(evaluate(node.filter, scope, text)));
      }
    }
  }

  #loop(node: ForLoop, over: Value, scope: Scope, depth: number): void {
    const items = this.#loopItems(node, over, scope);
    const again = ({ positional }: Arguments): Value =>
      this.#nested(() => this.#captured(() => this.#loop(node, positional[0] ?? null, scope, depth + 1)));
    const loop = new Loop(items, depth, node.isRecursive ? again : notRecursive);
    // As in jinja2, where a turn counts once it has come to its end.
    let isElse = true;
    for (const [index, item] of items.entries()) {
      const inner = new Scope(scope);
      loop.index = index;
      inner.set('loop', loop);
      assign(node.target, item, inner);
      const ending = this.#run(node.body, inner);
      if (ending === 'break') break;
      if (ending === 'end') isElse = false;
    }
    if (isElse) this.#run(node.else, new Scope(scope));
  }

  #loopItems({ filter, target }: ForLoop, over: Value, scope: Scope): readonly Value[] {
    const items = iterate(over);
    if (filter === null) return items;
    return items.filter((item) => {
      const inner = new Scope(scope);
      assign(target, item, inner);
      return isTrue(evaluate(filter, inner));
    });
  }

  #macro(macro: MacroBody, scope: Scope): Callable {
    return new Macro(macro, (given) =>
      this.#nested(() => {
        const inner = new Scope(scope);
        bindMacro(macro, given, inner);
        return this.render(macro.body, inner);
      }),
    );
  }

  #nested(run: () => string): string {
    if (++this.#callDepth > callDepthMax) fail('maximum recursion depth exceeded');
    const text = run();
    this.#callDepth--;
    return text;
  }
}

function assign(target: Target, value: Value, scope: Scope): void {
  if (target.kind === 'name') scope.set(target.name, value);
  else if (target.kind === 'namespace') {
    const space = scope.get(target.name);
    if (!(space instanceof Attributes) || space.typeName !== 'Namespace')
      fail('cannot assign attribute on non-namespace object');
    else space.values.set(target.attribute, value);
  } else unpack(target.items, value, scope);
}

function unpack(targets: readonly Target[], value: Value, scope: Scope): void {
  const items = iterate(value);
  if (items.length < targets.length)
    fail(`not enough values to unpack (expected ${targets.length}, got ${items.length})`);
  if (items.length > targets.length) fail(`too many values to unpack (expected ${targets.length})`);
  for (const [index, inner] of targets.entries()) assign(inner, items[index] ?? null, scope);
}
