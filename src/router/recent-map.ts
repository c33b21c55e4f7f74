/** A map of bounded memory that forgets what was not used for longest. Used by the length predictor for
 *  clients and conversations.
 *  Invariant: never more than `capacity` entries. */
export class RecentMap<Key, Value> {
  readonly #entries = new Map<Key, Value>();
  readonly #capacity: number;

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  get entryCount(): number {
    return this.#entries.size;
  }

  /** Does not count as a use: asking about a request must not change what is remembered. */
  peek(key: Key): Value | undefined {
    return this.#entries.get(key);
  }

  /** The entry, made if there is none, now the most recently used. */
  touch(key: Key, make: () => Value): Value {
    const value = this.#entries.get(key) ?? make();
    this.set(key, value);
    return value;
  }

  /** Adds or replaces the entry and makes it the most recently used. */
  set(key: Key, value: Value): void {
    this.#entries.delete(key);
    this.#entries.set(key, value);
    if (this.#entries.size <= this.#capacity) return;
    const oldest = this.#entries.keys().next();
    if (!oldest.done) this.#entries.delete(oldest.value);
  }
}
