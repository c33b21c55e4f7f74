/** How far the simulator is from the real thing: the same requests at the same times against `twostroke serve` and on virtual time, with step
 *  times from a profile measured just before. Prints a table; writes it and the raw figures to --out.
 *
 *    node scripts/simulate-accuracy.mjs [--model demo] [--workers 'any:cpu*2?threads=1'] [--workloads short,mixed] [--fractions 0.3,0.6,0.85]
 *                                       [--strategies collocated,disaggregated,adaptive] [--requests 400] [--profile FILE] [--out FOLDER]
 *
 *  Needs `npm run build` and a quiet machine: what disturbs it is in the real run, not in the simulated one.
 *  HTTP and the client are not simulated: their time is the unloaded difference between the client's and the gateway's TTFT, added to every
 *  simulated TTFT. Rates are fractions of the real saturation of the collocated mode. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, writeFileSync } from 'node:fs';
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
import { timesFromProfiles } from '../dist/src/sim/profile-times.js';
import { simulatedPlan, simulatedVocabCount } from '../dist/src/sim/simulated-load.js';
import { simulate } from '../dist/src/sim/simulation.js';

const { values: options } = parseArgs({
  options: {
    model: { type: 'string', default: 'demo' },
    workers: { type: 'string', default: 'any:cpu*2?threads=1' },
    workloads: { type: 'string', default: 'short,mixed' },
    fractions: { type: 'string', default: '0.3,0.6,0.85' },
    strategies: { type: 'string', default: 'collocated,disaggregated,adaptive' },
    requests: { type: 'string', default: '400' },
    'load-format': { type: 'string', default: 'auto' },
    profile: { type: 'string' },
    out: { type: 'string' },
  },
});
const twostroke = path.join(import.meta.dirname, '../dist/src/cli/main.js');
const contextTokenCount = 4096;
const outputTokenCount = 32;
const warmupRequestCount = 20;
const seed = 11;
const runs = { count: 0 };

const profile = readProfile(options.profile ?? measureProfile());
const rows = [];
for (const workload of options.workloads.split(',')) {
  const saturation = await withServer('collocated', async (baseUrl) => {
    const records = await real(baseUrl, workload, {
      ratePerSecond: Number.POSITIVE_INFINITY,
      concurrencyMax: 32,
      requestCount: 200,
      runSeed: seed,
    });
    return summariseRun(records, null).requestsPerSecond;
  });
  for (const strategy of options.strategies.split(',')) {
    await withServer(strategy, async (baseUrl) => {
      const frontMs = await frontMsOf(baseUrl);
      for (const fraction of options.fractions.split(',').map(Number)) {
        const load = { ratePerSecond: saturation * fraction, requestCount: Number(options.requests), runSeed: seed + 1 };
        const measured = summariseRun(await real(baseUrl, workload, load), null);
        const simulated = summariseRun(await virtual(strategy, workload, load), null);
        rows.push(rowOf({ workload, strategy, fraction, ratePerSecond: load.ratePerSecond, frontMs }, measured, simulated));
        process.stderr.write(`${rowText(rows.at(-1))}\n`);
      }
    });
  }
}
report();

/** All workers busy at once, as when they serve. */
function measureProfile() {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'twostroke-accuracy-'));
  const args = ['profile', '--model', options.model, '--workers', options.workers, '--load-format', options['load-format']];
  const { status } = spawnSync(process.execPath, [twostroke, ...args, '--out', `${folder}/`], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const [file] = readdirSync(folder);
  if (status !== 0 || file === undefined) throw new Error('twostroke profile failed');
  return path.join(folder, file);
}

async function withServer(strategy, use) {
  const args = ['serve', '--model', options.model, '--workers', options.workers, '--strategy', strategy, '--port', '0', '--json'];
  const more = ['--allow-forced-length', '--load-format', options['load-format'], '--max-model-len', String(contextTokenCount)];
  const server = await ServerProcess.start([process.execPath, twostroke, ...args, ...more], systemClock, 300_000);
  try {
    return await use(server.baseUrl);
  } finally {
    await server.stop();
  }
}

/** Prompts differ from run to run, so that no prefix cache helps; lengths and times are the seed's. */
async function real(baseUrl, workload, { ratePerSecond, requestCount, runSeed, concurrencyMax = Number.POSITIVE_INFINITY }) {
  const client = { api: 'completions', model: null, apiKey: null, temperature: 0, ignoreEos: true, outputLength: 'forced' };
  const requestCountMax = warmupRequestCount + requestCount;
  const settings = {
    ...{ name: workload, path: null, inputTokenCount: 512, outputTokenCount, rangeRatio: 0 },
    ...{ outputShape: 'lognormal', lengthScale: 1, requestCountMax },
  };
  const facts = await openServer(baseUrl, client);
  const seeds = { seed: runSeed, contentSeed: runSeed + 100_003 * ++runs.count };
  const opened = await openWorkload(settings, seeds, { baseUrl, apiKey: null }, facts, client);
  const { records } = await loadServer(
    { baseUrl, facts, client, workload: opened, label: workload },
    {
      ...{ arrival: { ratePerSecond, burstiness: 1 }, timeScale: 1, concurrencyMax, warmupMs: 0, warmupRequestCount },
      ...{ requestCountMax, durationMs: Number.POSITIVE_INFINITY, drainMs: 120_000, seed: runSeed },
    },
    { clock: systemClock, write: null },
  );
  return records;
}

async function virtual(strategy, workload, { ratePerSecond, requestCount, runSeed }) {
  const { records } = await simulate(
    {
      ...{
        workers: parseWorkerSpecs(options.workers),
        strategy,
        profileOf: () => profile,
        timesOf: timesFromProfiles([profile])(runSeed),
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
      ...{ concurrencyMax: Number.POSITIVE_INFINITY, warmupMs: 0, warmupRequestCount },
      ...{ drainMs: 3_600_000, durationMs: Number.POSITIVE_INFINITY },
    },
  );
  return records;
}

/** What the client waits for beside the gateway: median over unloaded requests. */
async function frontMsOf(baseUrl) {
  const records = await real(baseUrl, 'short', {
    ratePerSecond: Number.POSITIVE_INFINITY,
    concurrencyMax: 1,
    requestCount: 20,
    runSeed: seed,
  });
  const { requests } = await (await fetch(`${baseUrl}/routes?count=40`)).json();
  const gatewayMs = new Map(requests.map((request) => [request.id, request.firstTokenMs - request.arrivalMs]));
  const differences = records.flatMap(({ id, firstTokenMs, sentMs }) => {
    const inner = gatewayMs.get(id);
    return inner === undefined ? [] : [firstTokenMs - sentMs - inner];
  });
  return differences.sort((a, b) => a - b)[Math.floor(differences.length / 2)] ?? 0;
}

function rowOf(facts, measured, simulated) {
  const pairOf = (metric, percentile, addedMs) => {
    const [realMs, virtualMs] = [measured[metric][percentile], simulated[metric][percentile] + addedMs];
    return { realMs, virtualMs, error: Math.abs(virtualMs - realMs) / realMs };
  };
  return {
    ...facts,
    isVoid: measured.isVoid,
    ttftP50: pairOf('ttftMs', 'p50', facts.frontMs),
    ttftP99: pairOf('ttftMs', 'p99', facts.frontMs),
    tpotP50: pairOf('tpotMs', 'p50', 0),
    tpotP99: pairOf('tpotMs', 'p99', 0),
  };
}

function rowText({ workload, strategy, fraction, ratePerSecond, isVoid, ...pairs }) {
  const cell = ({ realMs, virtualMs, error }) => `${realMs.toFixed(1)} / ${virtualMs.toFixed(1)} (${(100 * error).toFixed(0)} %)`;
  const cells = ['ttftP50', 'ttftP99', 'tpotP50', 'tpotP99'].map((name) => cell(pairs[name]));
  return `| ${[workload, strategy, `${ratePerSecond.toFixed(1)} (${fraction})${isVoid ? ' VOID' : ''}`, ...cells].join(' | ')} |`;
}

function report() {
  const head =
    '| workload | strategy | rate/s (of saturation) | TTFT p50 real / simulated ms | TTFT p99 | TPOT p50 | TPOT p99 |\n|-|-|-|-|-|-|-|';
  const text = `${head}\n${rows.map(rowText).join('\n')}\n`;
  process.stdout.write(text);
  if (options.out === undefined) return;
  mkdirSync(options.out, { recursive: true });
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim();
  const facts = { commit, command: process.argv.slice(2).join(' '), machine: os.cpus()[0]?.model, loadAverage: os.loadavg() };
  writeFileSync(
    path.join(options.out, 'accuracy.json'),
    `${JSON.stringify({ ...facts, profileKey: profile.key, rows }, null, 1)}\n`,
  );
  writeFileSync(path.join(options.out, 'accuracy.md'), text);
}
