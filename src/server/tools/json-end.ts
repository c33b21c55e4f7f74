/** Where a JSON object or array ends, as its text arrives. Used by the readers of calls. */
export class JsonEnd {
  #depth = 0;
  #isString = false;
  #isEscaped = false;

  /** How much of the text belongs to the value, and whether it ends there. */
  push(text: string): { length: number; isComplete: boolean } {
    for (let i = 0; i < text.length; i++) {
      const character = text[i];
      if (this.#isEscaped) this.#isEscaped = false;
      else if (this.#isString) {
        if (character === '\\') this.#isEscaped = true;
        else if (character === '"') this.#isString = false;
      } else if (character === '"') this.#isString = true;
      else if (character === '{' || character === '[') this.#depth++;
      else if (character === '}' || character === ']') {
        this.#depth--;
        if (this.#depth <= 0) return { length: i + 1, isComplete: true };
      }
    }
    return { length: text.length, isComplete: false };
  }
}
