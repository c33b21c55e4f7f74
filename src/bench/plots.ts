/** The plots of a sweep, as vega-lite specifications with their data. Pure. Used by report.ts.
 *  A plot without data is left out rather than drawn empty. */
import { everyRequest, modeColor, modeShape, type Plot, smallMultiples, withStyle } from './plot-style.js';
import { requestPlots } from './request-plots.js';
import type { SweepData } from './sweep-file.js';
import type { SweepPoint, SweepSummary } from './sweep-summary.js';
import { verdictPlot } from './verdict-plot.js';

export function sweepPlots(summary: SweepSummary, data: SweepData): readonly Plot[] {
  const modes = [...new Set(summary.points.flatMap((point) => point.modes.map(({ mode }) => mode)))];
  const plots = [
    ...verdictPlot(data.header.candidate, summary),
    ratePlot(summary, modes, throughput),
    ratePlot(summary, modes, goodput),
    latencyPlot(summary, modes, ttft),
    latencyPlot(summary, modes, tpot),
    outcomePlot(summary, modes),
    ...requestPlots(summary, data, modes),
  ];
  return plots.map((plot) => ({ ...plot, spec: withStyle(plot.spec) }));
}

interface RateFigure {
  readonly name: string;
  readonly title: string;
  readonly axisTitle: string;
  readonly caption: string;
  readonly value: (row: SweepPoint['modes'][number]) => number;
}

const throughput: RateFigure = {
  name: 'throughput',
  title: 'Output throughput',
  axisTitle: 'tokens/s',
  caption: 'What comes out against what is asked for. A line that flattens has reached its saturation.',
  value: ({ summary }) => summary.outputTokensPerSecond,
};
const goodput: RateFigure = {
  name: 'goodput',
  title: 'Goodput: requests within their SLOs',
  axisTitle: 'good requests/s',
  caption:
    'Requests that met both the TTFT and TPOT SLO of their length class. A line below "every request" by how many missed them.',
  value: (row) => row.goodRequestsPerSecond['1'] ?? 0,
};

function ratePlot({ points }: SweepSummary, modes: readonly string[], figure: RateFigure): Plot {
  const values = points.flatMap(({ workload, ratePerSecond: rate, modes: rows }) => [
    ...rows.map((row) => ({ workload, rate, mode: row.mode, value: figure.value(row) })),
    ...(figure.name === 'goodput' ? [{ workload, rate, mode: everyRequest, value: rate }] : []),
  ]);
  const series = figure.name === 'goodput' ? [...modes, everyRequest] : modes;
  return {
    ...figure,
    spec: smallMultiples(
      values,
      'workload',
      { width: 380, height: 260, columns: 2 },
      {
        mark: { type: 'line', point: { filled: true, size: 60 }, strokeWidth: 2 },
        encoding: {
          x: rateAxis,
          y: { field: 'value', type: 'quantitative', title: figure.axisTitle, scale: { zero: true } },
          color: modeColor(series),
          shape: modeShape(series),
        },
      },
    ),
  };
}

const rateAxis = {
  field: 'rate',
  type: 'quantitative',
  title: 'arrivals (requests/s)',
  scale: { zero: false, nice: true },
} as const;

interface LatencyFigure {
  readonly name: string;
  readonly title: string;
  readonly metric: 'ttftMs' | 'tpotMs';
}

const ttft: LatencyFigure = { name: 'ttft', title: 'Time to first token (ms)', metric: 'ttftMs' };
const tpot: LatencyFigure = { name: 'tpot', title: 'Time per output token (ms)', metric: 'tpotMs' };

function latencyPlot(
  { points }: SweepSummary,
  modes: readonly string[],
  { name, title, metric }: LatencyFigure,
): Plot {
  const values = points.flatMap((point) =>
    point.modes.flatMap(
      ({ mode, summary }) =>
        (['p50', 'p90'] as const)
          .map((percentile) => ({
            workload: point.workload,
            rate: point.ratePerSecond,
            mode,
            percentile,
            value: summary[metric][percentile],
          }))
          .filter(({ value }) => value > 0), // nothing completed: nothing to show on a logarithmic axis
    ),
  );
  return {
    name,
    title,
    caption:
      'Solid: p50, dashed: p90, of completed requests. Logarithmic. Where lines rise steeply, requests queue.',
    spec: smallMultiples(
      values,
      'workload',
      { width: 380, height: 260, columns: 2 },
      {
        mark: { type: 'line', point: { filled: true, size: 50 }, strokeWidth: 2 },
        encoding: {
          x: rateAxis,
          y: {
            field: 'value',
            type: 'quantitative',
            title,
            scale: { type: 'log', nice: false, padding: 8 },
            axis: { format: '~g', tickCount: 6 },
          },
          color: modeColor(modes),
          shape: modeShape(modes),
          strokeDash: {
            field: 'percentile',
            type: 'nominal',
            title: 'percentile',
            legend: {
              symbolType: 'stroke',
              symbolSize: 400,
              symbolStrokeWidth: 2,
              symbolFillColor: 'transparent',
            },
            scale: {
              domain: ['p50', 'p90'],
              range: [
                [1, 0],
                [5, 4],
              ],
            },
          },
        },
      },
    ),
  };
}

const outcomes = ['completed in time', 'completed late', 'rejected', 'failed', 'unfinished'];

function outcomePlot({ points }: SweepSummary, modes: readonly string[]): Plot {
  const values = points.flatMap((point) =>
    point.modes.flatMap(({ mode, summary }) => {
      const goodCount = Math.round((summary.sloAttainment ?? 0) * summary.requestCount);
      const counts = [
        goodCount,
        summary.completedCount - goodCount,
        summary.rejectedCount,
        summary.failedCount,
        summary.unfinishedCount,
      ];
      return outcomes.map((outcome, order) => ({
        panel: `${point.workload}: ${mode}`,
        rate: point.ratePerSecond.toPrecision(3),
        outcome,
        order,
        share: (counts[order] ?? 0) / Math.max(1, summary.requestCount),
      }));
    }),
  );
  return {
    name: 'outcomes',
    title: 'What became of the requests',
    caption:
      'Share of measured requests at each rate. Every request that was sent is in exactly one of the five.',
    spec: smallMultiples(
      values,
      'panel',
      { width: 250, height: 150, columns: modes.length },
      {
        mark: { type: 'bar' },
        encoding: {
          x: {
            field: 'rate',
            type: 'ordinal',
            title: 'arrivals (requests/s)',
            sort: null,
            axis: { labelAngle: 0 },
          },
          y: {
            field: 'share',
            type: 'quantitative',
            title: 'share',
            stack: true,
            axis: { format: '%' },
            scale: { domain: [0, 1] },
          },
          color: {
            field: 'outcome',
            type: 'nominal',
            title: null,
            sort: outcomes,
            scale: { domain: outcomes, range: ['#009E73', '#E69F00', '#CC79A7', '#D55E00', '#777777'] },
          },
          order: { field: 'order', type: 'quantitative' },
        },
      },
    ),
  };
}
