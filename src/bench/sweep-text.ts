/** What a sweep says on the terminal: a line per point and strategy, then the verdicts. Used by
 *  cli/bench-sweep.ts. */
import type { VerdictCounts } from './never-worse.js';
import type { SweepPoint, SweepSummary } from './sweep-summary.js';
import { figure } from './text-table.js';

export function sweepText({ points, neverWorse }: SweepSummary): string {
  const verdicts =
    neverWorse.pointCount === 0
      ? []
      : [countsLine('candidate', neverWorse), countsLine('A/A', neverWorse.noise)];
  return [...points.flatMap(pointLines), ...verdicts].map((line) => `${line}\n`).join('');
}

function pointLines({ workload, ratePerSecond, modes, comparison, noise }: SweepPoint): readonly string[] {
  const verdict = comparison === null ? '' : `: ${comparison.verdict} (A/A ${noise?.verdict ?? 'not run'})`;
  return [
    `${workload} ${figure(ratePerSecond)} req/s${verdict}`,
    ...modes.map(({ mode, summary: { ttftMs, tpotMs, isVoid }, goodRequestsPerSecond }) => {
      const figures = [goodRequestsPerSecond['1'], ttftMs.p50, ttftMs.p90, tpotMs.p50, tpotMs.p90];
      const [good = '', ...latencies] = figures.map((value) => figure(value).padStart(8));
      return `  ${mode.padEnd(16)} goodput ${good}  TTFT, TPOT p50 p90 ${latencies.join('')}${isVoid ? '  void' : ''}`;
    }),
  ];
}

function countsLine(
  label: string,
  { pointCount, holdsCount, undecidedCount, failsCount, voidCount, betterCount }: VerdictCounts,
) {
  return `${label}: ${pointCount} points, ${holdsCount} hold, ${undecidedCount} undecided, ${failsCount} fail, ${voidCount} void; better at ${betterCount}`;
}
