/** How far simulated figures are from real ones: rows of a table, and how many are within the aim. Used by
 *  scripts/simulate-accuracy.mjs. */
import type { LoadRecord } from '../bench/load-record.js';
import { type RunSummary, summariseRun } from '../bench/summary.js';
import type { SweepData, SweepRun } from '../bench/sweep-file.js';

const figures = {
  ttftP50: { metric: 'ttftMs', percentile: 'p50', title: 'TTFT p50', errorMax: 0.15 },
  ttftP99: { metric: 'ttftMs', percentile: 'p99', title: 'TTFT p99', errorMax: 0.3 },
  tpotP50: { metric: 'tpotMs', percentile: 'p50', title: 'TPOT p50', errorMax: 0.15 },
  tpotP99: { metric: 'tpotMs', percentile: 'p99', title: 'TPOT p99', errorMax: 0.3 },
} as const;
type FigureName = keyof typeof figures;
const figureNames = Object.keys(figures) as FigureName[];
/** Of saturation: below it the aims hold. */
const fractionMax = 0.9;

interface Pair {
  readonly realMs: number;
  readonly virtualMs: number;
  /** |virtual − real| / real. */
  readonly error: number;
}

type Pairs = Readonly<Record<FigureName, Pair>>;

interface AccuracyRow extends Pairs {
  readonly workload: string;
  readonly mode: string;
  readonly ratePerSecond: number;
  /** Of the real saturation of the better static mode. */
  readonly fraction: number;
  /** Measured and completed, of all repetitions. */
  readonly requestCount: number;
  /** The real generator was late. */
  readonly isVoid: boolean;
  /** Errors of the same real runs made once more (A/A); null: that was not done. */
  readonly repeatErrors: Readonly<Record<FigureName, number>> | null;
}

interface SaturationRow {
  readonly workload: string;
  readonly mode: string;
  readonly realPerSecond: number;
  readonly virtualPerSecond: number;
}

function pairsOf(real: RunSummary, virtual: RunSummary): Pairs {
  const pair = ({ metric, percentile }: (typeof figures)[FigureName]): Pair => {
    const [realMs, virtualMs] = [real[metric][percentile], virtual[metric][percentile]];
    return { realMs, virtualMs, error: Math.abs(virtualMs - realMs) / realMs };
  };
  return Object.fromEntries(figureNames.map((name) => [name, pair(figures[name])])) as unknown as Pairs;
}

interface Accuracy {
  readonly rows: readonly AccuracyRow[];
  readonly saturations: readonly SaturationRow[];
}

type RecordsByRun = ReadonlyMap<number, readonly LoadRecord[]>;

/** Of a real sweep and its replays (sweep-replay.ts), which differ in what was drawn: repetitions of a point
 *  count together, and so do replays. */
export function accuracyOf({ header, records }: SweepData, replays: readonly RecordsByRun[]): Accuracy {
  const summaryOf = (runs: readonly SweepRun[], all: readonly RecordsByRun[]) =>
    summariseRun(
      all.flatMap((of) => runs.flatMap(({ runIndex }) => of.get(runIndex) ?? [])),
      null,
    );
  const virtualPerSecond = (run: SweepRun) =>
    replays.reduce((sum, replayed) => sum + summaryOf([run], [replayed]).requestsPerSecond, 0) /
    replays.length;
  const saturations = header.runs
    .filter(({ stage }) => stage === 'saturation')
    .map((run) => ({
      workload: run.workload,
      mode: run.mode,
      realPerSecond: summaryOf([run], [records]).requestsPerSecond,
      virtualPerSecond: virtualPerSecond(run),
    }));
  const saturationOf = (workload: string) =>
    Math.max(
      ...saturations
        .filter((row) => row.workload === workload && row.mode !== header.candidate)
        .map(({ realPerSecond }) => realPerSecond),
    );
  const points = header.runs.filter(({ stage }) => stage === 'point');
  const isSame = (a: SweepRun, b: SweepRun) =>
    a.workload === b.workload && a.mode === b.mode && a.ratePerSecond === b.ratePerSecond;
  const firsts = points.filter((run, place) => points.findIndex((other) => isSame(run, other)) === place);
  const rows = firsts.map((first): AccuracyRow => {
    const { workload, mode, rateFraction } = first;
    const ratePerSecond = first.ratePerSecond ?? Number.NaN;
    const ofPoint = (stage: SweepRun['stage']) =>
      header.runs.filter((run) => run.stage === stage && isSame(run, first));
    const real = summaryOf(ofPoint('point'), [records]);
    const repeats = ofPoint('repeat');
    return {
      workload,
      mode,
      ratePerSecond,
      fraction: rateFraction ?? ratePerSecond / saturationOf(workload),
      requestCount: real.completedCount,
      isVoid: real.isVoid,
      ...pairsOf(real, summaryOf(ofPoint('point'), replays)),
      repeatErrors: repeats.length === 0 ? null : errorsOf(pairsOf(real, summaryOf(repeats, [records]))),
    };
  });
  return { rows, saturations };
}

function errorsOf(pairs: Pairs): Readonly<Record<FigureName, number>> {
  return Object.fromEntries(figureNames.map((name) => [name, pairs[name].error])) as Record<
    FigureName,
    number
  >;
}

const tableHead = [
  `| workload | strategy | rate/s (of saturation) | requests | ${figureNames.map((name) => `${figures[name].title}, real / simulated ms`).join(' | ')} |`,
  `|-|-|-|-${'|-'.repeat(figureNames.length)}|`,
];

/** Markdown: a table, the verdict, saturations. */
export function accuracyText({ rows, saturations }: Accuracy): string {
  const lines = saturations.map(
    ({ workload, mode, realPerSecond, virtualPerSecond }) =>
      `Saturation of ${workload}, ${mode}: ${realPerSecond.toFixed(1)} requests per second, simulated ${virtualPerSecond.toFixed(1)}.`,
  );
  return `${[...tableHead, ...rows.map(rowText)].join('\n')}\n\n${verdictText(rows)}\n\n${lines.join('\n\n')}\n`;
}

function rowText({
  workload,
  mode,
  ratePerSecond,
  fraction,
  requestCount,
  isVoid,
  repeatErrors,
  ...pairs
}: AccuracyRow): string {
  const cells = figureNames.map((name) => {
    const { realMs, virtualMs, error } = pairs[name];
    const again = repeatErrors === null ? '' : `, A/A ${percent(repeatErrors[name])}`;
    return `${realMs.toPrecision(3)} / ${virtualMs.toPrecision(3)} (${percent(error)} %${again})`;
  });
  const rate = `${ratePerSecond.toFixed(1)} (${fraction.toFixed(2)})${isVoid ? ' VOID' : ''}`;
  return `| ${[workload, mode, rate, requestCount, ...cells].join(' | ')} |`;
}

/** Of the rows below 0.9 of saturation: the aim is 15 % at p50, 30 % at p99. */
function verdictText(all: readonly AccuracyRow[]): string {
  const rows = all.filter(({ fraction }) => fraction < fractionMax);
  const texts = figureNames.map((name) => {
    const errors = rows.map((row) => row[name].error).sort((a, b) => a - b);
    const within = errors.filter((error) => error <= figures[name].errorMax).length;
    const median = errors[Math.floor(errors.length / 2)] ?? Number.NaN;
    return `${figures[name].title} ${within} of ${errors.length} (median error ${percent(median)} %)`;
  });
  return `Within the aim (15 % at p50, 30 % at p99) below ${fractionMax} of saturation: ${texts.join('; ')}.`;
}

const percent = (share: number) => (100 * share).toFixed(0);
