/** The picture of "never worse": every point's ratios with their bounds, candidate and A/A side by side, and
 *  the limits. Used by plots.ts. */
import { type Comparison, limits } from './comparison.js';
import { modeColor, type Plot } from './plot-style.js';
import type { SweepSummary } from './sweep-summary.js';

/** Ratios beyond are drawn at the edge: infinities have no place on an axis. */
const [ratioMin, ratioMax] = [0.25, 4];

const panels = {
  goodput: 'goodput, 1 × SLOs (right is better)',
  ttft: 'tail TTFT (left is better)',
  tpot: 'tail TPOT (left is better)',
};

export function verdictPlot(candidate: string, { points }: SweepSummary): readonly Plot[] {
  const values = points.flatMap(({ workload, ratePerSecond, rateFraction, comparison, noise }) => {
    const point = `${workload} ${rateFraction === null ? `${ratePerSecond.toPrecision(3)}/s` : `${rateFraction} ×`}`;
    return [...rowsOf(point, candidate, comparison), ...rowsOf(point, 'A/A', noise)];
  });
  if (values.length === 0) return [];
  const modes = [candidate, 'A/A'];
  const order = [...new Set(values.map(({ point }) => point))];
  const x = {
    type: 'quantitative',
    scale: { type: 'log', domain: [ratioMin, ratioMax], clamp: true },
  } as const;
  const y = { field: 'point', type: 'nominal', title: null, sort: order };
  const yOffset = { field: 'mode', sort: modes };
  const limit = {
    mark: { type: 'rule', color: '#b30000', strokeDash: [4, 3] },
    encoding: { x: { ...x, field: 'limit', aggregate: 'min' } },
  };
  return [
    {
      name: 'never-worse',
      title: 'Against the better static mode, with 95 % bounds',
      caption:
        'Ratio to the better static mode; dashed red: the limit. A bar that crosses the limit is undecided, one wholly past it is worse. A/A is a static mode against itself: as wide as noise makes it.',
      spec: {
        data: { values },
        facet: { field: 'panel', type: 'nominal', title: null, sort: Object.values(panels) },
        columns: 3,
        spec: {
          width: 260,
          height: { step: 15 },
          layer: [
            { mark: { type: 'rule', color: '#999' }, encoding: { x: { ...x, datum: 1 } } },
            limit,
            {
              mark: { type: 'rule', strokeWidth: 2 },
              encoding: {
                x: {
                  ...x,
                  field: 'low',
                  title: 'ratio',
                  axis: { values: [0.25, 0.5, 0.8, 1, 1.25, 2, 4], format: '~g' },
                },
                x2: { field: 'high' },
                y,
                yOffset,
                color: modeColor(modes, null),
              },
            },
            {
              mark: { type: 'point', filled: true, size: 45 },
              encoding: { x: { ...x, field: 'ratio' }, y, yOffset, color: modeColor(modes, null) },
            },
          ],
        },
      },
    },
  ];
}

function rowsOf(point: string, mode: string, comparison: Comparison | null) {
  if (comparison === null || comparison.verdict === 'void') return [];
  const { goodput, ttft, tpot } = comparison;
  const inside = (ratio: number) => Math.min(ratioMax, Math.max(ratioMin, ratio));
  const rows = [
    ...(goodput['1'].verdict === 'not judged'
      ? []
      : [{ panel: panels.goodput, limit: limits.goodputRatioMin, bounds: goodput['1'] }]),
    { panel: panels.ttft, limit: limits.latencyRatioMax, bounds: ttft },
    { panel: panels.tpot, limit: limits.latencyRatioMax, bounds: tpot },
  ];
  return rows.map(({ panel, limit, bounds: { ratio, low95, high95 } }) => ({
    point,
    mode,
    panel,
    limit,
    ratio: inside(ratio),
    low: inside(low95),
    high: inside(high95),
  }));
}
