/** How far the simulator is from the real thing: the same requests at the same times against `twostroke serve` and on virtual time. Prints a
 *  table; writes it and the raw figures to --out.
 *
 *    node scripts/simulate-accuracy.mjs [--model demo] [--workers 'any:cpu*2?threads=1'] [--alone 'any:cpu?threads=1'] [--workloads short,mixed]
 *                                       [--fractions 0.4,0.6,0.85] [--strategies collocated,disaggregated,adaptive] [--seconds 20] [--out FOLDER]
 *
 *  Everything simulated is measured just before: a profile of the workers, all busy (what server and simulated router believe, and the links),
 *  one of a worker alone (how long steps take with a core of their own), and what serving costs the processors (host-STRATEGY.json), by
 *  processor time of closed-loop runs. Nothing is fitted to the runs that are compared. Rates are fractions of the real saturation of the
 *  collocated mode; servers are warm. Needs `npm run build`, Linux and a quiet machine: what disturbs it is in the real run, not in the
 *  simulated one. About ten minutes. */
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { systemClock } from '../dist/src/base/clock.js';
import { loadServer } from '../dist/src/bench/serve.js';
import { ServerProcess } from '../dist/src/bench/server-process.js';
import { openServer, openWorkload } from '../dist/src/bench/setup.js';
import { summariseRun } from '../dist/src/bench/summary.js';
import { parseWorkerSpecs } from '../dist/src/control/worker-spec.js';
import { readProfile } from '../dist/src/profile/profile-file.js';
import { spareHost } from '../dist/src/sim/host.js';
import { timesFromProfiles } from '../dist/src/sim/profile-times.js';
import { simulatedPlan, simulatedVocabCount } from '../dist/src/sim/simulated-load.js';
import { simulate } from '../dist/src/sim/simulation.js';
import { measureHost, neighbourSlowdown } from './simulate-accuracy/host-costs.mjs';

const { values: options } = parseArgs({
  options: {
    model: { type: 'string', default: 'demo' },
    workers: { type: 'string', default: 'any:cpu*2?threads=1' },
    alone: { type: 'string', default: 'any:cpu?threads=1' },
    workloads: { type: 'string', default: 'short,mixed' },
    fractions: { type: 'string', default: '0.4,0.6,0.85' },
    strategies: { type: 'string', default: 'collocated,disaggregated,adaptive' },
    seconds: { type: 'string', default: '20' },
    'load-format': { type: 'string', default: 'auto' },
    profiles: { type: 'string' }, // a folder with busy/ and alone/ of an earlier run
    real: { type: 'string' }, // accuracy.json of an earlier run: its real figures, everything else measured anew
    out: { type: 'string' },
  },
});
const twostroke = path.join(import.meta.dirname, '../dist/src/cli/main.js');
const contextTokenCount = 4096;
const outputTokenCount = 32;
const warmupRequestCount = 20;
const seed = 11;
const runs = { count: 0 };
const closedLoop = { ratePerSecond: Number.POSITIVE_INFINITY, concurrencyMax: 32, requestCount: 300, runSeed: seed };

const folder = options.profiles ?? mkdtempSync(path.join(os.tmpdir(), 'twostroke-accuracy-'));
if (options.profiles === undefined) {
  measureProfile('busy', options.workers);
  measureProfile('alone', options.alone);
}
const busyFile = onlyFile('busy');
const busy = readProfile(busyFile);
const alone = readProfile(onlyFile('alone'));
const timesOf = timesFromProfiles([{ ...alone, linkSamples: busy.linkSamples }]);
/** By strategy: the adaptive router takes more of the gateway's time. */
const hosts = new Map();

const rows = [];
/** Requests per second, 32 at once, collocated. */
const saturations = [];
const earlier = options.real === undefined ? null : JSON.parse(readFileSync(options.real, 'utf8'));
if (earlier === null) await compareAll();
else await compareWith(earlier);
report();

async function compareAll() {
  for (const workload of options.workloads.split(',')) {
    const saturation = await withServer('collocated', async (baseUrl) => {
      if (!hosts.has('collocated')) hosts.set('collocated', await hostOf(baseUrl));
      return rateOf(await real(baseUrl, { name: workload }, closedLoop));
    });
    await addSaturation(workload, saturation);
    for (const strategy of options.strategies.split(',')) {
      await withServer(strategy, async (baseUrl) => {
        if (!hosts.has(strategy)) hosts.set(strategy, await hostOf(baseUrl));
        for (const fraction of options.fractions.split(',').map(Number)) {
          const ratePerSecond = saturation * fraction;
          const facts = {
            workload,
            strategy,
            fraction,
            ratePerSecond,
            requestCount: Math.round(ratePerSecond * options.seconds),
          };
          const measured = summariseRun(await real(baseUrl, { name: workload }, loadOf(facts)), null);
          const figureOf = (metric, percentile) => measured[metric][percentile];
          await addRow({ ...facts, isVoid: measured.isVoid }, figureOf);
        }
      });
    }
  }
}

async function compareWith({ saturations: realSaturations, rows: realRows }) {
  for (const strategy of new Set(realRows.map((row) => row.strategy))) {
    hosts.set(strategy, await withServer(strategy, hostOf));
  }
  for (const { workload, real: saturation } of realSaturations) await addSaturation(workload, saturation);
  for (const { workload, strategy, fraction, ratePerSecond, requestCount, isVoid, ...pairs } of realRows) {
    const figureOf = (metric, percentile) => pairs[`${metric.slice(0, 4)}P${percentile.slice(1)}`].realMs;
    await addRow({ workload, strategy, fraction, ratePerSecond, requestCount, isVoid }, figureOf);
  }
}

function loadOf({ ratePerSecond, requestCount }) {
  return { ratePerSecond, requestCount, runSeed: seed + 1 };
}

async function addSaturation(workload, saturation) {
  const simulated = rateOf(await virtual('collocated', workload, closedLoop));
  const withoutHost = rateOf(await virtual('collocated', workload, closedLoop, spareHost));
  saturations.push({ workload, real: saturation, simulated, withoutHost });
  process.stderr.write(`${saturationText(saturations.at(-1))}\n`);
}

async function addRow(facts, figureOf) {
  const simulated = summariseRun(await virtual(facts.strategy, facts.workload, loadOf(facts)), null);
  rows.push(rowOf(facts, figureOf, simulated));
  process.stderr.write(`${rowText(rows.at(-1))}\n`);
}

function rateOf(records) {
  return summariseRun(records, null).requestsPerSecond;
}

function hostOf(baseUrl) {
  const otherCount = parseWorkerSpecs(options.workers).length - 1;
  return measureHost(baseUrl, {
    load: (workload, settings) => real(baseUrl, workload, { ...settings, runSeed: seed + 3 }),
    neighbourSlowdown: neighbourSlowdown(alone, busy, otherCount),
  });
}

function measureProfile(name, workers) {
  const args = ['profile', '--model', options.model, '--workers', workers, '--load-format', options['load-format']];
  const { status } = spawnSync(process.execPath, [twostroke, ...args, '--out', `${path.join(folder, name)}/`], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  if (status !== 0) throw new Error('twostroke profile failed');
}

function onlyFile(name) {
  const [file] = readdirSync(path.join(folder, name));
  if (file === undefined) throw new Error(`no profile in ${path.join(folder, name)}`);
  return path.join(folder, name, file);
}

/** Warm: the first hundreds of requests cost an event loop several times as much as later ones. */
async function withServer(strategy, use) {
  const args = ['serve', '--model', options.model, '--workers', options.workers, '--strategy', strategy, '--port', '0', '--json'];
  const more = [
    '--profile',
    busyFile,
    '--allow-forced-length',
    '--load-format',
    options['load-format'],
    '--max-model-len',
    String(contextTokenCount),
  ];
  const server = await ServerProcess.start([process.execPath, twostroke, ...args, ...more], systemClock, 300_000);
  try {
    await real(server.baseUrl, { name: 'short' }, { concurrencyMax: 8, requestCount: 300, runSeed: seed + 2 });
    return await use(server.baseUrl);
  } finally {
    await server.stop();
  }
}

/** Prompts differ from run to run, so that no prefix cache helps; lengths and times are the seed's. */
async function real(
  baseUrl,
  workload,
  { ratePerSecond = Number.POSITIVE_INFINITY, requestCount, runSeed, concurrencyMax = Number.POSITIVE_INFINITY },
) {
  const client = { api: 'completions', model: null, apiKey: null, temperature: 0, ignoreEos: true, outputLength: 'forced' };
  const requestCountMax = warmupRequestCount + requestCount;
  const settings = {
    ...{ path: null, inputTokenCount: 512, outputTokenCount, rangeRatio: 0 },
    ...{ outputShape: 'lognormal', lengthScale: 1, requestCountMax, ...workload },
  };
  const facts = await openServer(baseUrl, client);
  const seeds = { seed: runSeed, contentSeed: runSeed + 100_003 * ++runs.count };
  const opened = await openWorkload(settings, seeds, { baseUrl, apiKey: null }, facts, client);
  const { records } = await loadServer(
    { baseUrl, facts, client, workload: opened, label: workload.name },
    {
      ...{ arrival: { ratePerSecond, burstiness: 1 }, timeScale: 1, concurrencyMax, warmupMs: 0, warmupRequestCount },
      ...{ requestCountMax, durationMs: Number.POSITIVE_INFINITY, drainMs: 120_000, seed: runSeed },
    },
    { clock: systemClock, write: null },
  );
  return records;
}

async function virtual(
  strategy,
  workload,
  { ratePerSecond, requestCount, runSeed, concurrencyMax = Number.POSITIVE_INFINITY },
  host = hosts.get(strategy),
) {
  const { records } = await simulate(
    {
      ...{
        workers: parseWorkerSpecs(options.workers),
        strategy,
        profileOf: () => busy,
        timesOf: timesOf(runSeed),
        host,
      },
      settings: {
        ...{ blockTokenCount: 16, blockCount: 16_384, maxModelTokenCount: contextTokenCount, prefixCaching: 'on', depth: 2 },
        vocabCount: simulatedVocabCount,
      },
    },
    simulatedPlan({
      workload: {
        ...{ name: workload, seed: runSeed, contentSeed: runSeed, inputTokenCount: 512, outputTokenCount, rangeRatio: 0 },
        ...{ outputShape: 'lognormal', lengthScale: 1 },
      },
      ...{ arrival: { ratePerSecond, burstiness: 1 }, requestCountMax: warmupRequestCount + requestCount },
      ...{ durationMs: Number.POSITIVE_INFINITY, contextTokenCount },
    }),
    {
      ...{ concurrencyMax, warmupMs: 0, warmupRequestCount },
      ...{ drainMs: 3_600_000, durationMs: Number.POSITIVE_INFINITY },
    },
  );
  return records;
}

function rowOf(facts, figureOf, simulated) {
  const pairOf = (metric, percentile) => {
    const [realMs, virtualMs] = [figureOf(metric, percentile), simulated[metric][percentile]];
    return { realMs, virtualMs, error: Math.abs(virtualMs - realMs) / realMs };
  };
  return {
    ...facts,
    ttftP50: pairOf('ttftMs', 'p50'),
    ttftP99: pairOf('ttftMs', 'p99'),
    tpotP50: pairOf('tpotMs', 'p50'),
    tpotP99: pairOf('tpotMs', 'p99'),
  };
}

function saturationText({ workload, real: realRate, simulated, withoutHost }) {
  const rates = `${realRate.toFixed(1)} requests per second, simulated ${simulated.toFixed(1)}`;
  return `Saturation of ${workload}: ${rates} (${withoutHost.toFixed(1)} if event loops cost nothing).`;
}

function rowText({ workload, strategy, fraction, ratePerSecond, isVoid, ...pairs }) {
  const cell = ({ realMs, virtualMs, error }) => `${realMs.toFixed(1)} / ${virtualMs.toFixed(1)} (${(100 * error).toFixed(0)} %)`;
  const cells = ['ttftP50', 'ttftP99', 'tpotP50', 'tpotP99'].map((name) => cell(pairs[name]));
  return `| ${[workload, strategy, `${ratePerSecond.toFixed(1)} (${fraction})${isVoid ? ' VOID' : ''}`, ...cells].join(' | ')} |`;
}

/** The aim: 15 % at p50, 30 % at p99. */
function verdict() {
  const ofMetric = (name, aim) => {
    const errors = rows.map((row) => row[name].error).sort((a, b) => a - b);
    const median = errors[Math.floor(errors.length / 2)];
    return `${name} ${errors.filter((error) => error <= aim).length} of ${errors.length}, median ${(100 * median).toFixed(0)} %`;
  };
  const metrics = [
    ['ttftP50', 0.15],
    ['ttftP99', 0.3],
    ['tpotP50', 0.15],
    ['tpotP99', 0.3],
  ];
  return `Within the aim (15 % at p50, 30 % at p99): ${metrics.map(([name, aim]) => ofMetric(name, aim)).join('; ')}.`;
}

function report() {
  const head =
    '| workload | strategy | rate/s (of saturation) | TTFT p50 real / simulated ms | TTFT p99 | TPOT p50 | TPOT p99 |\n|-|-|-|-|-|-|-|';
  const text = `${head}\n${rows.map(rowText).join('\n')}\n\n${verdict()}\n\n${saturations.map(saturationText).join('\n')}\n`;
  process.stdout.write(text);
  if (options.out === undefined) return;
  mkdirSync(options.out, { recursive: true });
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim();
  const facts = { commit, command: process.argv.slice(2).join(' '), machine: os.cpus()[0]?.model, loadAverage: os.loadavg() };
  writeFileSync(
    path.join(options.out, 'accuracy.json'),
    `${JSON.stringify({ ...facts, profileKey: busy.key, saturations, rows }, null, 1)}\n`,
  );
  writeFileSync(path.join(options.out, 'accuracy.md'), text);
  for (const [strategy, host] of hosts) {
    writeFileSync(path.join(options.out, `host-${strategy}.json`), `${JSON.stringify(host, null, 1)}\n`);
  }
  for (const each of ['busy', 'alone']) copyFileSync(onlyFile(each), path.join(options.out, `${each}.profile.json`));
}
