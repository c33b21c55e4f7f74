/** One HTML page with nothing outside itself: verdict, tables, plots. Used by report.ts. */
import { type Comparison, type GoodputBounds, limits, scales } from './comparison.js';
import type { Plot } from './plot-style.js';
import { type PredictionErrors, predictionNames, predictionTitles } from './predictions.js';
import type { SweepHeader } from './sweep-file.js';
import type { SweepPoint, SweepSummary } from './sweep-summary.js';
import { figure } from './text-table.js';

export interface DrawnPlot {
  readonly plot: Plot;
  readonly svg: string;
}

export function reportPage(header: SweepHeader, summary: SweepSummary, plots: readonly DrawnPlot[]): string {
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Load test of ${escaped(header.model)}</title><style>${style}</style></head><body>
<h1>Load test of ${escaped(header.model)}</h1>
<p>${escaped(header.date)} · ${escaped(header.machine)} · seed ${header.seed}</p>
${verdict(header, summary)}
${plots.map(plotSection).join('\n')}
${predictionTable(summary, header)}
<h2>Points</h2>${summary.points.map((point) => pointTable(header, point)).join('\n')}
<h2>How it was run</h2>
<p>Every strategy got the same arrivals and lengths at a point and repetition, one after the other, in turning order. Targets: TTFT ≤
${header.ttftFactor} × and TPOT ≤ ${header.tpotFactor} × the unloaded p50 of the request's length class in the better static mode.
A request that was rejected, failed or never ended misses its targets with infinite latencies. A point whose generator was more than
5 ms late at p99 is void.</p>
<table><tr><th>strategy</th><th>server</th></tr>${Object.entries(header.targets)
    .map(([mode, text]) => `<tr><td>${escaped(mode)}</td><td><code>${escaped(text)}</code></td></tr>`)
    .join('')}</table>
${sloTable(summary)}
</body></html>
`;
}

const style = `
body{font:15px/1.5 system-ui,"DejaVu Sans",sans-serif;max-width:1080px;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0 1.5rem;font-size:13px;font-variant-numeric:tabular-nums}
th,td{border-bottom:1px solid #ddd;padding:.25rem .6rem;text-align:right}th:first-child,td:first-child{text-align:left}
svg{max-width:100%;height:auto}code{font-size:12px}.bad{color:#b30000;font-weight:bold}.good{color:#00684a;font-weight:bold}.dim{color:#777}
figure{margin:0 0 2rem}figcaption{color:#555}`;

function plotSection({ plot, svg }: DrawnPlot): string {
  return `<figure><h2>${escaped(plot.title)}</h2>${svg.replace(/^<\?xml[^>]*>|<!DOCTYPE[^>]*>/g, '')}<figcaption>${escaped(plot.caption)}</figcaption></figure>`;
}

function verdict({ candidate }: SweepHeader, { neverWorse: it }: SweepSummary): string {
  if (it.pointCount === 0) return '';
  const worse =
    it.shownWorseCount === 0
      ? '<span class="good">never shown worse</span>'
      : `<span class="bad">shown worse at ${it.shownWorseCount}</span>`;
  return `<p><b>${escaped(candidate)}</b> against the better static mode, ${it.pointCount} points: within limits with 95 % certainty at
${it.withinCount}, ${worse}, better beyond noise at ${it.shownBetterCount}, void ${it.voidCount}. Lowest goodput ratio ${ratioText(it.goodputRatioMin, limits.goodputRatioMin, 'min')},
highest tail TTFT ratio ${ratioText(it.ttftP99RatioMax, limits.latencyRatioMax, 'max')}, highest tail TPOT ratio ${ratioText(it.tpotP99RatioMax, limits.latencyRatioMax, 'max')}.</p>`;
}

function ratioText(value: number | null, limit: number, side: 'min' | 'max'): string {
  if (value === null) return '–';
  const isPast = side === 'min' ? value < limit : value > limit;
  return `<span class="${isPast ? 'bad' : 'good'}">${figure(value)}</span>`;
}

function pointTable(header: SweepHeader, point: SweepPoint): string {
  const rows = point.modes.map(({ mode, summary, goodRequestsPerSecond, disaggregatedShare, coreShare }) => {
    const { ttftMs, tpotMs, itlMs, e2elMs } = summary;
    const cells = [
      `${escaped(mode)}${mode === point.reference ? ' <span class="dim">(reference)</span>' : ''}`,
      `${summary.completedCount} / ${summary.rejectedCount} / ${summary.failedCount + summary.unfinishedCount}`,
      disaggregatedShare === null ? '–' : `${figure(disaggregatedShare * 100)} %`,
      figure(summary.requestsPerSecond),
      figure(summary.outputTokensPerSecond),
      ...scales.map((scale) => figure(goodRequestsPerSecond[scale])),
      ...[ttftMs, tpotMs, itlMs, e2elMs].map(({ p50, p90, p99 }) => [p50, p90, p99].map(figure).join(' / ')),
      `${figure(summary.generatorDelayMsP99)}${summary.isVoid ? ' <span class="bad">void</span>' : ''}`,
      `${figure(coreShare * 100)} %`,
    ];
    return `<tr>${cells.map((cell) => `<td>${cell}</td>`).join('')}</tr>`;
  });
  return `<h3>${pointName(point)}</h3><table><tr><th>strategy</th><th>done / rejected / lost</th>
<th>disagg.</th><th>req/s</th><th>tok/s</th><th>goodput ½×</th><th>1×</th><th>2×</th><th>TTFT p50/p90/p99</th><th>TPOT</th><th>ITL</th><th>E2EL</th><th>generator delay p99</th><th>its core</th></tr>
${rows.join('')}</table>${comparisonLine('against the reference', point.comparison)}${whyWorse(header, point)}${comparisonLine('A/A, a static mode against itself', point.noise)}`;
}

function comparisonLine(label: string, comparison: Comparison | null): string {
  if (comparison === null) return '';
  const { goodput, ttft, tpot, latencyPercentile } = comparison;
  const text = [
    `goodput ${scales.map((scale) => goodputText(goodput[scale])).join(' / ')}`,
    `TTFT ${latencyPercentile} ${figure(ttft.ratio)} (≤ ${figure(ttft.high95)})`,
    `TPOT ${latencyPercentile} ${figure(tpot.ratio)} (≤ ${figure(tpot.high95)})`,
  ].join(', ');
  const state = comparison.isVoid
    ? '<span class="bad">void</span>'
    : comparison.isShownWorse
      ? '<span class="bad">worse</span>'
      : comparison.isWithin
        ? '<span class="good">within limits</span>'
        : '<span class="dim">not decided by this many requests</span>';
  return `<p>${label}: ${text} — ${state}</p>`;
}

/** What the records can say of a loss: which figures, which paths were chosen instead, and how far off the estimates behind the choice were. */
function whyWorse({ candidate }: SweepHeader, { modes, reference, comparison }: SweepPoint): string {
  const row = modes.find(({ mode }) => mode === candidate);
  if (row === undefined || comparison === null || comparison.isVoid || !comparison.isShownWorse) return '';
  const { goodput, ttft, tpot, latencyPercentile } = comparison;
  const lost = [
    ...scales.flatMap((scale) =>
      goodput[scale].isTelling && goodput[scale].high95 < limits.goodputRatioMin
        ? [`goodput at ${scale} × the targets (${figure(goodput[scale].ratio)} ×)`]
        : [],
    ),
    ...(ttft.low95 > limits.latencyRatioMax ? [`TTFT ${latencyPercentile} (${figure(ttft.ratio)} ×)`] : []),
    ...(tpot.low95 > limits.latencyRatioMax ? [`TPOT ${latencyPercentile} (${figure(tpot.ratio)} ×)`] : []),
  ];
  const { ttft: ttftError, tpot: tpotError } = row.predictionErrors;
  const path = row.disaggregatedShare === null ? '' : ` It disaggregated ${percent(row.disaggregatedShare)} of the requests.`;
  const errors =
    ttftError === undefined || tpotError === undefined
      ? ''
      : ` Its estimates were off by ${percent(ttftError.median)} (TTFT) and ${percent(tpotError.median)} (TPOT) in the median.`;
  return `<p class="bad">Worse than ${escaped(reference)} in ${lost.join(', ')}.${path}${errors}</p>`;
}

/** The ratio and its safe bound. */
function goodputText({ ratio, low95, isTelling }: GoodputBounds): string {
  const text = `${figure(ratio)} (≥ ${figure(low95)})`;
  return isTelling ? text : `<span class="dim">${text}, too few to judge</span>`;
}

function predictionTable({ points, predictionErrors }: SweepSummary, { candidate }: SweepHeader): string {
  const cells = (errors: PredictionErrors) =>
    predictionNames
      .map((name) => errors[name])
      .map((error) => (error === undefined ? '<td>–</td>' : `<td>${percent(error.median)} / ${percent(error.p90)}</td>`))
      .join('');
  if (Object.keys(predictionErrors).length === 0) return '';
  const rows = points.flatMap((point) => {
    const row = point.modes.find(({ mode }) => mode === candidate);
    return row === undefined
      ? []
      : [`<tr><td>${pointName(point)}</td><td>${row.summary.completedCount}</td>${cells(row.predictionErrors)}</tr>`];
  });
  return `<h2>How good the router's estimates were</h2><p>|predicted − real| / real of single requests under ${escaped(candidate)}, median / p90,
each metric for the length that the answer really had; the last with the length that was expected.</p>
<table><tr><th>point</th><th>requests</th>${predictionNames.map((name) => `<th>${predictionTitles[name]}</th>`).join('')}</tr>${rows.join('')}
<tr><td><b>all</b></td><td></td>${cells(predictionErrors)}</tr></table>`;
}

const percent = (share: number) => `${figure(100 * share)} %`;

function pointName({ workload, ratePerSecond, rateFraction }: SweepPoint): string {
  const fraction = rateFraction === null ? '' : ` (${rateFraction} × saturation)`;
  return `${escaped(workload)}, ${figure(ratePerSecond)} requests/s${fraction}`;
}

function sloTable({ slos }: SweepSummary): string {
  const rows = Object.entries(slos).flatMap(([workload, byClass]) =>
    Object.entries(byClass).map(
      ([lengthClass, { ttftMs, tpotMs }]) =>
        `<tr><td>${escaped(workload)}</td><td>${lengthClass}</td><td>${figure(ttftMs ?? Number.NaN)}</td><td>${figure(tpotMs ?? Number.NaN)}</td></tr>`,
    ),
  );
  return `<table><tr><th>workload</th><th>class</th><th>TTFT target (ms)</th><th>TPOT target (ms)</th></tr>${rows.join('')}</table>`;
}

function escaped(text: string): string {
  return text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
}
