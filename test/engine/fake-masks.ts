/** Masks that are a hash of the tokens so far and come some turns late: a mask of another draw, or of
 *  another choice, changes what is drawn. */
import type { ChoiceMasks, MaskRequest, MaskSource } from '../../src/engine/mask-source.js';
import { mix, vocabCount } from './fake-device.js';

/** The grammar's text and the tokens before decide. */
export function isAllowed(grammar: string, tokens: readonly number[], id: number): boolean {
  let h = grammar.length;
  for (const token of tokens) h = mix(h, token + 1);
  return mix(h, id) % 4 === 0 || id === h % vocabCount;
}

export class FakeMasks implements MaskSource {
  /** Grammars that cannot be enforced. */
  readonly broken = new Set<string>();
  readonly prepared: string[] = [];
  openCount = 0;
  failureCount = 0;
  /** Turns until a mask is there. */
  delay = 3;
  readonly #computing = new Set<FakeChoiceMasks>();
  #wake: (() => void)[] = [];

  get computingCount(): number {
    return [...this.#computing].filter(({ isOpening }) => !isOpening).length;
  }

  prepare(grammar: string): void {
    this.prepared.push(grammar);
  }

  open(request: MaskRequest): ChoiceMasks {
    this.openCount++;
    const masks = new FakeChoiceMasks(request, this);
    void this.compute(masks);
    return masks;
  }

  arrival(): Promise<void> {
    return new Promise((resolve) => this.#wake.push(resolve));
  }

  async compute(masks: FakeChoiceMasks): Promise<void> {
    this.#computing.add(masks);
    for (let i = 0; i < this.delay; i++) await Promise.resolve();
    this.#computing.delete(masks);
    if (this.broken.has(masks.request.grammar)) {
      masks.error = new Error('no such grammar');
      this.failureCount++;
    } else masks.make();
    for (const wake of this.#wake.splice(0)) wake();
  }
}

class FakeChoiceMasks implements ChoiceMasks {
  words: Uint32Array | null = null;
  error: Error | null = null;
  isOpening = true;
  readonly request: MaskRequest;
  readonly #source: FakeMasks;
  readonly #tokens: number[];
  #isClosed = false;

  constructor(request: MaskRequest, source: FakeMasks) {
    this.request = request;
    this.#source = source;
    this.#tokens = [...request.tokenIds];
  }

  make(): void {
    this.isOpening = false;
    const words = new Uint32Array(Math.ceil(vocabCount / 32));
    for (let id = 0; id < vocabCount; id++) {
      if (isAllowed(this.request.grammar, this.#tokens, id))
        words[id >>> 5] = words[id >>> 5]! | (1 << (id & 31));
    }
    this.words = words;
  }

  accept(tokenId: number): void {
    if (this.#isClosed) throw new Error('a token is told after the end');
    if (this.words === null) throw new Error('a token is told that no mask was asked for');
    this.#tokens.push(tokenId);
    this.words = null;
    void this.#source.compute(this);
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#source.openCount--;
  }
}
