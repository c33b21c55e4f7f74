/** `loop` within a loop. Used by render.ts. */
import { isEqual } from './compare.js';
import { type Arguments, Callable, fail, orElse, Undefined, type Value } from './values.js';

export function notRecursive(): never {
  return fail("The loop must have the 'recursive' marker to be called recursively.");
}

export class Loop extends Callable {
  override readonly typeName = 'LoopContext';
  index = 0;
  readonly #items: readonly Value[];
  readonly #depth: number;
  #changed: readonly Value[] | null = null;

  constructor(items: readonly Value[], depth: number, again: (given: Arguments) => Value) {
    super('loop', again);
    this.#items = items;
    this.#depth = depth;
  }

  override attribute(name: string): Value | undefined {
    const { index } = this;
    const count = this.#items.length;
    switch (name) {
      case 'index':
        return BigInt(index + 1);
      case 'index0':
        return BigInt(index);
      case 'revindex':
        return BigInt(count - index);
      case 'revindex0':
        return BigInt(count - index - 1);
      case 'first':
        return index === 0;
      case 'last':
        return index === count - 1;
      case 'length':
        return BigInt(count);
      case 'depth':
        return BigInt(this.#depth);
      case 'depth0':
        return BigInt(this.#depth - 1);
      case 'previtem':
        return orElse(this.#items[index - 1], () => new Undefined('there is no previous item'));
      case 'nextitem':
        return orElse(this.#items[index + 1], () => new Undefined('there is no next item'));
      case 'cycle':
        return new Callable('cycle', ({ positional }) =>
          orElse(positional[index % positional.length], () => fail('no items for cycling given')),
        );
      case 'changed':
        return new Callable('changed', ({ positional }) => this.#isChanged(positional));
      default:
        return undefined;
    }
  }

  #isChanged(values: readonly Value[]): boolean {
    const isSame = this.#changed !== null && isEqual(this.#changed, values);
    this.#changed = values;
    return !isSame;
  }
}
