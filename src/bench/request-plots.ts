/** Plots of single requests rather than of runs: distributions, predictions, routes. Pure. Used by
 *  plots.ts. */
import { Prng } from '../base/prng.js';
import { e2elMsOf, type LoadRecord, pathOf, tpotMsOf, ttftMsOf } from './load-record.js';
import { modeColor, type Plot, smallMultiples } from './plot-style.js';
import { predictionNames, predictionOf, predictionTitles } from './predictions.js';
import type { SweepData } from './sweep-file.js';
import type { SweepSummary } from './sweep-summary.js';

interface PointRecord {
  readonly workload: string;
  readonly mode: string;
  readonly rate: number;
  readonly record: LoadRecord;
}

export function requestPlots(
  summary: SweepSummary,
  data: SweepData,
  modes: readonly string[],
): readonly Plot[] {
  const all = data.header.runs
    .filter(({ stage }) => stage === 'point')
    .flatMap(({ runIndex, workload, mode, ratePerSecond }) =>
      (data.records.get(runIndex) ?? [])
        .filter(({ phase }) => phase === 'measured')
        .map((record): PointRecord => ({ workload, mode, rate: ratePerSecond ?? 0, record })),
    );
  return [...cdfPlot(summary, all, modes), ...predictionPlot(all), ...routePlot(all)];
}

const cdfPointCount = 101;
/** Below, an answer came in one piece: how small the figure is says nothing, and would stretch the axis. */
const shownMsMin = 0.05;

/** At the rate nearest to 0.9 of saturation: where strategies differ most without being overrun. */
function cdfPlot(
  { points }: SweepSummary,
  all: readonly PointRecord[],
  modes: readonly string[],
): readonly Plot[] {
  const workloads = [...new Set(points.map(({ workload }) => workload))];
  const values = workloads.flatMap((workload) => {
    const mine = points.filter((point) => point.workload === workload);
    const distance = (point: (typeof mine)[number]) => Math.abs((point.rateFraction ?? 0.9) - 0.9);
    const chosen = mine.reduce((best, point) => (distance(point) < distance(best) ? point : best), mine[0]!);
    const rate = chosen.ratePerSecond;
    return modes.flatMap((mode) => {
      const records = all.filter(
        (entry) => entry.workload === workload && entry.mode === mode && entry.rate === rate,
      );
      return [
        ...cdf(records, e2elMsOf).map((point) => ({
          ...point,
          mode,
          panel: `${workload}, ${rate.toPrecision(3)}/s: end to end`,
        })),
        ...cdf(records, ttftMsOf).map((point) => ({
          ...point,
          mode,
          panel: `${workload}, ${rate.toPrecision(3)}/s: first token`,
        })),
        ...cdf(records, tpotMsOf).map((point) => ({
          ...point,
          mode,
          panel: `${workload}, ${rate.toPrecision(3)}/s: per token`,
        })),
      ];
    });
  });
  if (values.length === 0) return [];
  return [
    {
      name: 'latency-cdf',
      title: 'Latency distribution near saturation',
      caption:
        'Share of all measured requests that were answered within a time. A line that ends below 100 % lost requests.',
      spec: smallMultiples(
        values,
        'panel',
        { width: 270, height: 200, columns: 3 },
        {
          mark: { type: 'line', strokeWidth: 2 },
          encoding: {
            x: {
              field: 'ms',
              type: 'quantitative',
              title: 'ms',
              scale: { type: 'log', nice: false },
              axis: { format: '~g', tickCount: 5 },
            },
            y: {
              field: 'share',
              type: 'quantitative',
              title: 'requests',
              axis: { format: '%' },
              scale: { domain: [0, 1] },
            },
            color: modeColor(modes),
            order: { field: 'share', type: 'quantitative' },
          },
        },
      ),
    },
  ];
}

function cdf(entries: readonly PointRecord[], value: (record: LoadRecord) => number | undefined) {
  const times = entries
    .filter(({ record }) => record.outcome === 'completed')
    .map(({ record }) => value(record))
    .filter((ms) => ms !== undefined && ms > 0)
    .sort((a = 0, b = 0) => a - b);
  if (times.length === 0) return [];
  return Array.from({ length: cdfPointCount }, (_, i) => {
    const position = Math.round((i / (cdfPointCount - 1)) * (times.length - 1));
    return { ms: Math.max(shownMsMin, times[position] ?? 0), share: (position + 1) / entries.length };
  });
}

const scatterPointCountMax = 700;

/** Only where the server tells its estimates. */
function predictionPlot(all: readonly PointRecord[]): readonly Plot[] {
  const values = predictionNames.flatMap((name) =>
    all.flatMap(({ record }) => {
      const prediction = predictionOf(record, name);
      return prediction === undefined
        ? []
        : [{ panel: predictionTitles[name], path: pathOf(record), ...prediction }];
    }),
  );
  if (values.length === 0) return [];
  const prng = new Prng(1);
  const keep = scatterPointCountMax / values.length;
  const shown = keep >= 1 ? values : values.filter(() => prng.uniform() < keep);
  const log = { type: 'log' } as const;
  const dots = {
    mark: { type: 'point', filled: true, size: 18, opacity: 0.45 },
    encoding: {
      x: {
        field: 'predictedMs',
        type: 'quantitative',
        title: 'predicted (ms)',
        scale: log,
        axis: { format: '~g', tickCount: 5 },
      },
      y: {
        field: 'realMs',
        type: 'quantitative',
        title: 'real (ms)',
        scale: log,
        axis: { format: '~g', tickCount: 5 },
      },
      color: {
        field: 'path',
        type: 'nominal',
        title: 'path',
        scale: { range: ['#0072B2', '#D55E00', '#999999'] },
      },
    },
  };
  const diagonal = {
    mark: { type: 'line', color: '#333', strokeDash: [4, 4] },
    encoding: {
      x: { field: 'predictedMs', type: 'quantitative', scale: log },
      y: { field: 'predictedMs', type: 'quantitative', scale: log },
    },
  };
  return [
    {
      name: 'predicted-vs-real',
      title: 'What the router expected and what came',
      caption:
        'One dot a request, under all strategies; on the dashed line the estimate for its path was right. Both axes are logarithmic.',
      spec: smallMultiples(
        shown,
        'panel',
        { width: 270, height: 270, columns: 3 },
        { layer: [diagonal, dots] },
      ),
    },
  ];
}

const promptBins = [0, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];
const loadBins = [0, 1, 2, 4, 8, 16, 32, 64, 128];

/** Which path the requests took, of modes where both occur. */
function routePlot(all: readonly PointRecord[]): readonly Plot[] {
  const cells = new Map<
    string,
    {
      mode: string;
      prompt: string;
      load: string;
      promptBin: number;
      loadBin: number;
      count: number;
      splitCount: number;
    }
  >();
  const paths = new Map<string, Set<string>>();
  for (const { mode, record } of all) {
    const path = pathOf(record);
    if (path === 'unknown') continue;
    paths.set(mode, (paths.get(mode) ?? new Set()).add(path));
    const promptBin = binOf(promptBins, record.promptTokenCount);
    const loadBin = binOf(loadBins, record.inFlightCount);
    const key = `${mode} ${promptBin} ${loadBin}`;
    const cell = cells.get(key) ?? {
      mode,
      prompt: binName(promptBins, promptBin),
      load: binName(loadBins, loadBin),
      promptBin,
      loadBin,
      count: 0,
      splitCount: 0,
    };
    cell.count++;
    if (path === 'disaggregated') cell.splitCount++;
    cells.set(key, cell);
  }
  const values = [...cells.values()]
    .filter(({ mode }) => (paths.get(mode)?.size ?? 0) > 1)
    .map((cell) => ({ ...cell, share: cell.splitCount / cell.count }));
  if (values.length === 0) return [];
  const axis = (field: string, title: string, sort: object) => ({
    field,
    type: 'ordinal',
    title,
    sort,
    axis: { labelAngle: 0 },
  });
  const x = axis('prompt', 'prompt (tokens)', { field: 'promptBin' });
  const y = axis('load', 'open requests at arrival', { field: 'loadBin', order: 'descending' });
  return [
    {
      name: 'routes',
      title: 'Which path requests took',
      caption:
        'Share of requests that were disaggregated, by prompt length and load at their arrival; the number is how many there were.',
      spec: smallMultiples(
        values,
        'mode',
        { width: 460, height: 260, columns: 2 },
        {
          layer: [
            {
              mark: { type: 'rect' },
              encoding: {
                x,
                y,
                color: {
                  field: 'share',
                  type: 'quantitative',
                  title: 'disaggregated',
                  scale: { domain: [0, 1], range: ['#f2f0e6', '#0072B2'] },
                  legend: { format: '%' },
                },
              },
            },
            {
              mark: { type: 'text', fontSize: 11 },
              encoding: {
                x,
                y,
                text: { field: 'count', type: 'quantitative' },
                color: { condition: { test: 'datum.share > 0.6', value: 'white' }, value: '#333' },
              },
            },
          ],
        },
      ),
    },
  ];
}

function binOf(edges: readonly number[], value: number): number {
  const over = edges.findIndex((edge) => edge > value);
  return (over === -1 ? edges.length : over) - 1;
}

function binName(edges: readonly number[], bin: number): string {
  const low = edges[bin] ?? 0;
  const high = edges[bin + 1];
  if (high === undefined) return `≥ ${low}`;
  return high - low === 1 ? String(low) : `${low}–${high - 1}`;
}
