// How long a routing decision takes: `npm run bench:decision -- [--json]`. With 64 workers under load, for each strategy, the pure choice
// (chooseRoute), the length prediction before it, all that a request costs at its arrival (prompt hashes and length prediction, then snapshots,
// facts, choice, counting and telling of it), and one whole comparison of arrangements, which runs every two seconds at most and gives way to
// others between its turns.
import os from 'node:os';
import { performance } from 'node:perf_hooks';
import { systemClock } from '../../dist/src/base/clock.js';
import { silentLogger } from '../../dist/src/base/log.js';
import { Prng } from '../../dist/src/base/prng.js';
import { Request } from '../../dist/src/control/request.js';
import { Routing } from '../../dist/src/control/routing.js';
import { Arranger } from '../../dist/src/router/arranger.js';
import { chooseRoute } from '../../dist/src/router/choose-route.js';
import { LengthPredictor } from '../../dist/src/router/length-predictor.js';
import { uncorrected } from '../../dist/src/router/request-correction.js';
import { asCosted } from '../../dist/src/router/unloaded-ratios.js';
import { guessedParameters, WorkerCosts } from '../../dist/src/router/worker-costs.js';
import { WorkerLoad } from '../../dist/src/router/worker-load.js';

const prng = new Prng(1);
const count = 20_000;

function loadedWorker(index, role) {
  const load = new WorkerLoad();
  for (let i = prng.integer(0, 4); i > 0; i--) {
    const tokenCount = prng.integer(1, 2000);
    load.addPrompt(
      `${index}-${i}`,
      { tokenCount, pairCount: tokenCount ** 2 / 2, roomTokenCount: 512, addedMs: 20, unloadedTtftMs: 50 },
      0,
    );
  }
  const rowCount = prng.integer(0, 64);
  if (rowCount > 0) load.changeClaim(null, { tokenCount: rowCount * 600, variance: rowCount * 128 ** 2 });
  load.changeDecoding({ rowCount, kvTokenCount: rowCount * 500, remainingTokenCount: rowCount * 100 }, 0);
  const room = { blockTokenCount: 16, blockCount: 20_000, seatCount: 64 };
  return {
    id: `w${index}`,
    role,
    isLive: true,
    ...room,
    load,
    costs: guessedParameters,
    corrections: uncorrected,
    unloaded: asCosted,
  };
}

function factsOf(nowMs) {
  return {
    promptTokenCount: prng.integer(16, 4000),
    outputTokenCount: 0,
    maxTokenCount: 512,
    choiceCount: 1,
    expectedTokenCount: 128,
    growth: { tokenCount: 128, variance: 128 ** 2 },
    prefixTokenCounts: new Map(),
    ttftWeight: 1,
    nowMs,
  };
}

/** Microseconds. */
function percentilesOf(run) {
  for (let i = 0; i < 2000; i++) run(i);
  const samples = [];
  for (let i = 0; i < count; i++) samples.push(microsecondsOf(() => run(i)));
  return summary(samples);
}

function microsecondsOf(run) {
  const startMs = performance.now();
  run();
  return 1000 * (performance.now() - startMs);
}

function summary(samples) {
  samples.sort((a, b) => a - b);
  const at = (share) => Number(samples[Math.floor(share * samples.length)].toFixed(1));
  return { p50: at(0.5), p90: at(0.9), p99: at(0.99) };
}

/** As the coordinator asks, with 512 requests open. */
function wholeRequests(workers) {
  const facts = workers.map(({ load, costs, corrections, unloaded, ...rest }) => rest);
  const options = {
    workers: () => facts,
    costs: new WorkerCosts(),
    strategy: 'adaptive',
    clock: systemClock,
    logger: silentLogger,
  };
  const routing = new Routing(options);
  const open = [];
  const [welcome, choose] = [[], []];
  for (let i = 0; i < count; i++) {
    const promptIds = Array.from({ length: prng.integer(16, 4000) }, () => prng.integer(0, 30_000));
    const request = new Request({ id: `r${i}`, promptIds, sampling: { maxTokenCount: 512, choiceCount: 1 } }, systemClock, 1e6);
    let traveller;
    welcome.push(microsecondsOf(() => (traveller = routing.welcome(request))));
    choose.push(microsecondsOf(() => routing.choose(traveller)));
    routing.admitted(traveller);
    open.push(traveller);
    if (open.length <= 512) continue;
    const first = open.shift();
    routing.leave(first);
    first.request.cancel();
  }
  for (const { request } of open) request.cancel();
  return { welcome: summary(welcome.slice(count / 10)), choose: summary(choose.slice(count / 10)) };
}

function compareMs(workers) {
  const arranger = new Arranger();
  for (let i = 0; i < 96; i++) {
    const expectedTokenCount = 128;
    arranger.remember({ arrivalMs: i * 20, promptTokenCount: prng.integer(16, 2000), expectedTokenCount, outputTokenCount: 128 });
  }
  const samples = [];
  for (let i = 0; i < 9; i++) {
    const before = process.cpuUsage();
    let turnCount = 0;
    for (const _ of arranger.comparison(workers)) turnCount++;
    const { user, system } = process.cpuUsage(before);
    samples.push({ cpuMs: (user + system) / 1000, turnCount });
  }
  samples.sort((a, b) => a.cpuMs - b.cpuMs);
  const { cpuMs, turnCount } = samples[4];
  return { cpuMs: Number(cpuMs.toFixed(1)), turnCount, cpuMsPerTurn: Number((cpuMs / turnCount).toFixed(2)) };
}

const workers = Array.from({ length: 64 }, (_, index) => loadedWorker(index, 'any'));
const predictor = new LengthPredictor();
for (let i = 0; i < 2000; i++) {
  predictor.observe(
    { promptTokenCount: prng.integer(16, 4000), maxTokenCount: 512 },
    { tokenCount: prng.integer(1, 500), isCensored: false },
  );
}
const result = {
  machine: { cpu: os.cpus()[0]?.model, cores: os.cpus().length, node: process.version, loadAverage: os.loadavg()[0] },
  workerCount: workers.length,
  decisionMicroseconds: Object.fromEntries(
    ['collocated', 'disaggregated', 'adaptive'].map((strategy) => [
      strategy,
      percentilesOf((i) => chooseRoute(factsOf(i), workers, strategy)),
    ]),
  ),
  lengthPredictionMicroseconds: percentilesOf(() =>
    predictor.predict({ promptTokenCount: prng.integer(16, 4000), maxTokenCount: 512 }),
  ),
  requestMicroseconds: wholeRequests(workers),
  comparison: { twoWorkers: compareMs(workers.slice(0, 2)), eightWorkers: compareMs(workers.slice(0, 8)) },
};
if (!process.argv.includes('--json')) console.log(JSON.stringify(result, null, 2));
else console.log(JSON.stringify(result));
