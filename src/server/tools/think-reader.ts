/** Reasoning between <think> and </think>, apart from the rest, which another reader gets. */
import { type AnswerPart, heldLength, type PartReader } from './answer-parts.js';

const open = '<think>';
const close = '</think>';

export class ThinkReader implements PartReader {
  readonly #rest: PartReader;
  /** begin: it may still open; after: white space behind the end is left out. */
  #state: 'begin' | 'inside' | 'after' | 'rest';
  #held = '';
  #isFirst = true;

  /** `isInside`: the prompt has opened it. */
  constructor(rest: PartReader, isInside: boolean) {
    this.#rest = rest;
    this.#state = isInside ? 'inside' : 'begin';
  }

  push(text: string): readonly AnswerPart[] {
    if (this.#state === 'rest') return this.#rest.push(text);
    this.#held += text;
    if (this.#state === 'begin') return this.#begin();
    return this.#state === 'inside' ? this.#inside() : this.#after();
  }

  end(): readonly AnswerPart[] {
    const held = this.#held;
    this.#held = '';
    if (this.#state === 'inside') return held === '' ? [] : [{ kind: 'reasoning', text: held }];
    return [...(held === '' || this.#state === 'after' ? [] : this.#rest.push(held)), ...this.#rest.end()];
  }

  #begin(): readonly AnswerPart[] {
    const text = this.#held.trimStart();
    if (text.startsWith(open)) {
      this.#held = text.slice(open.length);
      this.#state = 'inside';
      return this.#inside();
    }
    return open.startsWith(text) ? [] : this.#toRest();
  }

  #inside(): readonly AnswerPart[] {
    if (this.#isFirst && this.#held !== '') {
      this.#isFirst = false;
      this.#held = this.#held.replace(/^\n/, '');
    }
    const at = this.#held.indexOf(close);
    if (at < 0) {
      const sure = this.#held.length - heldLength(this.#held, [close]);
      const text = this.#held.slice(0, sure);
      this.#held = this.#held.slice(sure);
      return text === '' ? [] : [{ kind: 'reasoning', text }];
    }
    const text = this.#held.slice(0, at);
    this.#held = this.#held.slice(at + close.length);
    this.#state = 'after';
    return [...(text === '' ? [] : [{ kind: 'reasoning' as const, text }]), ...this.#after()];
  }

  #after(): readonly AnswerPart[] {
    this.#held = this.#held.trimStart();
    return this.#held === '' ? [] : this.#toRest();
  }

  #toRest(): readonly AnswerPart[] {
    const text = this.#held;
    this.#held = '';
    this.#state = 'rest';
    return this.#rest.push(text);
  }
}
