/** What a model's text is made of: reasoning, content, calls of tools. Made by the readers of this folder,
 *  choice by choice; written by chat-format.ts. Invariant: a reader loses nothing: what is no part of a
 *  call is content. */

export type AnswerPart =
  | { readonly kind: 'content' | 'reasoning'; readonly text: string }
  /** `name` comes once, with the first piece of a call; pieces of `text` make up its arguments as JSON. */
  | { readonly kind: 'call'; readonly index: number; readonly name?: string; readonly text: string };

export interface PartReader {
  push(text: string): readonly AnswerPart[];
  /** No more text. */
  end(): readonly AnswerPart[];
}

export const plainReader: PartReader = {
  push: (text) => (text === '' ? [] : [{ kind: 'content', text }]),
  end: () => [],
};

/** How much of the text's end may be the beginning of one of the words. */
export function heldLength(text: string, words: readonly string[]): number {
  let held = 0;
  for (const word of words) {
    for (let length = Math.min(word.length - 1, text.length); length > held; length--) {
      if (text.endsWith(word.slice(0, length))) held = length;
    }
  }
  return held;
}

/** The first of the words in the text; null: none. */
export function firstOf(text: string, words: readonly string[]): { at: number; word: string } | null {
  let found: { at: number; word: string } | null = null;
  for (const word of words) {
    const at = text.indexOf(word);
    if (at >= 0 && (found === null || at < found.at)) found = { at, word };
  }
  return found;
}
