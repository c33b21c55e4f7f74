/** How the workers are used as a whole: what single decisions cannot find by themselves. A choice for one request sees that decoding beside
 *  prompts is slow only once workers have specialised; so the adaptive strategy compares arrangements by replaying recent requests.
 *  Pure; used by arranger.ts. */
import { adaptive } from './policies/adaptive.js';
import { collocated } from './policies/collocated.js';
import { disaggregated } from './policies/disaggregated.js';
import type { Candidates, Route } from './route.js';
import type { RequestFacts } from './snapshot.js';

/** `whole`: every request on one worker. `split`: prompts here, decoding there. `leaning`: some workers only compute prompts, the others take
 *  what costs least, prompts too. `free`: whatever costs least; `free, first token first` weighs time to first token four times. */
export type Arrangement =
  | { readonly kind: 'whole' }
  | { readonly kind: 'split' | 'leaning'; readonly prefillCount: number }
  | { readonly kind: 'free'; readonly ttftWeight: number };

export const free: Arrangement = { kind: 'free', ttftWeight: 1 };

export function nameOf(arrangement: Arrangement): string {
  if (arrangement.kind === 'whole') return 'whole';
  if (arrangement.kind === 'free') return arrangement.ttftWeight === 1 ? 'free' : 'free, first token first';
  return `${arrangement.kind} ${arrangement.prefillCount}`;
}

/** Of these workers; the two static modes are among them wherever the roles allow them. */
export function arrangementsOf({ prefill, decode, both }: Candidates): readonly Arrangement[] {
  const arrangements: Arrangement[] = [free, { kind: 'free', ttftWeight: 4 }];
  if (both.length > 0) arrangements.push({ kind: 'whole' });
  if (!isUniform({ prefill, decode, both })) return [...arrangements, { kind: 'split', prefillCount: prefill.length }];
  for (const prefillCount of splitsOf(both.length)) {
    arrangements.push({ kind: 'split', prefillCount }, { kind: 'leaning', prefillCount });
  }
  return arrangements;
}

/** Every worker may do everything. */
export function isUniform({ prefill, decode, both }: Candidates): boolean {
  return both.length === prefill.length && both.length === decode.length;
}

/** Half, a quarter, three quarters: between them single decisions even things out. */
function splitsOf(workerCount: number): readonly number[] {
  const counts = [Math.floor(workerCount / 2), Math.floor(workerCount / 4), Math.ceil((3 * workerCount) / 4)];
  return [...new Set(counts)].filter((count) => count >= 1 && count < workerCount);
}

/** The least costly route that the arrangement allows. */
export function routeWithin(arrangement: Arrangement, facts: RequestFacts, candidates: Candidates): Route {
  if (candidates.fallback !== undefined) return adaptive(facts, candidates);
  switch (arrangement.kind) {
    case 'whole':
      return collocated(facts, candidates);
    case 'free':
      return adaptive({ ...facts, ttftWeight: arrangement.ttftWeight }, candidates);
    case 'split':
      return disaggregated(facts, divided(candidates, arrangement.prefillCount, 'split'));
    case 'leaning':
      return adaptive(facts, divided(candidates, arrangement.prefillCount, 'leaning'));
  }
}

/** Workers of role `any`, the first of them for prompts; others keep their roles. */
function divided({ prefill, decode, both }: Candidates, prefillCount: number, kind: 'split' | 'leaning'): Candidates {
  if (!isUniform({ prefill, decode, both })) return { prefill, decode, both: [] };
  const rest = both.slice(prefillCount);
  return kind === 'split'
    ? { prefill: both.slice(0, prefillCount), decode: rest, both: [] }
    : { prefill: both, decode: rest, both: rest };
}
