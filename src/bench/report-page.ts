/** One HTML page with nothing outside itself: verdict, tables, plots. Used by report.ts. */
import { scales } from './comparison.js';
import { escaped, percent, pointName } from './html-text.js';
import type { Plot } from './plot-style.js';
import { type ErrorsByName, predictionNames, predictionTitles } from './predictions.js';
import type { SweepHeader } from './sweep-file.js';
import type { SweepPoint, SweepSummary } from './sweep-summary.js';
import { figure } from './text-table.js';
import { verdictSection } from './verdict-section.js';

interface DrawnPlot {
  readonly plot: Plot;
  readonly svg: string;
}

export function reportPage(header: SweepHeader, summary: SweepSummary, plots: readonly DrawnPlot[]): string {
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Load test of ${escaped(header.model)}</title><style>${style}</style></head><body>
<h1>Load test of ${escaped(header.model)}</h1>
<p>${[header.date, header.machine, `seed ${header.seed}`, ...metadataOf(header)].map(escaped).join(' · ')}</p>
${verdictSection(header, summary)}
${plots.map(plotSection).join('\n')}
${predictionTable(summary, header)}
<h2>Points</h2>${summary.points.map((point) => pointTable(point)).join('\n')}
${handOverTable(summary)}
${unloadedTable(summary)}
<h2>How it was run</h2>
<p>Every strategy got the same arrivals and lengths at a point and repetition, one after the other, in turning order. SLOs: TTFT ≤
${header.ttftFactor} × and TPOT ≤ ${header.tpotFactor} × the unloaded p50 of the request's length class in the better static mode${
    header.sentSlo === true ? '; each request carried these SLOs to its server' : ''
  }.
A request that was rejected, failed or never ended misses its SLO with infinite latencies. A point whose generator was more than
5 ms late at p99 is void.</p>
<table><tr><th>strategy</th><th>server</th></tr>${Object.entries(header.targets)
    .map(([mode, text]) => `<tr><td>${escaped(mode)}</td><td><code>${escaped(text)}</code></td></tr>`)
    .join('')}</table>
${sloTable(summary)}
</body></html>
`;
}

function metadataOf({ metadata = {} }: SweepHeader): readonly string[] {
  return Object.entries(metadata).map(([key, value]) => `${key} ${value}`);
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

function pointTable(point: SweepPoint): string {
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
${rows.join('')}</table>`;
}

/** Strategies and points with hand-overs: how long a request was held up by its own. */
function handOverTable({ points }: SweepSummary): string {
  const rows = points.flatMap((point) =>
    point.modes
      .filter(({ exposedTransferMs }) => exposedTransferMs.count > 0)
      .map(({ mode, exposedTransferMs: { count, p50, p90, p99 } }) => {
        const cells = [pointName(point), escaped(mode), String(count), ...[p50, p90, p99].map(figure)];
        return `<tr>${cells.map((cell) => `<td>${cell}</td>`).join('')}</tr>`;
      }),
  );
  if (rows.length === 0) return '';
  return `<h2>What hand-overs held up</h2><p>Milliseconds from the first token until the decode side went on with the request, as the server timed it.</p>
<table><tr><th>point</th><th>strategy</th><th>hand-overs</th><th>p50</th><th>p90</th><th>p99</th></tr>${rows.join('')}</table>`;
}

function unloadedTable({ unloaded, saturation }: SweepSummary): string {
  const row = (cells: readonly string[]) => `<tr>${cells.map((cell) => `<td>${cell}</td>`).join('')}</tr>`;
  const single = unloaded.map(({ workload, lengthClass, mode, ttftMs, tpotMs, e2elMs }) =>
    row([
      `${escaped(workload)}, ${lengthClass} prompts, ${escaped(mode)}`,
      String(e2elMs.count),
      ...[ttftMs, tpotMs, e2elMs].map(({ p50, p99 }) => `${figure(p50)} / ${figure(p99)}`),
    ]),
  );
  const full = saturation.map(({ workload, mode, requestsPerSecond, outputTokensPerSecond }) =>
    row([`${escaped(workload)}, ${escaped(mode)}`, figure(requestsPerSecond), figure(outputTokensPerSecond)]),
  );
  return `<h2>One request at a time</h2><p>Milliseconds, p50 / p99. The SLOs come from the better static mode of these.</p>
<table><tr><th>requests</th><th>count</th><th>TTFT</th><th>TPOT</th><th>E2EL</th></tr>${single.join('')}</table>
<h2>Saturation</h2><p>As many requests open as was asked for; filling and emptying are in the figures.</p>
<table><tr><th>workload</th><th>req/s</th><th>tok/s</th></tr>${full.join('')}</table>`;
}

function predictionTable({ points, predictionErrors }: SweepSummary, { candidate }: SweepHeader): string {
  const cells = (errors: ErrorsByName) =>
    predictionNames
      .map((name) => errors[name])
      .map((error) =>
        error === undefined ? '<td>–</td>' : `<td>${percent(error.median)} / ${percent(error.p90)}</td>`,
      )
      .join('');
  if (Object.keys(predictionErrors).length === 0) return '';
  const rows = points.flatMap((point) =>
    point.modes
      .filter((row) => Object.keys(row.predictionErrors).length > 0)
      .map(
        (row) =>
          `<tr><td>${pointName(point)}</td><td>${escaped(row.mode)}</td><td>${row.summary.completedCount}</td>${cells(row.predictionErrors)}</tr>`,
      ),
  );
  return `<h2>How good the router's estimates were</h2><p>|predicted − real| / real of single requests, median / p90, each metric for the
length that the answer really had; the last with the length that was expected. The path that was taken is judged, under the static strategies too.</p>
<table><tr><th>point</th><th>strategy</th><th>requests</th>${predictionNames.map((name) => `<th>${predictionTitles[name]}</th>`).join('')}</tr>${rows.join('')}
<tr><td><b>all</b></td><td>${escaped(candidate)}</td><td></td>${cells(predictionErrors)}</tr></table>`;
}

function sloTable({ slos }: SweepSummary): string {
  const rows = Object.entries(slos).flatMap(([workload, byClass]) =>
    Object.entries(byClass).map(
      ([lengthClass, { ttftMs, tpotMs }]) =>
        `<tr><td>${escaped(workload)}</td><td>${lengthClass}</td><td>${figure(ttftMs ?? Number.NaN)}</td><td>${figure(tpotMs ?? Number.NaN)}</td></tr>`,
    ),
  );
  return `<table><tr><th>workload</th><th>class</th><th>TTFT SLO (ms)</th><th>TPOT SLO (ms)</th></tr>${rows.join('')}</table>`;
}
