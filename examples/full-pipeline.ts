/** The whole way from an unknown machine to a routed load: measure the workers, fit what they cost, serve
 *  with the adaptive strategy, and send Poisson arrivals for a minute.
 *
 *    npm run example:pipeline -- [--model demo] [--workers any:cpu*2] [--workload mixed] [--arrival-rate R]
 *    [--duration 60]
 *                                [--profile-duration 40] [--skip-profile] [--output pipeline]
 *
 *  Writes into --output: profile.json (raw samples and fit; `serve --profile` reads it), params.json (the
 *  five parameters and their rule), results.json (latencies, throughput, requests per path), output.txt (what
 *  was shown). --skip-profile takes profile.json from there. Without --arrival-rate the fit says what the
 *  workers can do, and half of that is sent. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { isoDate, systemClock } from '../src/base/clock.js';
import { messageOf } from '../src/base/errors.js';
import { pathOf } from '../src/bench/load-record.js';
import { metricNames, resultJson } from '../src/bench/result-json.js';
import { benchServer, type LoadResult } from '../src/bench/serve.js';
import { ServerProcess } from '../src/bench/server-process.js';
import { summariseRun } from '../src/bench/summary.js';
import { summaryText } from '../src/bench/text-table.js';
import { type WorkloadName, workloadNames } from '../src/bench/workload.js';
import { parseWorkerSpecs } from '../src/control/worker-spec.js';
import { readProfile } from '../src/profile/profile-file.js';
import { separationRule } from '../src/profile/readable.js';
import type { ProfileFile } from '../src/router/cost-parameters.js';
import { stepMs } from '../src/router/step-cost.js';

const twostroke = path.join(import.meta.dirname, '..', 'src', 'cli', 'main.js');
const answerTokenCount = 32;
/** Of what the workers can do, as the fit sees it. */
const loadShare = 0.5;
/** Mean prompts of the workloads, for that. */
const promptTokenCounts: Partial<Record<WorkloadName, number>> = { short: 160, long: 1536, mixed: 848 };
const serverReadyMs = 120_000;

interface Options {
  readonly model: string;
  readonly workers: string;
  readonly workload: WorkloadName;
  readonly ratePerSecond: number | null;
  readonly durationMs: number;
  readonly profileSeconds: string;
  readonly skipsProfile: boolean;
  readonly folder: string;
}

async function main(): Promise<void> {
  const options = readOptions();
  mkdirSync(options.folder, { recursive: true });
  const file = (name: string) => path.join(options.folder, name);
  let shown = '';
  const show = (text: string) => {
    shown += `${text}\n`;
    process.stdout.write(`${text}\n`);
  };

  if (!options.skipsProfile) show(measure(options, file('profile.json')));
  const profile = readProfile(file('profile.json'));
  const rule = separationRule(profile.parameters, profile.readable);
  writeJson(file('params.json'), {
    ...profile.readable,
    rule,
    fitError: profile.fitError,
    parameters: profile.parameters,
  });

  const ratePerSecond = options.ratePerSecond ?? affordableRate(profile, options);
  show(
    `${options.workload}: Poisson arrivals, ${ratePerSecond.toPrecision(3)}/s for ${options.durationMs / 1000} s`,
  );
  const load = await sendLoad(options, ratePerSecond, file('profile.json'));
  const summary = summariseRun(load.records, null);
  const routes = countPaths(load);
  const facts = {
    date: isoDate(),
    model: load.facts.model,
    endpointType: 'openai',
    numPrompts: load.records.length,
    requestRate: ratePerSecond,
    burstiness: 1,
    maxConcurrency: null,
    coreShare: load.coreShare,
  };
  writeJson(file('results.json'), {
    ...resultJson(summary, facts, metricNames),
    workload: options.workload,
    routes,
  });
  show(summaryText(summary, metricNames, load.coreShare));
  show(
    `paths: ${Object.entries(routes)
      .map(([route, count]) => `${route} ${count}`)
      .join(', ')}`,
  );
  writeFileSync(file('output.txt'), shown);
  if (summary.completedCount === 0) throw new Error('no request was completed');
}

function readOptions(): Options {
  const { values } = parseArgs({
    options: {
      model: { type: 'string', default: 'demo' },
      workers: { type: 'string', default: 'any:cpu*2' },
      workload: { type: 'string', default: 'mixed' },
      'arrival-rate': { type: 'string' },
      duration: { type: 'string', default: '60' },
      'profile-duration': { type: 'string', default: '40' },
      'skip-profile': { type: 'boolean', default: false },
      output: { type: 'string', default: 'pipeline' },
    },
  });
  const workload = workloadNames.find((name) => name === values.workload && name in promptTokenCounts);
  if (workload === undefined)
    throw new Error(`--workload: ${Object.keys(promptTokenCounts).join(', ')}, not '${values.workload}'`);
  const rate = values['arrival-rate'];
  return {
    model: values.model,
    workers: values.workers,
    workload,
    ratePerSecond: rate === undefined ? null : positive('--arrival-rate', rate),
    durationMs: 1000 * positive('--duration', values.duration),
    profileSeconds: String(positive('--profile-duration', values['profile-duration'])),
    skipsProfile: values['skip-profile'],
    folder: values.output,
  };
}

function positive(name: string, text: string): number {
  const value = Number(text);
  if (!(value > 0) || !Number.isFinite(value)) throw new Error(`${name}: a number above 0, not '${text}'`);
  return value;
}

/** Runs `twostroke profile`; of several kinds of workers the first one's file is kept. Returns what it
 *  showed. */
function measure({ model, workers, profileSeconds, folder }: Options, target: string): string {
  const args = [
    'profile',
    '--model',
    model,
    '--workers',
    workers,
    '--duration',
    profileSeconds,
    '--out',
    `${folder}${path.sep}`,
  ];
  const { status, stdout } = spawnSync(process.execPath, [twostroke, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
    encoding: 'utf8',
  });
  const written = /^ {2}written {2}(.+)$/m.exec(stdout)?.[1];
  if (status !== 0 || written === undefined) throw new Error(`twostroke profile ended with code ${status}`);
  renameSync(written, target);
  return stdout.replace(written, target);
}

/** Requests per second: what one takes, prompt alone and tokens in a batch of 8, over all workers. */
function affordableRate({ readable, parameters }: ProfileFile, { workload, workers }: Options): number {
  const promptTokenCount = promptTokenCounts[workload] ?? 1;
  const batch = {
    decodeCount: 8,
    decodeKvTokenCount: 8 * promptTokenCount,
    prefillTokenCount: 0,
    prefillPairCount: 0,
  };
  const requestMs =
    promptTokenCount * readable.prefillMsPerToken + (answerTokenCount * stepMs(parameters.step, batch)) / 8;
  return (loadShare * 1000 * parseWorkerSpecs(workers).length) / requestMs;
}

async function sendLoad(options: Options, ratePerSecond: number, profile: string): Promise<LoadResult> {
  const { model, workers, workload, durationMs } = options;
  const flags = ['--port', '0', '--json', '--allow-forced-length', '--strategy', 'adaptive'];
  const serve = ['serve', '--model', model, '--workers', workers, '--profile', profile, ...flags];
  const server = await ServerProcess.start(
    [process.execPath, twostroke, ...serve],
    systemClock,
    serverReadyMs,
  );
  try {
    return await benchServer(
      server.baseUrl,
      {
        api: 'completions',
        model: null,
        apiKey: null,
        temperature: null,
        ignoreEos: false,
        outputLength: 'forced',
      },
      {
        name: workload,
        path: null,
        inputTokenCount: 1024,
        outputTokenCount: answerTokenCount,
        rangeRatio: 0,
        outputShape: 'auto',
        lengthScale: 1,
        requestCountMax: Number.POSITIVE_INFINITY,
      },
      {
        arrival: { ratePerSecond, burstiness: 1 },
        timeScale: 1,
        concurrencyMax: Number.POSITIVE_INFINITY,
        durationMs,
        requestCountMax: Number.POSITIVE_INFINITY,
        warmupMs: 0,
        warmupRequestCount: 0,
        drainMs: 120_000,
        seed: 0,
      },
      { clock: systemClock, write: process.stderr.isTTY ? (text) => process.stderr.write(text) : null },
    );
  } finally {
    await server.stop();
  }
}

function countPaths({ records }: LoadResult): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const record of records) counts[pathOf(record)] = (counts[pathOf(record)] ?? 0) + 1;
  return counts;
}

function writeJson(file: string, content: object): void {
  writeFileSync(file, `${JSON.stringify(content, null, 2)}\n`);
}

process.once('SIGINT', () => process.exit(130)); // the server goes with this process
main().catch((error: unknown) => {
  process.stderr.write(`full-pipeline: ${messageOf(error)}\n`);
  process.exitCode = 1;
});
