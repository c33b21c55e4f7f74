/** What serving costs the processors of a host (sim/host.ts), measured from a running server on it, three
 *  quarters of a minute; Linux, since processor times are read from /proc.
 *
 *    node scripts/measure-host.mjs --base-url URL [--cores N] [--alone FILE --busy FILE] --out host.json
 *
 *  --cores: those that server, workers and load generator share; default: those of this process. Two
 *  profiles, of one worker alone and of all busy, tell how much a worker slows its neighbours; without them:
 *  not at all. For `simulate --host` and simulate-accuracy.mjs. Needs `npm run build`. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import { parseArgs } from 'node:util';
import { systemClock } from '#built/base/clock.js';
import { loadServer } from '#built/bench/serve.js';
import { openServer, openWorkload } from '#built/bench/setup.js';
import { fitNonNegative } from '#built/profile/least-squares.js';
import { readProfile } from '#built/profile/profile-file.js';
import { stepMs } from '#built/router/step-cost.js';

const { values: options } = parseArgs({
  options: {
    'base-url': { type: 'string' },
    cores: { type: 'string', default: String(os.availableParallelism()) },
    alone: { type: 'string' },
    busy: { type: 'string' },
    out: { type: 'string' },
  },
});
const baseUrl = options['base-url'];
if (baseUrl === undefined) throw new Error('--base-url URL is missing');
const short = { name: 'short', outputTokenCount: 32, outputShape: 'lognormal' };
const random = (outputTokenCount) => ({
  name: 'random',
  inputTokenCount: 128,
  outputTokenCount,
  outputShape: 'range',
});
const client = {
  api: 'completions',
  model: null,
  apiKey: null,
  temperature: 0,
  ignoreEos: true,
  outputLength: 'forced',
};
const facts = await openServer(baseUrl, client);
const sent = { runCount: 0 };

// the first hundreds cost an event loop several times as much as later ones
await load(short, { concurrencyMax: 16, requestCount: 600 });
const { runs, gateway, worker, generator } = await loopCosts();
const host = {
  coreCount: Number(options.cores),
  neighbourSlowdown: await neighbourSlowdown(),
  frontMs: await frontMs(),
  gateway,
  worker,
  generator,
  runs,
};
const { runs: _, ...told } = host;
process.stdout.write(`${JSON.stringify(told, null, 1)}\n`);
if (options.out !== undefined) writeFileSync(options.out, `${JSON.stringify(host, null, 1)}\n`);

/** Processor time of event loops, from closed-loop runs that differ in tokens and in how many share a step;
 *  processor milliseconds of a request are requestMs + frames · frameMs + tokens · tokenMs. Under load, where
 *  it matters: caches are warm then, and one wake-up does more. Only the first thread of a worker is its
 *  event loop: the others compute. */
async function loopCosts() {
  const measured = [];
  for (const [tokenCount, concurrencyMax, requestCount] of [
    [2, 8, 200],
    [2, 24, 200],
    [48, 4, 60],
    [48, 8, 80],
    [48, 24, 120],
  ]) {
    const before = await processorMs();
    const records = await load(random(tokenCount), { concurrencyMax, requestCount });
    const after = await processorMs();
    const each = Object.entries(after).map(([name, value]) => [
      name,
      (value - before[name]) / records.length,
    ]);
    measured.push({ ...Object.fromEntries(each), tokenCount });
  }
  const costOf = (name) => {
    const points = measured.map((run) => ({
      features: [1, run.stepCount, run.tokenCount],
      value: run[name],
    }));
    const [requestMs, frameMs, tokenMs] = fitNonNegative(points);
    return { requestMs, frameMs, tokenMs };
  };
  return {
    runs: measured,
    gateway: costOf('gateway'),
    worker: costOf('worker'),
    generator: costOf('generator'),
  };
}

async function processorMs() {
  const { workers } = await ask('/workers');
  await systemClock.sleep(150); // a snapshot more
  const gatewayPid = Number(
    readFileSync(`/proc/${workers[0].pid}/stat`, 'utf8').split(') ')[1].split(' ')[1],
  );
  const ofThread = (pid, thread) =>
    Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0]) / 1e6;
  const ofProcess = (pid) =>
    readdirSync(`/proc/${pid}/task`).reduce((sum, thread) => sum + ofThread(pid, thread), 0);
  const { workers: later } = await ask('/workers');
  return {
    gateway: ofProcess(gatewayPid),
    generator: ofProcess(process.pid),
    worker: workers.reduce((sum, { pid }) => sum + ofThread(pid, pid), 0),
    stepCount: later.reduce((sum, { snapshot }) => sum + snapshot.stepCount, 0),
  };
}

/** By prompts alone: in short steps it is the event loops that take time, and they are counted. */
async function neighbourSlowdown() {
  if (options.alone === undefined || options.busy === undefined) return 0;
  const [alone, busy] = [options.alone, options.busy].map(readProfile);
  const medianOf = ({ samples }) => {
    const prompts = samples.filter(({ prefillTokenCount }) => prefillTokenCount >= 64);
    return medianOfAll(prompts.map((sample) => sample.ms / stepMs(alone.parameters.step, sample)));
  };
  const { workers } = await ask('/workers');
  return workers.length < 2 ? 0 : Math.max(0, medianOf(busy) / medianOf(alone) - 1) / (workers.length - 1);
}

/** Median over requests that have the server to themselves of what the client waits for its first token
 *  beside workers and messages: HTTP, parsing, the choice of a route. */
async function frontMs() {
  const records = await load(short, { ratePerSecond: 8, requestCount: 40 });
  const { requests } = await ask('/routes?count=60');
  const workerMs = new Map(requests.map(({ id, firstTokenMs, routedMs }) => [id, firstTokenMs - routedMs]));
  return medianOfAll(
    records.flatMap(({ id, firstTokenMs, sentMs }) => {
      const inner = workerMs.get(id);
      return inner === undefined ? [] : [firstTokenMs - sentMs - inner];
    }),
  );
}

function medianOfAll(values) {
  return values.sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}

/** Prompts differ from run to run, so that no prefix cache helps. */
async function load(
  workload,
  { requestCount, ratePerSecond = Number.POSITIVE_INFINITY, concurrencyMax = Number.POSITIVE_INFINITY },
) {
  const seed = ++sent.runCount;
  const settings = {
    path: null,
    inputTokenCount: 512,
    rangeRatio: 0,
    lengthScale: 1,
    requestCountMax: requestCount,
    ...workload,
  };
  const opened = await openWorkload(
    settings,
    { seed, contentSeed: 100_003 * seed },
    { baseUrl, apiKey: null },
    facts,
    client,
  );
  const { records } = await loadServer(
    { baseUrl, facts, client, workload: opened, label: workload.name },
    {
      arrival: { ratePerSecond, burstiness: 1 },
      timeScale: 1,
      concurrencyMax,
      warmupMs: 0,
      warmupRequestCount: 0,
      requestCountMax: requestCount,
      durationMs: Number.POSITIVE_INFINITY,
      drainMs: 120_000,
      seed,
    },
    { clock: systemClock, write: null },
  );
  return records;
}

async function ask(path) {
  return (await fetch(`${baseUrl}${path}`)).json();
}
