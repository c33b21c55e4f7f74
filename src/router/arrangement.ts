/** How the workers are used as a whole: what single decisions cannot find by themselves. A choice for one request sees that decoding beside
 *  prompts is slow only once workers have specialised; so the adaptive strategy compares arrangements by replaying recent requests.
 *  Pure; used by arranger.ts. */

import { roomWaitMs } from './forecast.js';
import { adaptive } from './policies/adaptive.js';
import { collocated } from './policies/collocated.js';
import { disaggregated } from './policies/disaggregated.js';
import type { Candidates, Route } from './route.js';
import type { RequestFacts } from './snapshot.js';

/** `whole`: every request on one worker. `split`: prompts here, decoding there. `leaning`: some workers only compute prompts, the others take
 *  what costs least, prompts too. `free`: whatever costs least. The last two weigh time to first token against time per token: the more one
 *  static mode is better in one of them, the more of it has to be kept. */
export type Arrangement =
  | { readonly kind: 'whole' }
  | { readonly kind: 'split'; readonly prefillCount: number }
  | { readonly kind: 'leaning'; readonly prefillCount: number; readonly ttftWeight: number }
  | { readonly kind: 'free'; readonly ttftWeight: number };

export const free: Arrangement = { kind: 'free', ttftWeight: 1 };

export function nameOf(arrangement: Arrangement): string {
  switch (arrangement.kind) {
    case 'whole':
      return 'whole';
    case 'split':
      return `split ${arrangement.prefillCount}`;
    case 'leaning':
      return `leaning ${arrangement.prefillCount}${weightName(arrangement.ttftWeight)}`;
    case 'free':
      return `free${weightName(arrangement.ttftWeight)}`;
  }
}

function weightName(ttftWeight: number): string {
  if (ttftWeight === 1) return '';
  return ttftWeight > 1 ? ', first token first' : ', time per token first';
}

/** How many times a first token counts. The first: prompts go where they start soonest, which keeps up with collocated first tokens; the last: decoding
 *  is left alone, which keeps up with disaggregated tokens. */
const ttftWeights = [2, 1, 0.25] as const;

/** Of these workers; the two static modes are among them wherever the roles allow them. */
export function arrangementsOf({ prefill, decode, both }: Candidates): readonly Arrangement[] {
  const arrangements: Arrangement[] = both.length > 0 ? [{ kind: 'whole' }] : [];
  if (!isUniform({ prefill, decode, both })) {
    for (const ttftWeight of ttftWeights) arrangements.push({ kind: 'free', ttftWeight });
    return [...arrangements, { kind: 'split', prefillCount: prefill.length }];
  }
  arrangements.push(free);
  for (const prefillCount of splitsOf(both.length)) {
    arrangements.push({ kind: 'split', prefillCount });
    for (const ttftWeight of ttftWeights) arrangements.push({ kind: 'leaning', prefillCount, ttftWeight });
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

/** The least costly route that the arrangement allows; of all routes, when nobody within it has memory left to decode in. */
export function routeWithin(arrangement: Arrangement, facts: RequestFacts, candidates: Candidates): Route {
  if (candidates.fallback !== undefined) return adaptive(facts, candidates);
  if (arrangement.kind === 'whole') return collocated(facts, candidates);
  if (arrangement.kind === 'free') return adaptive({ ...facts, ttftWeight: arrangement.ttftWeight }, candidates);
  const within = divided(candidates, arrangement);
  if (within.decode.every((worker) => roomWaitMs(facts, worker) > 0)) return adaptive(facts, candidates);
  if (arrangement.kind === 'split') return disaggregated(facts, within);
  return adaptive({ ...facts, ttftWeight: arrangement.ttftWeight }, within);
}

/** Workers of role `any`, the first of them for prompts; others keep their roles. */
function divided(
  { prefill, decode, both }: Candidates,
  { kind, prefillCount }: Extract<Arrangement, { kind: 'split' | 'leaning' }>,
): Candidates {
  if (!isUniform({ prefill, decode, both })) return { prefill, decode, both: [] };
  const rest = both.slice(prefillCount);
  return kind === 'split'
    ? { prefill: both.slice(0, prefillCount), decode: rest, both: [] }
    : { prefill: both, decode: rest, both: rest };
}
