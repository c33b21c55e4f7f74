/** `twostroke simulate`: a load test on virtual time. The gateway, router, scheduler and workers are the real
 *  ones; steps and copies take as long as a profile has measured. */
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs';
import { Command, InvalidArgumentError, Option } from 'commander';
import { isoDate, systemClock } from '../base/clock.js';
import { InvalidRequestError, messageOf } from '../base/errors.js';
import { metricNames, resultJson } from '../bench/result-json.js';
import type { SloByClass } from '../bench/slo.js';
import { type RunSummary, summariseRun } from '../bench/summary.js';
import { summaryText } from '../bench/text-table.js';
import { parseTrace } from '../bench/trace.js';
import { parseWorkerSpecs, type WorkerSpec } from '../control/worker-spec.js';
import { readProfile } from '../profile/profile-file.js';
import type { ProfileFile } from '../router/cost-parameters.js';
import type { Split, Strategy } from '../router/route.js';
import { parseHost } from '../sim/host.js';
import { forWorker, type RouterError, timesFromProfiles, withRouterError } from '../sim/profile-times.js';
import { type RoutesTaken, routesTaken } from '../sim/routes-taken.js';
import { type SimulatedLoadOptions, simulatedPlan, simulatedVocabCount } from '../sim/simulated-load.js';
import {
  type SimulatedSettings,
  type SimulationOptions,
  type SimulationResult,
  simulate,
} from '../sim/simulation.js';
import { goodputOf, sendSloOption } from './bench-options.js';
import { blockTokenCount, collect, realNumber, split, wholeNumber } from './option-values.js';
import { addSloOptions, type SloOptions } from './slo-options.js';
import { writing } from './system-error.js';

interface SimulateOptions extends SloOptions {
  readonly seed: number;
  readonly workers: readonly WorkerSpec[];
  readonly strategy: Strategy;
  readonly split?: Split;
  readonly profile: readonly string[];
  readonly host?: string;
  readonly routerError?: RouterError;
  readonly routerProfile: string | boolean;
  readonly workload: 'random' | 'short' | 'long' | 'mixed';
  readonly trace?: string;
  readonly rate?: number;
  readonly burstiness: number;
  readonly timeScale: number;
  readonly lengthScale: number;
  readonly requests?: number;
  readonly duration?: number;
  readonly inputLen: number;
  readonly outputLen: number;
  readonly warmup: number;
  readonly goodput?: readonly string[];
  readonly sendSlo: boolean;
  readonly blockSize: number;
  readonly numBlocks: number;
  readonly maxModelLen: number;
  readonly maxNumBatchedTokens?: number;
  readonly maxNumSeqs?: number;
  readonly prefillChunk?: number;
  readonly prefixCaching: boolean;
  readonly log?: string;
  readonly json: boolean;
}

const strategies = ['adaptive', 'collocated', 'disaggregated'];
const defaultRequestCount = 1000;
const drainMs = 3_600_000;

export function simulateCommand(): Command {
  return addSloOptions(new Command('simulate'))
    .description('load-test a cluster on virtual time, from one seed, with step times drawn from a profile')
    .option('--seed <number>', 'same seed, same run', wholeNumber(0), 0)
    .addOption(
      new Option('--workers <spec>', 'as of serve')
        .argParser((text) => parseWorkerSpecs(text))
        .default(parseWorkerSpecs('any:cpu*2'), 'any:cpu*2'),
    )
    .addOption(
      new Option('--strategy <strategy>', 'which path requests take').choices(strategies).default('adaptive'),
    )
    .addOption(
      new Option('--split <P:D>', 'how "any" workers are divided when disaggregated').argParser(split),
    )
    .addOption(
      new Option('--profile <file>', 'of twostroke profile; repeat for workers that differ, in their order')
        .argParser(collect)
        .makeOptionMandatory(),
    )
    .option(
      '--router-error <α,β,γ>',
      "factors on what the router believes of prefill, decode, interference, as in '1.3,1,0.7'",
      routerError,
    )
    .option(
      '--host <file>',
      'what serving costs the cores that all share, measured by scripts/measure-host.mjs; default: cores to spare',
    )
    .option(
      '--router-profile <file>',
      'what the router believes, where it is not --profile; its links, where that has none',
    )
    .option('--no-router-profile', 'the router starts without a profile and learns')
    .addOption(
      new Option('--workload <name>', 'what requests ask for')
        .choices(['random', 'short', 'long', 'mixed'])
        .default('mixed'),
    )
    .option('--trace <file>', 'Azure CSV or Mooncake JSON lines, instead of a workload')
    .option(
      '--rate <number>',
      "requests per second; a trace's own times when left out",
      realNumber(1e-6, 1e6),
    )
    .option('--burstiness <shape>', 'of gamma-distributed gaps; 1: Poisson', realNumber(1e-3, 1e3), 1)
    .option('--time-scale <factor>', 'replays a trace this much faster', realNumber(1e-3, 1e5), 1)
    .option('--length-scale <factor>', 'multiplies the lengths of a trace', realNumber(1e-4, 100), 1)
    .option('--requests <count>', `default: ${defaultRequestCount}, or the whole trace`, wholeNumber(1))
    .option('--duration <seconds>', 'no arrival after this', realNumber(0.1, 1e7))
    .option('--input-len <tokens>', 'prompts of the random workload', wholeNumber(1), 512)
    .option('--output-len <tokens>', 'mean answer', wholeNumber(1), 128)
    .option('--warmup <count>', 'first requests: sent, not measured', wholeNumber(0), 0)
    .option('--goodput <slo...>', 'ttft:MS tpot:MS e2el:MS: requests within all of them count as good')
    .addOption(sendSloOption())
    .addOption(
      new Option('--block-size <tokens>', 'tokens per KV block').argParser(blockTokenCount).default(16),
    )
    .option('--num-blocks <count>', 'KV blocks of each worker', wholeNumber(2), 16_384)
    .option('--max-model-len <tokens>', 'longest context', wholeNumber(2), 4096)
    .option(
      '--max-num-batched-tokens <tokens>',
      'tokens per step; default: by kind of device',
      wholeNumber(1),
    )
    .option('--max-num-seqs <count>', 'sequences per batch; default: by kind of device', wholeNumber(1))
    .option(
      '--prefill-chunk <tokens>',
      'prompt tokens of one sequence per step; default: by kind of device',
      wholeNumber(1),
    )
    .option('--no-prefix-caching', 'do not reuse the KV of equal prompt beginnings')
    .option('--log <file>', 'every message and step, one line each')
    .option('--json', 'one JSON object on the last line', false)
    .action(run);
}

async function run(options: SimulateOptions): Promise<void> {
  if (options.trace === undefined && options.rate === undefined)
    throw new InvalidRequestError('--rate is missing: requests per second', 'rate');
  const slos = goodputOf(options);
  const { routerProfile } = options;
  const given = typeof routerProfile === 'string' ? [readProfile(routerProfile)] : null;
  const profiles = options.profile.map(readProfile).map((profile) => withLinks(profile, given?.[0]));
  const log = options.log === undefined ? null : openLog(options.log);
  const startMs = systemClock.nowMs();
  try {
    const result = await simulate(
      simulationOptions(options, profiles, given ?? profiles, log),
      simulatedPlan(loadOptions(options, slos)),
      {
        concurrencyMax: Number.POSITIVE_INFINITY,
        warmupMs: 0,
        drainMs,
        durationMs: Number.POSITIVE_INFINITY,
        warmupRequestCount: options.warmup,
      },
    );
    const wallMs = systemClock.nowMs() - startMs;
    const summary = summariseRun(result.records, slos);
    const routes = routesTaken(result.records);
    if (options.json)
      process.stdout.write(`${JSON.stringify(toJson(options, summary, routes, result, wallMs))}\n`);
    else process.stdout.write(screen(summary, routes, result, wallMs));
  } finally {
    log?.close();
  }
}

/** Of a worker that was measured alone nobody knows the way to another. */
function withLinks(profile: ProfileFile, other: ProfileFile | undefined): ProfileFile {
  if (other === undefined || profile.linkSamples.length > 0) return profile;
  return { ...profile, linkSamples: other.linkSamples };
}

function simulationOptions(
  options: SimulateOptions,
  profiles: readonly ProfileFile[],
  routerProfiles: readonly ProfileFile[],
  log: EventLog | null,
): SimulationOptions {
  const { workers, strategy, routerError: error, seed } = options;
  const routerProfile = (index: number): ProfileFile => {
    const profile = forWorker(routerProfiles, index);
    return error === undefined
      ? profile
      : { ...profile, parameters: withRouterError(profile.parameters, error) };
  };
  return {
    workers,
    strategy,
    slo: options.slo,
    onOverload: options.onOverload,
    settings: settingsOf(options),
    timesOf: timesFromProfiles(profiles)(seed),
    ...(options.split === undefined ? {} : { split: options.split }),
    ...(options.routerProfile === false ? {} : { profileOf: routerProfile }),
    ...(options.host === undefined ? {} : { host: parseHost(readText(options.host, 'host'), options.host) }),
    ...(log === null ? {} : { onLogLine: (line: string) => log.write(line) }),
  };
}

function settingsOf(options: SimulateOptions): SimulatedSettings {
  const { maxNumBatchedTokens, prefillChunk, maxNumSeqs } = options;
  return {
    blockTokenCount: options.blockSize,
    blockCount: options.numBlocks,
    maxModelTokenCount: options.maxModelLen,
    prefixCaching: options.prefixCaching ? 'on' : 'off',
    depth: 2,
    vocabCount: simulatedVocabCount,
    pacing: options.pacing,
    ...(maxNumBatchedTokens === undefined ? {} : { tokenBudget: maxNumBatchedTokens }),
    ...(prefillChunk === undefined ? {} : { prefillChunkTokenCount: prefillChunk }),
    ...(maxNumSeqs === undefined ? {} : { sequenceCountMax: maxNumSeqs }),
  };
}

function loadOptions(options: SimulateOptions, slos: SloByClass | null): SimulatedLoadOptions {
  const { seed, workload, trace: file, rate, burstiness, timeScale, requests, duration } = options;
  const trace = file === undefined ? undefined : parseTrace(readText(file, 'trace'), file);
  return {
    workload: {
      name: trace === undefined ? workload : 'trace',
      seed,
      contentSeed: seed,
      lengthScale: options.lengthScale,
      inputTokenCount: options.inputLen,
      outputTokenCount: options.outputLen,
      rangeRatio: 0,
      outputShape: workload === 'random' ? 'range' : 'lognormal',
      ...(trace === undefined ? {} : { trace }),
    },
    arrival: rate === undefined ? { trace: 'own_times', timeScale } : { ratePerSecond: rate, burstiness },
    requestCountMax: requests ?? (trace?.length || defaultRequestCount),
    durationMs: duration === undefined ? Number.POSITIVE_INFINITY : 1000 * duration,
    contextTokenCount: options.maxModelLen,
    ...(options.sendSlo && slos !== null ? { sentSlos: slos } : {}),
  };
}

function toJson(
  options: SimulateOptions,
  summary: RunSummary,
  routes: RoutesTaken,
  { engines, simulatedMs }: SimulationResult,
  wallMs: number,
): Record<string, unknown> {
  const facts = {
    date: isoDate(),
    model: options.profile.join(' '),
    endpointType: 'simulated',
    numPrompts: summary.requestCount,
    requestRate: options.rate ?? ('trace' as const),
    burstiness: options.burstiness,
    maxConcurrency: null,
    coreShare: 0,
  };
  return {
    ...resultJson(summary, facts, metricNames),
    seed: options.seed,
    strategy: options.strategy,
    routes,
    workers: engines,
    simulated_ms: simulatedMs,
    wall_ms: wallMs,
  };
}

function screen(
  summary: RunSummary,
  { paths, workers }: RoutesTaken,
  { simulatedMs }: SimulationResult,
  wallMs: number,
): string {
  const lines = [
    '',
    `paths    ${Object.entries(paths)
      .map(([path, count]) => `${path} ${count}`)
      .join(', ')}`,
    ...Object.entries(workers).map(
      ([id, { prefillCount, decodeCount }]) =>
        `${id.padEnd(8)} computed ${prefillCount} prompts, decoded ${decodeCount} requests`,
    ),
    '',
    `${(simulatedMs / 1000).toFixed(1)} s simulated in ${(wallMs / 1000).toFixed(1)} s, ${((1000 * summary.requestCount) / wallMs).toFixed(0)} requests per second`,
  ];
  return `\n${summaryText(summary, metricNames, 0)}${lines.join('\n')}\n`;
}

interface EventLog {
  write(line: string): void;
  close(): void;
}

/** Written in pieces: a long run has millions of lines. */
function openLog(file: string): EventLog {
  const descriptor = openFile(file);
  let lines: string[] = [];
  const flush = () => {
    const text = lines.map((line) => `${line}\n`).join('');
    lines = []; // also when it cannot be written
    if (text !== '') writing('--log', file, () => writeSync(descriptor, text));
  };
  return {
    write: (line) => {
      if (lines.push(line) >= 10_000) flush();
    },
    close: () => {
      flush();
      closeSync(descriptor);
    },
  };
}

function openFile(file: string): number {
  try {
    return openSync(file, 'w');
  } catch (error) {
    throw new InvalidRequestError(`--log: ${messageOf(error)}`, 'log');
  }
}

function readText(file: string, option: 'trace' | 'host'): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new InvalidRequestError(`--${option}: ${messageOf(error)}`, option);
  }
}

/** Three factors: α, β, γ. */
function routerError(text: string): RouterError {
  const [prefill = Number.NaN, decode = Number.NaN, interference = Number.NaN, ...more] = text
    .split(',')
    .map(Number);
  const isFactor = (value: number) => value > 0 && value < 100;
  if (more.length > 0 || ![prefill, decode, interference].every(isFactor))
    throw new InvalidArgumentError('Expected three factors such as 1.3,1,0.7.');
  return { prefill, decode, interference };
}
