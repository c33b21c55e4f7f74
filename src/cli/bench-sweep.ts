/** `twostroke bench sweep`: rates × strategies × workloads, then the report; `bench report`: the report again
 *  from the records. */
import os from 'node:os';
import { Command, InvalidArgumentError, Option } from 'commander';
import { isoDate, systemClock } from '../base/clock.js';
import { InvalidRequestError } from '../base/errors.js';
import { parseTarget, type TargetSpec } from '../bench/command-line.js';
import { type ReportFiles, type ReportInputs, writeReport } from '../bench/report.js';
import { runSweep, type SweepOutcome, type SweepSettings } from '../bench/sweep.js';
import { packSweep, SweepFiles, type SweepHeader } from '../bench/sweep-file.js';
import { sweepText } from '../bench/sweep-text.js';
import { type WorkloadName, workloadNames } from '../bench/workload.js';
import {
  addCommonOptions,
  type CommonBenchOptions,
  clientSettings,
  loadSettings,
  numberList,
  positiveOrInf,
  wordList,
  workloadSettings,
} from './bench-options.js';
import { exitCodes } from './fail.js';
import { collect, realNumber, wholeNumber } from './option-values.js';
import { listenForStop } from './signals.js';
import { checkFolder } from './system-error.js';

interface SweepOptions extends CommonBenchOptions {
  readonly target: readonly string[];
  readonly candidate: string;
  readonly workloads: readonly WorkloadName[];
  readonly rates?: readonly number[];
  readonly rateFractions: readonly number[];
  readonly repetitions: number;
  readonly timeLimit: number;
  readonly settle: number;
  readonly unloadedPrompts: number;
  readonly saturationConcurrency: number;
  readonly saturationPrompts: number;
  readonly runSeconds?: number;
  readonly minPrompts: number;
  readonly twin: boolean;
  readonly warmupPrompts: number;
  readonly burstiness: number;
  readonly ttftFactor: number;
  readonly tpotFactor: number;
  readonly sendSlo: boolean;
  readonly resultDir: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly curves?: readonly string[];
  readonly profile?: readonly string[];
  readonly png: boolean;
  readonly readyTimeout: number;
}

type InputOptions = Pick<SweepOptions, 'curves' | 'profile' | 'png'>;

const curvesOption = () =>
  new Option(
    '--curves <file>',
    'more plots: JSON list of {name, title, caption, xTitle, yTitle, points}; may be repeated',
  ).argParser(collect);
const profileOption = () =>
  new Option('--profile <file>', 'of "twostroke profile": adds its plots; may be repeated').argParser(
    collect,
  );

const inputs = ({ curves = [], profile = [], png }: InputOptions): ReportInputs => ({
  curveFiles: curves,
  profileFiles: profile,
  pictures: png ? 'svg and png' : 'svg',
});

export function benchSweepCommand(): Command {
  return addCommonOptions(
    new Command('sweep').description('rates × strategies × workloads with paired arrivals, and a report'),
    {
      forceOutputLength: true,
    },
  )
    .addOption(
      new Option(
        '--target <name=server>',
        'a strategy: a URL, or a command that prints {"url": …} when ready; repeat for each',
      )
        .argParser(collect)
        .makeOptionMandatory(),
    )
    .option('--candidate <name>', 'the target that must never be worse than the others', 'adaptive')
    .option('--workloads <names>', `some of ${workloadNames.join(',')}`, wordList(workloadNames), [
      'short',
      'mixed',
    ])
    .option('--rates <numbers>', 'requests per second; default: by --rate-fractions', numberList)
    .option(
      '--rate-fractions <numbers>',
      'of the saturation of the better static mode',
      numberList,
      [0.25, 0.5, 0.75, 0.9, 1, 1.1, 1.3],
    )
    .option('--repetitions <count>', 'of every point', wholeNumber(1), 5)
    .option(
      '--time-limit <seconds>',
      'shared by the points, so that all get about as many repetitions: none but the first begins that would probably end later',
      positiveOrInf,
      Number.POSITIVE_INFINITY,
    )
    .option(
      '--settle <seconds>',
      "of a point's rate on every server before its first repetition, unmeasured",
      realNumber(0, 3600),
      6,
    )
    .option('--unloaded-prompts <count>', 'one at a time, for the SLOs', wholeNumber(1), 30)
    .option(
      '--saturation-concurrency <count>',
      'open requests while saturation is measured',
      wholeNumber(1),
      32,
    )
    .option('--saturation-prompts <count>', 'requests to measure it with', wholeNumber(1), 200)
    .option(
      '--run-seconds <seconds>',
      'length of a run after --warmup, in place of --num-prompts, which is then the most',
      realNumber(0.1, 36000),
    )
    .option(
      '--min-prompts <count>',
      'of a run of --run-seconds: where few come, it is longer',
      wholeNumber(1),
      50,
    )
    .option('--no-twin', 'without the A/A row, which needs a second server of the first static target')
    .option('--warmup-prompts <count>', 'first requests of a run: sent, not measured', wholeNumber(0), 5)
    .option('--burstiness <shape>', 'of gamma-distributed gaps; 1: Poisson', positiveOrInf, 1)
    .option('--ttft-factor <factor>', 'SLO over the unloaded p50', realNumber(1, 1000), 5)
    .option('--tpot-factor <factor>', 'SLO over the unloaded p50', realNumber(1, 1000), 2)
    .option('--no-send-slo', 'do not tell the servers these SLOs: they go by their own')
    .option('--ready-timeout <seconds>', 'for a server to start', realNumber(1, 36000), 300)
    .option('--result-dir <folder>', 'where records and report go', 'bench-result')
    .option('--metadata <key=value...>', 'kept with the result and shown in the report', withPair, {})
    .addOption(curvesOption())
    .addOption(profileOption())
    .option('--png', 'plots as PNG too', false)
    .action(sweep);
}

export function benchReportCommand(): Command {
  return new Command('report')
    .description('derive summary, plots and page again from the records of a sweep')
    .argument('[folder]', 'of the sweep', 'bench-result')
    .addOption(curvesOption())
    .addOption(profileOption())
    .option('--png', 'plots as PNG too', false)
    .option('--json', 'one JSON object on the last line', false)
    .action(async (folder: string, options: InputOptions & { readonly json: boolean }) =>
      show(await writeReport(folder, inputs(options)), options.json),
    );
}

export function benchPackCommand(): Command {
  return new Command('pack')
    .description(
      'make the records of a sweep small, to keep them: without the gaps between tokens, so without ITL',
    )
    .argument('[folder]', 'of the sweep', 'bench-result')
    .action((folder: string) => packSweep(folder));
}

/** Of a run of --run-seconds: records are kept of every one. */
const requestCountMax = 2000;

async function sweep(options: SweepOptions): Promise<void> {
  const targets = options.target.map(parseTarget);
  checkTargets(targets, options.candidate);
  checkFolder('--result-dir', options.resultDir);
  const stop = listenForStop();
  const date = isoDate();
  const files = new SweepFiles(options.resultDir);
  const keep = (outcome: SweepOutcome) =>
    files.keep({ header: headerOf(options, targets, date, outcome), records: outcome.records });
  const outcome = await runSweep(
    sweepSettings(options, targets),
    {
      clock: systemClock,
      signal: stop.signal,
      write: process.stderr.isTTY ? (text) => process.stderr.write(text) : null,
    },
    { tell: (line) => process.stderr.write(`${line}\n`), keep },
  );
  stop.dispose();
  if (stop.signal.aborted) {
    process.stderr.write('stopped: the run under way is left out, the report is of those before it\n');
    process.exitCode = exitCodes.interrupted;
  }
  keep(outcome);
  show(await writeReport(options.resultDir, inputs(options)), options.json);
}

function sweepSettings(options: SweepOptions, targets: readonly TargetSpec[]): SweepSettings {
  const requestCount =
    options.runSeconds === undefined
      ? (options.numPrompts ?? 100)
      : { seconds: options.runSeconds, min: options.minPrompts, max: options.numPrompts ?? requestCountMax };
  const textCountMax = Math.max(
    typeof requestCount === 'number' ? requestCount : requestCount.max,
    options.unloadedPrompts,
    options.saturationPrompts,
  );
  return {
    targets,
    candidate: options.candidate,
    workloads: options.workloads.map((name) =>
      workloadSettings(options, name, options.warmupPrompts + textCountMax),
    ),
    client: clientSettings(options),
    rates:
      options.rates === undefined
        ? { unit: 'fraction', values: options.rateFractions }
        : { unit: 'perSecond', values: options.rates },
    repetitionCount: options.repetitions,
    timeLimitMs: options.timeLimit * 1000,
    settleMs: options.settle * 1000,
    requestCount,
    unloadedRequestCount: options.unloadedPrompts,
    saturationConcurrency: options.saturationConcurrency,
    saturationRequestCount: options.saturationPrompts,
    twin: options.twin ? 'started' : 'none',
    load: { ...loadSettings(options), warmupRequestCount: options.warmupPrompts },
    burstiness: options.burstiness,
    readyMs: options.readyTimeout * 1000,
    sentSlo: options.sendSlo ? { ttftFactor: options.ttftFactor, tpotFactor: options.tpotFactor } : null,
  };
}

function headerOf(
  { seed, candidate, ttftFactor, tpotFactor, sendSlo, metadata }: SweepOptions,
  targets: readonly TargetSpec[],
  date: string,
  { model, runs }: SweepOutcome,
): SweepHeader {
  const cpu = os.cpus()[0]?.model ?? 'unknown CPU';
  return {
    date,
    machine: `${cpu}, ${os.cpus().length} threads, ${os.platform()} ${os.release()}, Node ${process.version}`,
    metadata,
    model,
    seed,
    targets: Object.fromEntries(targets.map(({ name, text }) => [name, text])),
    candidate,
    sentSlo: sendSlo,
    ttftFactor,
    tpotFactor,
    runs,
  };
}

function withPair(text: string, pairs: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  const [, key = '', value = ''] = /^([^=]+)=(.*)$/s.exec(text) ?? [];
  if (key === '') throw new InvalidArgumentError('Expected key=value.');
  return { ...pairs, [key]: value };
}

function checkTargets(targets: readonly TargetSpec[], candidate: string): void {
  const names = targets.map(({ name }) => name);
  if (new Set(names).size < names.length)
    throw new InvalidRequestError(`--target: two have the same name (${names.join(', ')})`);
  if (names.every((name) => name === candidate)) {
    throw new InvalidRequestError('--target: at least one besides the candidate is needed, to compare with');
  }
}

function show({ summary, paths, note }: ReportFiles, isJson: boolean): void {
  if (isJson) {
    process.stdout.write(`${JSON.stringify({ neverWorse: summary.neverWorse, files: paths })}\n`);
    return;
  }
  process.stdout.write(sweepText(summary));
  for (const file of paths.filter((name) => name.endsWith('.html')))
    process.stdout.write(`report: ${file}\n`);
  if (note !== null) process.stdout.write(`${note}\n`);
}
