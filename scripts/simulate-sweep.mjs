/** Sweeps on virtual time: rates × workloads × strategies, worker mixes, wrong beliefs of the router, real traces; a table, how far the
 *  router's estimates were from what came, and raw JSON.
 *
 *    node scripts/simulate-sweep.mjs --profile FILE [--name NAME] [--traces FOLDER] [--requests 1000] [--repetitions 2] [--out FOLDER]
 *                                    [--scenarios '^two workers$'] [--workloads short,mixed] [--fractions 0.5,0.9]
 *
 *  Needs `npm run build`. Every point of every scenario gets the same requests for each strategy. --scenarios (a pattern), --workloads
 *  and --fractions (of the saturation) take a part. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { predictionNames, predictionTitles } from '../dist/src/bench/predictions.js';
import { summariseSweep } from '../dist/src/bench/sweep-summary.js';
import { parseTrace } from '../dist/src/bench/trace.js';
import { parseWorkerSpecs } from '../dist/src/control/worker-spec.js';
import { readProfile } from '../dist/src/profile/profile-file.js';
import { timesFromProfiles, withRouterError } from '../dist/src/sim/profile-times.js';
import { routesTaken } from '../dist/src/sim/routes-taken.js';
import { simulatedVocabCount } from '../dist/src/sim/simulated-load.js';
import { simulateSweep } from '../dist/src/sim/sweep.js';

const { values: options } = parseArgs({
  options: {
    profile: { type: 'string' },
    name: { type: 'string' },
    traces: { type: 'string' },
    requests: { type: 'string', default: '1000' },
    repetitions: { type: 'string', default: '2' },
    scenarios: { type: 'string', default: '' },
    workloads: { type: 'string' },
    fractions: { type: 'string' },
    out: { type: 'string' },
  },
});
if (options.profile === undefined) throw new Error('--profile FILE is missing');
const profile = readProfile(options.profile);
const name = options.name ?? path.basename(options.profile, '.json');
const timesOf = timesFromProfiles([profile]);
const isGpu = profile.key.threadCount === 0;
const device = (index) => (isGpu ? `cuda:${index}` : 'cpu');
const two = [0, 1].map((index) => `any:${device(index)}`).join();
const four = [0, 1, 2, 3].map((index) => `any:${device(index)}`).join();
const nanoPd = `any:${device(0)},prefill:${device(1)},prefill:${device(2)},decode:${device(3)}`;
const chosenFractions = options.fractions?.split(',').map(Number);
const rateFractions = chosenFractions ?? [0.25, 0.5, 0.75, 0.9, 1, 1.1, 1.3];
const seed = 1;

/** Prompts and answers are those of the real sweep's defaults; traces keep their lengths, cut to the context. */
const named = (workload, outputTokenCount = isGpu ? 128 : 32) => ({
  name: workload,
  load: (each) => ({
    workload: {
      ...{ name: workload, seed: each, contentSeed: each, inputTokenCount: 512, outputTokenCount },
      ...{ rangeRatio: 0, outputShape: 'lognormal', lengthScale: 1 },
    },
    durationMs: Number.POSITIVE_INFINITY,
    contextTokenCount: 4096,
  }),
});

/** Its requests in its order, with Poisson arrivals at each rate. */
function traced(file, contextTokenCount) {
  const trace = parseTrace(readFileSync(file, 'utf8'), file);
  const load = (each) => ({
    workload: {
      ...{ name: 'trace', seed: each, contentSeed: each, inputTokenCount: 1, outputTokenCount: 1, rangeRatio: 0 },
      ...{ outputShape: 'range', lengthScale: 1, trace },
    },
    durationMs: Number.POSITIVE_INFINITY,
    contextTokenCount,
  });
  return { name: path.basename(file).replace(/\.[a-z]+$/, ''), load };
}

function mode(strategy, workers, { error = null, contextTokenCount = 4096, prefixCaching = 'off', modeName = strategy } = {}) {
  const believed = error === null ? profile : { ...profile, parameters: withRouterError(profile.parameters, error) };
  const settings = {
    ...{ blockTokenCount: 16, blockCount: isGpu ? 24_576 : 16_384, maxModelTokenCount: contextTokenCount },
    ...{ prefixCaching, depth: 2, vocabCount: simulatedVocabCount },
  };
  const simulation = (each) => ({
    ...{ workers: parseWorkerSpecs(workers), strategy, settings },
    ...{ timesOf: timesOf(each), profileOf: () => believed },
  });
  return { name: modeName, simulation };
}

const statics = (workers, more) => [mode('collocated', workers, more), mode('disaggregated', workers, more)];
const wrong = (prefill, decode, interference) => ({
  name: `two workers, the router's α β γ × ${prefill} ${decode} ${interference}`,
  modes: [...statics(two), mode('adaptive', two, { error: { prefill, decode, interference } })],
  workloads: [named('mixed')],
  rateFractions: [0.5, 0.9, 1.1],
});

const scenarios = [
  {
    name: 'two workers',
    modes: [...statics(two), mode('adaptive', two)],
    workloads: ['short', 'long', 'mixed'].map((each) => named(each)),
  },
  {
    name: 'four workers; adaptive on any, prefill × 2, decode',
    modes: [...statics(four), mode('adaptive', nanoPd)],
    workloads: [named('mixed')],
    rateFractions: [0.25, 0.5, 0.75, 0.9],
  },
  {
    name: 'four workers',
    modes: [...statics(four), mode('adaptive', four)],
    workloads: [named('mixed')],
    rateFractions: [0.5, 0.9, 1.1],
  },
  wrong(1.3, 0.7, 1.3),
  wrong(0.7, 1.3, 0.7),
  wrong(1.3, 1.3, 1),
  ...(options.traces === undefined ? [] : traceScenarios(options.traces)),
];

function traceScenarios(folder) {
  const scenario = (file, contextTokenCount) => {
    const more = { contextTokenCount, prefixCaching: 'on' };
    return {
      name: `two workers, ${file}`,
      modes: [...statics(two, more), mode('adaptive', two, more)],
      workloads: [traced(path.join(folder, file), contextTokenCount)],
      rateFractions: [0.25, 0.5, 0.75, 0.9, 1.1],
    };
  };
  return [
    ['azure-2023-code.csv', 8192],
    ['mooncake-conversation.jsonl', 32_768],
  ].flatMap(([file, context]) => (existsSync(path.join(folder, file)) ? [scenario(file, context)] : []));
}

const figure = (value, digits = 2) => (Number.isFinite(value) ? value.toFixed(digits) : '–');
const rows = [];
let requestCount = 0;
const startMs = performance.now();
const cpuStart = process.cpuUsage();
for (const scenario of chosen(scenarios)) {
  const data = await simulateSweep({
    ...{ name, candidate: 'adaptive', rateFractions, seed },
    ...{ repetitionCount: Number(options.repetitions), requestCount: Number(options.requests) },
    ...{ warmupRequestCount: 50, saturationConcurrency: isGpu ? 128 : 32 },
    ...scenario,
  });
  for (const records of data.records.values()) requestCount += records.length;
  for (const point of summariseSweep(data).points) {
    rows.push(rowOf(scenario.name, point, data));
    process.stderr.write(`${rowText(rows.at(-1))}\n`);
  }
}

/** Scenarios with the points that were asked for. */
function chosen(all) {
  const names = options.workloads?.split(',');
  return all
    .filter(({ name: each }) => new RegExp(options.scenarios).test(each))
    .map((scenario) => ({
      ...scenario,
      ...(names === undefined ? {} : { workloads: scenario.workloads.filter((workload) => names.includes(workload.name)) }),
      ...(chosenFractions === undefined ? {} : { rateFractions: chosenFractions }),
    }));
}

const wallSeconds = (performance.now() - startMs) / 1000;
const cpu = process.cpuUsage(cpuStart);
const cpuSeconds = (cpu.user + cpu.system) / 1e6;

function rowOf(scenario, point, data) {
  const recordsOf = (modeName) =>
    data.header.runs
      .filter(
        (run) =>
          run.stage === 'point' &&
          run.workload === point.workload &&
          run.mode === modeName &&
          run.ratePerSecond === point.ratePerSecond,
      )
      .flatMap(({ runIndex }) => data.records.get(runIndex));
  const modes = Object.fromEntries(
    point.modes.map(({ mode: each, summary, goodRequestsPerSecond, predictionErrors: errors }) => [
      each,
      {
        goodRequestsPerSecond,
        ...{
          ttftMsP50: summary.ttftMs.p50,
          ttftMsP99: summary.ttftMs.p99,
          tpotMsP50: summary.tpotMs.p50,
          tpotMsP99: summary.tpotMs.p99,
        },
        requestsPerSecond: summary.requestsPerSecond,
        predictionErrors: errors,
        routes: routesTaken(recordsOf(each)),
      },
    ]),
  );
  const [ours, theirs] = [modes.adaptive, modes[point.reference]];
  const ratios = {
    goodput: ours.goodRequestsPerSecond['1'] / theirs.goodRequestsPerSecond['1'],
    ttftP99: ours.ttftMsP99 / theirs.ttftMsP99,
    tpotP99: ours.tpotMsP99 / theirs.tpotMsP99,
  };
  const { workload, ratePerSecond, rateFraction, reference } = point;
  return { scenario, workload, ratePerSecond, rateFraction, reference, ratios, modes };
}

function rowText({ scenario, workload, ratePerSecond, rateFraction, reference, ratios, modes }) {
  const good = ['collocated', 'disaggregated', 'adaptive']
    .map((each) => figure(modes[each].goodRequestsPerSecond['1'], 1))
    .join(' / ');
  const { paths } = modes.adaptive.routes;
  const share = (paths.disaggregated ?? 0) / Object.values(paths).reduce((sum, count) => sum + count, 0);
  const { ttftMsP50, ttftMsP99, tpotMsP50, tpotMsP99 } = modes.adaptive;
  const latencies = `${figure(ttftMsP50, 0)} / ${figure(ttftMsP99, 0)} / ${figure(tpotMsP50)} / ${figure(tpotMsP99)}`;
  const cells = [scenario, workload, `${figure(ratePerSecond, 1)} (${figure(rateFraction)})`, reference, good];
  return `| ${[...cells, figure(ratios.goodput), figure(ratios.ttftP99), figure(ratios.tpotP99), latencies, figure(share)].join(' | ')} |`;
}

/** Median / p90 of the estimates' relative errors, in per cent. */
function errorText({ scenario, workload, rateFraction, modes }) {
  return Object.entries(modes).map(([each, { predictionErrors }]) => {
    const cells = predictionNames.map((name) => {
      const error = predictionErrors[name];
      return error === undefined ? '–' : `${figure(100 * error.median, 0)} / ${figure(100 * error.p90, 0)}`;
    });
    return `| ${[scenario, workload, figure(rateFraction), each, ...cells].join(' | ')} |`;
  });
}

const errorHead = [
  `| scenario | workload | of saturation | strategy | ${predictionNames.map((name) => predictionTitles[name]).join(' | ')} |`,
  `|-|-|-|-${'|-'.repeat(predictionNames.length)}|`,
];
const head = [
  '| scenario | workload | rate/s (of saturation) | better static mode | good req/s: collocated / disaggregated / adaptive | goodput ratio | TTFT p99 ratio | TPOT p99 ratio | adaptive TTFT p50 / p99 / TPOT p50 / p99 ms | split share |',
  '|-|-|-|-|-|-|-|-|-|-|',
];
const speed = `${requestCount} requests simulated in ${figure(wallSeconds, 1)} s (${figure(cpuSeconds, 1)} s of CPU time: ${figure(requestCount / cpuSeconds, 0)} requests per second and core)`;
const text = [
  ...[
    ...head,
    ...rows.map(rowText),
    '',
    "Errors of the router's estimates, median / p90 of |predicted − real| / real, in %:",
    '',
  ],
  ...[...errorHead, ...rows.flatMap(errorText)],
].join('\n');
process.stdout.write(`${text}\n\n${speed}\n`);
if (options.out !== undefined) {
  mkdirSync(options.out, { recursive: true });
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim();
  const facts = { name, commit, command: process.argv.slice(2).join(' '), machine: os.cpus()[0]?.model, node: process.version };
  const result = { ...facts, profileKey: profile.key, requestCount, wallSeconds, cpuSeconds, rows };
  writeFileSync(path.join(options.out, `${name}.json`), `${JSON.stringify(result, null, 1)}\n`);
  writeFileSync(path.join(options.out, `${name}.md`), `# ${name}\n\nCommit ${commit}; ${speed}.\n\n${text}\n`);
}
