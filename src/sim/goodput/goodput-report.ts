/** Goodput points as a table for people and as plots. Used by scripts/bench-goodput.mjs. */
import { modeColor, modeShape, type Plot, smallMultiples, withStyle } from '../../bench/plot-style.js';
import type { GoodputPoint } from './goodput-point.js';

/** A point, and whose. */
interface ProfiledPoint extends GoodputPoint {
  readonly profile: string;
}

const titles = {
  collocated: 'collocated',
  disaggregated: 'disaggregated',
  adaptive: 'adaptive',
  bestFound: 'best found',
  bound: 'bound without queues',
} as const;
type SeriesName = keyof typeof titles;
const seriesNames = Object.keys(titles) as SeriesName[];
/** The bound is far above where it is not what arrives: it would press the rest together. */
const drawnNames = seriesNames.filter((name) => name !== 'bound');

const lateTitle = 'adaptive, late ones served';

/** Adaptive over the better static mode; null where neither has anything. */
export function ratioOf({ goodput }: GoodputPoint): number | null {
  const reference = Math.max(goodput.collocated, goodput.disaggregated);
  if (reference === 0) return goodput.adaptive === 0 ? null : Number.POSITIVE_INFINITY;
  return goodput.adaptive / reference;
}

/** Markdown. */
export function goodputTable(points: readonly ProfiledPoint[]): string {
  const head = [
    `| workload | of saturation | rate/s | ${seriesNames.map((name) => titles[name]).join(' | ')} | adaptive / better static | better static | p99 of the good, adaptive / better static: TTFT | TPOT | ITL | shed by adaptive | good when late ones are served / when shed | completed/s: late ones served / fixed budget | best policy |`,
    `|-|-|-|${seriesNames.map(() => '-|').join('')}-|-|-|-|-|-|-|-|-|`,
  ];
  const profiles = [...new Set(points.map(({ profile }) => profile))];
  return profiles
    .map((profile) => {
      const mine = points.filter((point) => point.profile === profile);
      return [`${profile}`, '', ...head, ...mine.map(rowText)].join('\n');
    })
    .join('\n\n');
}

function rowText(point: ProfiledPoint): string {
  const {
    workload,
    ofSaturation,
    ratePerSecond,
    goodput,
    reference,
    bestPolicy,
    ttftP99,
    tpotP99,
    itlP99,
    modes,
  } = point;
  const pair = ({ adaptive, reference }: GoodputPoint['ttftP99'], digits: number) =>
    [adaptive, reference].map((ms) => (ms === null ? '–' : ms.toFixed(digits))).join(' / ');
  const adaptive = modes.find(({ strategy }) => strategy === 'adaptive');
  const shed =
    adaptive === undefined ? '–' : `${((100 * adaptive.shedCount) / adaptive.requestCount).toFixed(0)} %`;
  const cells = [
    ...[workload, ofSaturation, ratePerSecond.toFixed(1)],
    ...seriesNames.map((name) => goodput[name].toFixed(1)),
    ratioOf(point)?.toFixed(2) ?? '–',
    `${reference.strategy}${reference.pacing === 'on' ? ', paced' : ''}`,
    ...[pair(ttftP99, 0), pair(tpotP99, 2), pair(itlP99, 1), shed, ...lateCells(point), bestPolicy],
  ];
  return `| ${cells.join(' | ')} |`;
}

/** What serving late requests costs and gains. */
function lateCells({ late, modes }: GoodputPoint): readonly [string, string] {
  const adaptive = modes.find(({ strategy }) => strategy === 'adaptive');
  if (late === null || adaptive === undefined) return ['–', '–'];
  const share = adaptive.goodput === 0 ? '–' : (late.goodput / adaptive.goodput).toFixed(2);
  const unpaced = modes.filter(({ pacing }) => pacing === 'off').map((each) => each.completedPerSecond);
  return [
    `${late.goodput.toFixed(1)}: ${share} ×`,
    `${late.completedPerSecond.toFixed(1)} / ${Math.max(...unpaced).toFixed(1)}`,
  ];
}

export function goodputPlot(points: readonly ProfiledPoint[], profile: string): Plot {
  const values = points
    .filter((point) => point.profile === profile)
    .flatMap(({ workload, ratePerSecond: rate, goodput, late }) => [
      ...drawnNames.map((name) => ({ workload, rate, mode: titles[name] as string, value: goodput[name] })),
      ...(late === null ? [] : [{ workload, rate, mode: lateTitle, value: late.goodput }]),
    ]);
  const names = [...drawnNames.map((name) => titles[name]), lateTitle];
  const spec = smallMultiples(
    values,
    'workload',
    { width: 380, height: 260, columns: 2 },
    {
      mark: { type: 'line', point: { filled: true, size: 60 }, strokeWidth: 2 },
      encoding: {
        x: { field: 'rate', type: 'quantitative', title: 'arrivals (requests/s)', scale: { zero: true } },
        y: { field: 'value', type: 'quantitative', title: 'good requests/s', scale: { zero: true } },
        color: modeColor(names),
        shape: modeShape(names),
      },
    },
  );
  return {
    name: `goodput-${profile}`,
    title: 'Goodput on virtual time',
    caption:
      'Requests within their SLO a second. Static modes: paced or not, whichever is better. Best found: of policies that know everything.',
    spec: withStyle(spec),
  };
}
