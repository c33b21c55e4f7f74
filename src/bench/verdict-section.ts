/** The page's first section: is the candidate ever worse than the better static mode, point by point, beside
 *  what a static mode shows against itself. Used by report-page.ts. */
import {
  type Comparison,
  type JudgedBounds,
  type JudgedGoodput,
  limits,
  type Scale,
  scales,
} from './comparison.js';
import { escaped, percent, pointName } from './html-text.js';
import { metrics, type Overall, type VerdictCounts } from './never-worse.js';
import type { SweepHeader } from './sweep-file.js';
import type { SweepPoint, SweepSummary } from './sweep-summary.js';
import { figure } from './text-table.js';

type Judged = JudgedBounds | JudgedGoodput;

export function verdictSection({ candidate }: SweepHeader, { neverWorse: it, points }: SweepSummary): string {
  if (it.pointCount === 0) return '';
  const name = escaped(candidate);
  return `<h2>Is ${name} ever worse than the better static mode?</h2>
<p><b>${name}</b>: ${countsText(it)}. <b>A/A</b>, a static mode against itself, which shows what of this is noise:
${it.noise.pointCount === 0 ? 'not run' : countsText(it.noise)}.</p>
<table><tr><th>point</th><th></th>${scales.map((scale) => `<th>goodput ${scaleText(scale)}</th>`).join('')}<th>tail TTFT</th><th>tail TPOT</th><th>verdict</th></tr>
${points.flatMap((point) => pointRows(candidate, point)).join('\n')}
${overallRow(`all points, ${name}`, it.overall)}${overallRow('all points, A/A', it.noise.overall)}
${countsRow(`points that hold / undecided / fail, ${name}`, it)}${countsRow('the same of A/A', it.noise)}</table>
<p class="dim">Ratios to the better static mode with one-sided 95 % bounds over repetitions. <b>holds</b>: the bound on the unsafe side is within the limit
(goodput ≥ ${limits.goodputRatioMin}, tails ≤ ${limits.latencyRatioMax}); <b>fails</b>: the bound on the safe side is past it too; <b>undecided</b>: the limit
lies between the bounds; a point's verdict is that of its worst figure. Read strictly, what is undecided has failed. Goodput in brackets is not judged: the reference kept less than 5 % of the
requests within those SLOs. The last rows are geometric means over the points.</p>
${points.map((point) => whyWorse(candidate, point)).join('')}`;
}

function countsText({
  pointCount,
  holdsCount,
  undecidedCount,
  failsCount,
  voidCount,
  betterCount,
}: VerdictCounts): string {
  const fails = `<span class="${failsCount === 0 ? 'good' : 'bad'}">fails at ${failsCount}</span>`;
  const isVoid = voidCount === 0 ? '' : `, ${voidCount} void`;
  return `of ${pointCount} points it holds at ${holdsCount}, is undecided at ${undecidedCount}, ${fails}${isVoid}; more goodput beyond noise at ${betterCount}`;
}

function pointRows(candidate: string, point: SweepPoint): readonly string[] {
  const row = (label: string, comparison: Comparison | null) => {
    if (comparison === null) return [];
    const { goodput, ttft, tpot, verdict, latencyPercentile, requestCount } = comparison;
    const cells = [...scales.map((scale) => goodput[scale]), ttft, tpot].map(
      (judged) => `<td>${boundsText(judged)}</td>`,
    );
    const name =
      label === candidate ? `${pointName(point)}, ${requestCount} pairs, ${latencyPercentile}` : '';
    const by = point.referenceScale === '1' ? '' : ` (better at ${scaleText(point.referenceScale)})`;
    const versus = label === candidate ? `to ${escaped(point.reference)}${by}` : label;
    return [`<tr><td>${name}</td><td>${versus}</td>${cells.join('')}<td>${verdictText(verdict)}</td></tr>`];
  };
  return [...row(candidate, point.comparison), ...row('A/A', point.noise)];
}

function overallRow(label: string, { goodput, ttft, tpot }: Overall): string {
  if (ttft === null || tpot === null) return '';
  const good = goodput === null ? '–' : `${boundsText(goodput)} ${verdictText(goodput.verdict)}`;
  return `<tr><td><b>${label}</b></td><td></td><td></td><td>${good}</td><td></td>${[ttft, tpot]
    .map((judged) => `<td>${boundsText(judged)} ${verdictText(judged.verdict)}</td>`)
    .join('')}<td></td></tr>`;
}

function countsRow(
  label: string,
  { byMetric, holdsCount, undecidedCount, failsCount }: VerdictCounts,
): string {
  const total = { holds: holdsCount, undecided: undecidedCount, fails: failsCount };
  const cells = [...metrics.map((metric) => byMetric[metric]), total].map(
    ({ holds, undecided, fails }) => `<td>${holds} / ${undecided} / ${fails}</td>`,
  );
  return `<tr><td>${label}</td><td></td>${cells.join('')}</tr>`;
}

function boundsText({ ratio, low95, high95, verdict }: Judged): string {
  const text = `${figure(ratio)} <span class="dim">${figure(low95)}–${figure(high95)}</span>`;
  if (verdict === 'not judged') return `<span class="dim">(${text})</span>`;
  return verdict === 'fails' ? `<span class="bad">${text}</span>` : text;
}

function verdictText(verdict: Comparison['verdict'] | JudgedGoodput['verdict']): string {
  const style = { holds: 'good', fails: 'bad', void: 'bad', undecided: 'dim', 'not judged': 'dim' }[verdict];
  return `<span class="${style}">${verdict}</span>`;
}

/** What the records can say of a loss: which figures, which paths were chosen instead, and how far off the
 *  estimates behind the choice were. */
function whyWorse(candidate: string, point: SweepPoint): string {
  const { modes, reference, comparison } = point;
  const row = modes.find(({ mode }) => mode === candidate);
  if (row === undefined || comparison === null || comparison.verdict !== 'fails') return '';
  const { goodput, ttft, tpot, latencyPercentile } = comparison;
  const lost = [
    ...scales.flatMap((scale) => lostText(goodput[scale], `goodput at ${scale} × the SLOs`)),
    ...lostText(ttft, `TTFT ${latencyPercentile}`),
    ...lostText(tpot, `TPOT ${latencyPercentile}`),
  ];
  const { ttft: ttftError, tpot: tpotError } = row.predictionErrors;
  const path =
    row.disaggregatedShare === null
      ? ''
      : ` It disaggregated ${percent(row.disaggregatedShare)} of the requests.`;
  const errors =
    ttftError === undefined || tpotError === undefined
      ? ''
      : ` Its estimates were off by ${percent(ttftError.median)} (TTFT) and ${percent(tpotError.median)} (TPOT) in the median.`;
  return `<p class="bad">${pointName(point)}: worse than ${escaped(reference)} in ${lost.join(', ')}.${path}${errors}</p>`;
}

function lostText({ verdict, ratio }: Judged, text: string): readonly string[] {
  return verdict === 'fails' ? [`${text} (${figure(ratio)} ×)`] : [];
}

const scaleText = (scale: Scale) => ({ '0.5': '½ ×', '1': '1 ×', '2': '2 ×' })[scale];
