/* Cuts a share of a trace's requests at random, as aborts and limits do. Used by ../score-lengths.mjs. */

/** Returns tokenCount → {tokenCount, isCensored}. `independent` cuts where another, random request ended, and
 *  draws so often that about
    the wanted share is cut; a cut at or past the end leaves a request whole. */
export function censorer(requests, { censor, cut }, prng) {
  const whole = (tokenCount) => ({ tokenCount, isCensored: false });
  if (censor === 0) return whole;
  const at = (tokenCount, limit) =>
    limit < tokenCount ? { tokenCount: limit, isCensored: true } : whole(tokenCount);
  if (cut === 'uniform') {
    return (tokenCount) =>
      prng.uniform() < censor ? at(tokenCount, Math.floor(prng.uniform() * tokenCount)) : whole(tokenCount);
  }
  // Two draws from one distribution: the second is the smaller one in about half of the cases.
  return (tokenCount) =>
    prng.uniform() < 2 * censor ? at(tokenCount, prng.pick(requests).tokenCount) : whole(tokenCount);
}
