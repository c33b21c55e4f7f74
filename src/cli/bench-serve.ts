/** `twostroke bench serve` (open loop) and `bench static` (one request at a time): load-tests one server and
 *  prints vLLM's table. */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { Command } from 'commander';
import { isoDate, systemClock } from '../base/clock.js';
import { InvalidRequestError } from '../base/errors.js';
import type { LoadRecord } from '../bench/load-record.js';
import { writeRecords } from '../bench/records-file.js';
import { type MetricName, metricNames, resultJson } from '../bench/result-json.js';
import { benchServer, type LoadResult, type LoadSettings } from '../bench/serve.js';
import { type RunSummary, summariseRun } from '../bench/summary.js';
import { summaryText } from '../bench/text-table.js';
import type { WorkloadName } from '../bench/workload.js';
import {
  addCommonOptions,
  type CommonBenchOptions,
  clientSettings,
  datasetOption,
  goodputOf,
  loadSettings,
  metricList,
  positiveOrInf,
  sendSloOption,
  workloadSettings,
} from './bench-options.js';
import { exitCodes } from './fail.js';
import { realNumber, serverUrl, wholeNumber } from './option-values.js';
import { listenForStop } from './signals.js';
import { checkFolder, writing } from './system-error.js';

interface BenchServeOptions extends CommonBenchOptions {
  readonly baseUrl: string;
  readonly datasetName: WorkloadName;
  readonly requestRate?: number;
  readonly burstiness: number;
  readonly maxConcurrency?: number;
  readonly duration?: number;
  readonly goodput?: readonly string[];
  readonly sendSlo: boolean;
  readonly percentileMetrics: readonly MetricName[];
  readonly saveResult: boolean;
  readonly saveDetailed: boolean;
  readonly resultDir: string;
  readonly resultFilename?: string;
}

export function benchServeCommand(): Command {
  return oneServerOptions(
    new Command('serve').description('open-loop load test of any OpenAI-compatible server'),
  )
    .option(
      '--request-rate <rate>',
      'arrivals per second, or inf; default: inf, and its own times for a trace',
      positiveOrInf,
    )
    .option(
      '--burstiness <shape>',
      'of gamma-distributed gaps; 1: Poisson, below: burstier, inf: evenly spaced',
      positiveOrInf,
      1,
    )
    .option('--max-concurrency <count>', 'most open requests', wholeNumber(1))
    .option('--duration <seconds>', 'no arrival after this', realNumber(0.1, 1e6))
    .action((options: BenchServeOptions) => benchOne(options, openLoop(options)));
}

export function benchStaticCommand(): Command {
  return oneServerOptions(
    new Command('static').description('one request after the other: latency without load'),
  ).action((options: BenchServeOptions) => {
    const requestCountMax = options.numPrompts ?? 20;
    return benchOne(options, {
      ...loadSettings(options),
      arrival: { ratePerSecond: Number.POSITIVE_INFINITY, burstiness: 1 },
      concurrencyMax: 1,
      requestCountMax: requestCountMax + 1,
      durationMs: Number.POSITIVE_INFINITY,
      warmupRequestCount: 1,
    });
  });
}

function oneServerOptions(command: Command): Command {
  return addCommonOptions(command, { forceOutputLength: false })
    .option('--base-url <url>', 'server to test', serverUrl, 'http://127.0.0.1:8000')
    .addOption(datasetOption())
    .option(
      '--goodput <slo...>',
      'ttft:MS tpot:MS e2el:MS, long.ttft:MS for one class: requests within all count as good',
    )
    .addOption(sendSloOption())
    .option('--percentile-metrics <names>', 'what is shown', metricList, metricNames)
    .option('--save-result', 'write the result as JSON', false)
    .option('--save-detailed', 'with every request, compressed, next to it', false)
    .option('--result-dir <folder>', 'where', '.')
    .option('--result-filename <name>', 'default: from model, rate and time');
}

function openLoop(options: BenchServeOptions): LoadSettings {
  const isTrace = options.datasetName === 'trace' && options.requestRate === undefined;
  const durationMs = options.duration === undefined ? Number.POSITIVE_INFINITY : options.duration * 1000;
  const ratePerSecond = options.requestRate ?? Number.POSITIVE_INFINITY;
  if (
    !isTrace &&
    ratePerSecond === Number.POSITIVE_INFINITY &&
    Number.isFinite(durationMs) &&
    options.maxConcurrency === undefined
  ) {
    throw new InvalidRequestError(
      '--duration with --request-rate inf needs --max-concurrency: it would send without end',
    );
  }
  const isUnlimited = options.numPrompts === undefined && (Number.isFinite(durationMs) || isTrace);
  return {
    ...loadSettings(options),
    arrival: isTrace ? 'trace' : { ratePerSecond, burstiness: options.burstiness },
    concurrencyMax: options.maxConcurrency ?? Number.POSITIVE_INFINITY,
    requestCountMax: options.numPrompts ?? (isUnlimited ? Number.POSITIVE_INFINITY : 1000),
    durationMs,
    warmupRequestCount: 0,
  };
}

async function benchOne(options: BenchServeOptions, load: LoadSettings): Promise<void> {
  const slos = goodputOf(options);
  if (options.saveResult || options.saveDetailed) checkFolder('--result-dir', options.resultDir);
  const stop = listenForStop();
  const result = await benchServer(
    options.baseUrl,
    clientSettings(options),
    workloadSettings(options, options.datasetName, load.requestCountMax),
    options.sendSlo && slos !== null ? { ...load, sentSlos: slos } : load,
    {
      clock: systemClock,
      signal: stop.signal,
      write: process.stderr.isTTY && !options.json ? (text) => process.stderr.write(text) : null,
    },
  );
  stop.dispose();
  const summary = summariseRun(result.records, slos);
  const json = toJson(options, load, result, summary);
  if (!options.json) process.stdout.write(screen(options, result, summary));
  if (options.saveResult || options.saveDetailed) save(options, json, result);
  if (options.json) process.stdout.write(`${JSON.stringify(json)}\n`);
  if (stop.signal.aborted) process.exitCode = exitCodes.interrupted;
  else if (summary.completedCount === 0) process.exitCode = exitCodes.failed;
}

function toJson(
  options: BenchServeOptions,
  load: LoadSettings,
  result: LoadResult,
  summary: RunSummary,
): Record<string, unknown> {
  const { arrival } = load;
  return {
    ...resultJson(
      summary,
      {
        date: isoDate(),
        model: result.facts.model,
        endpointType: options.backend,
        numPrompts: result.records.length,
        requestRate: arrival === 'trace' ? arrival : arrival.ratePerSecond,
        burstiness: options.burstiness ?? 1,
        maxConcurrency: Number.isFinite(load.concurrencyMax) ? load.concurrencyMax : null,
        coreShare: result.coreShare,
      },
      options.percentileMetrics,
    ),
    dataset: options.datasetName,
    seed: options.seed,
    shortened: result.shortenedCount,
    routes: routeCounts(result.records),
  };
}

/** Requests by the path and workers that the server named; empty where it names none. */
function routeCounts(records: readonly LoadRecord[]): Readonly<Record<string, number>> {
  const counts = new Map<string, number>();
  for (const { route } of records) if (route !== undefined) counts.set(route, (counts.get(route) ?? 0) + 1);
  return Object.fromEntries([...counts].sort(([a], [b]) => a.localeCompare(b)));
}

function screen(
  options: BenchServeOptions,
  { records, coreShare, shortenedCount }: LoadResult,
  summary: RunSummary,
): string {
  const notes = [
    ...Object.entries(routeCounts(records)).map(([route, count]) => `${route}: ${count} requests`),
    shortenedCount > 0 ? `${shortenedCount} requests were shortened to fit the model's context` : '',
    ...new Set(
      records.flatMap(({ error, outcome }) => (error === undefined ? [] : [`${outcome}: ${error}`])),
    ),
  ].filter((note) => note !== '');
  const noteText = notes.slice(0, 20).map((note) => `${note}\n`);
  return `\n${summaryText(summary, options.percentileMetrics, coreShare)}${noteText.length === 0 ? '' : `\n${noteText.join('')}`}`;
}

function save(options: BenchServeOptions, json: Record<string, unknown>, { records }: LoadResult): void {
  const rate = options.requestRate ?? 'inf';
  const model = String(json.model_id).replace(/[^\w.-]+/g, '-');
  const name =
    options.resultFilename ??
    `${options.backend}-${rate}qps-${model}-${isoDate().replace(/[-:]/g, '').slice(0, 15)}.json`;
  const file = path.join(options.resultDir, name);
  writing('--result-dir', file, () => {
    writeFileSync(file, `${JSON.stringify(json, null, 2)}\n`);
    if (options.saveDetailed) writeRecords(file.replace(/(\.json)?$/, '.requests.jsonl.gz'), records);
  });
  process.stderr.write(`written: ${file}\n`);
}
