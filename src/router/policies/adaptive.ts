/** Whichever path costs least now, by one rule a person can read: a long prompt that would hold up running decodes goes to another
 *  worker; everything else stays whole on the least loaded one. The measured cost model takes this function's place. */
import { leastBy, uncachedTokenCount } from '../load.js';
import type { Policy, Route } from '../route.js';
import { collocated, collocatedCost } from './collocated.js';
import { disaggregated } from './disaggregated.js';

/** A prompt shorter than this is computed within a step or two, less than moving its KV and a second queue cost. */
const longPromptTokenCount = 256;

export const adaptive: Policy = (facts, candidates): Route => {
  if (candidates.both.length === 0) return { ...disaggregated(facts, candidates), reason: 'no worker may do both strokes' };
  const whole = leastBy(candidates.both, (each) => collocatedCost(facts, each));
  const uncachedCount = uncachedTokenCount(facts, whole);
  const estimates = { uncachedTokenCount: uncachedCount, decodingCount: whole.decodingCount };
  if (uncachedCount >= longPromptTokenCount && whole.decodingCount > 0) {
    const split = disaggregated(facts, candidates);
    if (split.path === 'disaggregated') {
      const reason = `${uncachedCount} prompt tokens would hold up ${whole.decodingCount} decoding sequences on ${whole.id}`;
      return { ...split, reason, estimates: { ...split.estimates, ...estimates } };
    }
  }
  const route = collocated(facts, { ...candidates, both: [whole] });
  const why = whole.decodingCount === 0 ? 'nothing to hold up' : `only ${uncachedCount} prompt tokens to compute`;
  return { ...route, reason: candidates.fallback ?? `${why} on ${whole.id}`, estimates };
};
