/** SentencePiece's BPE: of all neighbours that together are a token, the pair with the best score is
 *  joined first, the leftmost of equals. Used by text-encoding.ts for vocabularies that have scores and no
 *  list of merges (GGUF files). */
import { ModelError } from '../../base/errors.js';
import type { JsonObject, JsonValue } from '../json-file.js';
import type { LibraryModel } from './library.js';

interface Symbol {
  text: string;
  /** Indices of neighbours; -1: none. A joined symbol is gone when its text is empty. */
  previous: number;
  next: number;
}

interface Pair {
  readonly left: number;
  readonly right: number;
  readonly score: number;
  readonly text: string;
}

/** `model`: vocab as [token, score], unk_id. @throws ModelError */
export function readSentencePiece(file: string, model: JsonObject): LibraryModel {
  const entries = Array.isArray(model.vocab) ? (model.vocab as readonly JsonValue[]) : [];
  const scores = new Map<string, number>();
  const ids = new Map<string, number>();
  for (const [id, entry] of entries.entries()) {
    const [text, score] = Array.isArray(entry) ? (entry as readonly JsonValue[]) : [];
    if (typeof text !== 'string' || typeof score !== 'number' || Number.isNaN(score))
      throw new ModelError(`${file}: token ${id} of the vocabulary has no text and score`);
    scores.set(text, score);
    ids.set(text, id);
  }
  const encode = (words: readonly string[]) => words.flatMap((word) => merged(word, scores));
  const unknown = typeof model.unk_id === 'number' ? { unk_token_id: model.unk_id } : {};
  return Object.assign(encode, { tokens_to_ids: ids, ...unknown });
}

function merged(text: string, scores: ReadonlyMap<string, number>): readonly string[] {
  const symbols: Symbol[] = [...text].map((character, i) => ({
    text: character,
    previous: i - 1,
    next: i + 1,
  }));
  const last = symbols.at(-1);
  if (last === undefined) return [];
  last.next = -1;
  const queue = new PairQueue();
  const offer = (left: number, right: number) => {
    const pair = `${symbols[left]?.text ?? ''}${symbols[right]?.text ?? ''}`;
    const score = left < 0 || right < 0 ? undefined : scores.get(pair);
    if (score !== undefined) queue.push({ left, right, score, text: pair });
  };
  for (let i = 1; i < symbols.length; i++) offer(i - 1, i);
  for (let pair = queue.pop(); pair !== null; pair = queue.pop()) {
    const left = symbols[pair.left];
    const right = symbols[pair.right];
    if (left === undefined || right === undefined || left.text === '' || right.text === '') continue;
    // joined with others since
    if (left.next !== pair.right || left.text.length + right.text.length !== pair.text.length) continue;
    left.text = pair.text;
    right.text = '';
    left.next = right.next;
    const after = symbols[right.next];
    if (after !== undefined) after.previous = pair.left;
    offer(left.previous, pair.left);
    offer(pair.left, left.next);
  }
  const tokens: string[] = [];
  for (let i = 0; i >= 0; i = symbols[i]?.next ?? -1) tokens.push(symbols[i]?.text ?? '');
  return tokens;
}

/** A binary heap: best score first, then leftmost. */
class PairQueue {
  readonly #pairs: Pair[] = [];

  push(pair: Pair): void {
    const pairs = this.#pairs;
    let i = pairs.push(pair) - 1;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (!this.#isBefore(i, parent)) return;
      this.#swap(i, parent);
      i = parent;
    }
  }

  pop(): Pair | null {
    const pairs = this.#pairs;
    const [first] = pairs;
    const last = pairs.pop();
    if (first === undefined || last === undefined) return null;
    if (pairs.length === 0) return first;
    pairs[0] = last;
    for (let i = 0; ; ) {
      let best = i;
      for (const child of [2 * i + 1, 2 * i + 2])
        if (child < pairs.length && this.#isBefore(child, best)) best = child;
      if (best === i) return first;
      this.#swap(i, best);
      i = best;
    }
  }

  #isBefore(a: number, b: number): boolean {
    const [one, other] = [this.#pairs[a] as Pair, this.#pairs[b] as Pair];
    return one.score > other.score || (one.score === other.score && one.left < other.left);
  }

  #swap(a: number, b: number): void {
    [this.#pairs[a], this.#pairs[b]] = [this.#pairs[b] as Pair, this.#pairs[a] as Pair];
  }
}
