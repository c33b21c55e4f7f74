/** How the adaptive router uses the workers as a whole, and why: the last comparison as a table. Pure. Used by route.ts and
 *  route-explanation.ts. */
import type { RoutingStatus } from '../control/prediction-errors.js';
import type { Standing } from '../router/arranger.js';
import { table } from './quantities.js';

/** No lines for a static strategy, or where it is not told. */
export function arrangementLines(routing: RoutingStatus | null): readonly string[] {
  if (routing === null || routing.arrangement === null) return [];
  const { arrangement, comparedAgoMs, standings } = routing;
  const head = `arrangement in use: ${arrangement}`;
  if (comparedAgoMs === null || standings.length === 0) return [`${head} (nothing compared yet: too few requests)`];
  const used = standings.find(({ name }) => name === arrangement);
  const rows = standings.map((standing) => row(standing, standing === used));
  return [
    `${head}, ${whyOf(used, standings)}; compared ${(comparedAgoMs / 1000).toFixed(0)} s ago by replaying the last requests:`,
    ...table([['', 'ARRANGEMENT', 'WITHIN LIMITS', 'WORST TENTH: TTFT MS', 'TPOT MS', 'REGRET'], ...rows]),
  ];
}

function row({ name, score, ttftMsTail, tpotMsTail, regret }: Standing, isUsed: boolean): string[] {
  const share = `${(100 * score).toFixed(1)} %`;
  return [isUsed ? '*' : '', name, share, ttftMsTail.toFixed(1), tpotMsTail.toFixed(2), regret.toFixed(2)];
}

/** As arranger.ts decides. */
function whyOf(used: Standing | undefined, standings: readonly Standing[]): string {
  const picked = standings.find(({ isPicked }) => isPicked);
  if (used === undefined || picked === undefined) return 'the only way for the workers that are live';
  if (used !== picked) return `kept until two comparisons in a row agree on ${picked.name}`;
  return isStatic(used) ? 'nothing else gains more than it loses' : 'it gains more than it loses against either static mode';
}

function isStatic({ arrangement: { kind } }: Standing): boolean {
  return kind === 'whole' || kind === 'split';
}
