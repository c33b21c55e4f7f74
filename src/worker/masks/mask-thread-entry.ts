/** The thread behind MaskThread: one model's vocabulary, the grammars in use, and the texts that are being
 *  written in them. */
import { parentPort, workerData } from 'node:worker_threads';
import { assert } from '../../base/assert.js';
import { InvalidRequestError, toWire } from '../../base/errors.js';
import { GrammarMasks, type GrammarText } from '../../grammar/grammar-masks.js';
import { Vocabulary } from '../../grammar/vocabulary.js';
import { loadTokenizer } from '../../model/tokenizer.js';
import {
  atNothing,
  atPreparation,
  type MaskAnswer,
  type MaskBatch,
  type MaskItem,
  type MaskThreadData,
} from './mask-messages.js';

assert(parentPort !== null, 'mask-thread-entry.js is started by mask-thread.ts');
const port = parentPort;
/** Grammars that are kept compiled, in use or not. */
const grammarCountMax = 32;

interface OpenText {
  readonly text: GrammarText;
  readonly endTokenIds: readonly number[];
  leftCount: number;
}

class Masks {
  readonly #vocabulary: Vocabulary;
  /** Least recently used first. */
  readonly #grammars = new Map<string, GrammarMasks>();
  readonly #texts = new Map<number, OpenText>();
  readonly #current: Int32Array;

  constructor({ folder, vocabCount, current }: MaskThreadData) {
    this.#current = new Int32Array(current);
    const { table } = loadTokenizer(folder);
    const bytes = (id: number) => table.bytes(id);
    this.#vocabulary = new Vocabulary({ vocabCount, bytes, isSpecial: (id) => table.isSpecial(id) });
  }

  run(batch: MaskBatch): void {
    this.#goOn(batch.filter((item) => item.kind === 'accept'));
    for (const item of batch) {
      if (item.kind === 'close') this.#texts.delete(item.id);
      if (item.kind === 'open') this.#open(item);
      if (item.kind === 'prepare') this.#prepare(item.grammar);
    }
  }

  #goOn(items: readonly Extract<MaskItem, { kind: 'accept' }>[]): void {
    const { wordCount } = this.#vocabulary;
    const words = new Uint32Array(items.length * wordCount);
    const ids: number[] = [];
    for (const { id, tokenId } of items) {
      const open = this.#texts.get(id);
      if (open === undefined) continue;
      const place = ids.length * wordCount;
      const isMade = this.#attempt(id, () => {
        open.text.accept(tokenId);
        open.leftCount--;
        open.text.fill(open, words.subarray(place, place + wordCount));
      });
      if (isMade) ids.push(id);
    }
    if (ids.length > 0) answer({ kind: 'masks', ids, words }, [words.buffer as ArrayBuffer]);
  }

  #open({ id, grammar, endTokenIds, tokenIds, outputLimit }: Extract<MaskItem, { kind: 'open' }>): void {
    this.#attempt(id, () => {
      const text = this.#grammar(grammar).open(tokenIds);
      const open = { text, endTokenIds, leftCount: outputLimit - tokenIds.length };
      this.#texts.set(id, open);
      const words = new Uint32Array(this.#vocabulary.wordCount);
      text.fill(open, words);
      answer({ kind: 'masks', ids: [id], words }, [words.buffer as ArrayBuffer]);
    });
  }

  /** Its faults are reported when it is opened. */
  #prepare(grammar: string): void {
    Atomics.store(this.#current, 0, atPreparation);
    try {
      this.#grammar(grammar);
    } catch (error) {
      if (!(error instanceof InvalidRequestError)) throw error;
    } finally {
      Atomics.store(this.#current, 0, atNothing);
    }
  }

  #grammar(packed: string): GrammarMasks {
    const masks = this.#grammars.get(packed) ?? new GrammarMasks(packed, this.#vocabulary);
    this.#grammars.delete(packed);
    this.#grammars.set(packed, masks);
    for (const oldest of this.#grammars.keys()) {
      if (this.#grammars.size <= grammarCountMax) break;
      this.#grammars.delete(oldest);
    }
    return masks;
  }

  #attempt(id: number, work: () => void): boolean {
    Atomics.store(this.#current, 0, id);
    try {
      work();
      return true;
    } catch (error) {
      this.#texts.delete(id);
      answer({ kind: 'failed', id, error: toWire(error) });
      return false;
    } finally {
      Atomics.store(this.#current, 0, atNothing);
    }
  }
}

function answer(message: MaskAnswer, transfer: readonly ArrayBuffer[] = []): void {
  port.postMessage(message, [...transfer]);
}

try {
  const masks = new Masks(workerData as MaskThreadData);
  port.on('message', (batch: MaskBatch) => masks.run(batch));
} catch (error) {
  answer({ kind: 'broken', error: toWire(error) });
}
