/** Assertions for invariants, on in production: a broken invariant must stop the step that broke it, not
 *  corrupt a later one. */

export class AssertionError extends Error {
  constructor(message: string) {
    super(`invariant broken: ${message}`);
    this.name = 'AssertionError';
  }
}

export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}

/** Array access where the index is known to be valid. */
export function at<T>(items: ArrayLike<T>, index: number): T {
  const item = items[index];
  // the text is made when it is needed: this is called a lot
  if (item === undefined) throw new AssertionError(`index ${index} of ${items.length}`);
  return item;
}
