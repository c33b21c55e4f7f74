// How long a routing decision takes: `npm run bench:decision -- [--json]`. With 64 workers under load, for
// each strategy, plan and choice (planOf, chooseRoute), for adaptive with a quarter of the workers
// prefill-first; one look of the planner, which comes once a second; the length prediction; and all that a
// request costs at its arrival (prompt hashes and length prediction, then snapshots, plan, facts, choice,
// counting and telling of it).
import os from 'node:os';
import { performance } from 'node:perf_hooks';
import { systemClock } from '#built/base/clock.js';
import { silentLogger } from '#built/base/log.js';
import { Prng } from '#built/base/prng.js';
import { Attempt } from '#built/control/attempt.js';
import { DecodeRoom } from '#built/control/decode-room.js';
import { Request } from '#built/control/request.js';
import { Routing } from '#built/control/routing.js';
import { chooseRoute } from '#built/router/choose-route.js';
import { LengthPredictor } from '#built/router/length-predictor.js';
import { planOf } from '#built/router/plan.js';
import { Planner } from '#built/router/planner.js';
import { uncorrected } from '#built/router/request-correction.js';
import { asCosted } from '#built/router/unloaded-ratios.js';
import { guessedParameters, WorkerCosts } from '#built/router/worker-costs.js';
import { WorkerLoad } from '#built/router/worker-load.js';

const prng = new Prng(1);
const count = 20_000;

function loadedWorker(index, role) {
  const load = new WorkerLoad();
  for (let i = prng.integer(0, 4); i > 0; i--) {
    const tokenCount = prng.integer(1, 2000);
    load.addPrompt(
      `${index}-${i}`,
      {
        tokenCount,
        pairCount: tokenCount ** 2 / 2,
        prefillMs: 30,
        addedMs: 20,
        dueMs: prng.integer(0, 1000),
      },
      0,
    );
  }
  const rowCount = prng.integer(0, 64);
  if (rowCount > 0) load.changeClaim(null, { tokenCount: rowCount * 600, variance: rowCount * 128 ** 2 });
  load.changeDecoding({ rowCount, kvTokenCount: rowCount * 500, remainingTokenCount: rowCount * 100 }, 0);
  const room = { blockTokenCount: 16, blockCount: 20_000, batchSlotCount: 64 };
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
    slo: { ttftMs: 500, tpotMs: 30 },
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
    onOverload: 'late',
    waitMsMax: Number.POSITIVE_INFINITY,
    onPromptDone() {},
    clock: systemClock,
    logger: silentLogger,
  };
  const routing = new Routing(options);
  const room = new DecodeRoom();
  const open = [];
  const [admit, choose] = [[], []];
  for (let i = 0; i < count; i++) {
    const promptIds = Array.from({ length: prng.integer(16, 4000) }, () => prng.integer(0, 30_000));
    const request = new Request(
      { id: `r${i}`, promptIds, sampling: { maxTokenCount: 512, choiceCount: 1 } },
      systemClock,
      1e6,
    );
    let attempt;
    admit.push(microsecondsOf(() => routing.admit(request)));
    choose.push(microsecondsOf(() => (attempt = routing.choose(request))));
    if (attempt instanceof Attempt) attempt.enter(room, facts[0]);
    open.push({ request, attempt });
    if (open.length <= 512) continue;
    const first = open.shift();
    if (first.attempt instanceof Attempt) first.attempt.end();
    first.request.cancel();
  }
  for (const { request } of open) request.cancel();
  return { admit: summary(admit.slice(count / 10)), choose: summary(choose.slice(count / 10)) };
}

/** Each at a moment at which it looks anew. */
function plannerLooks() {
  const planner = new Planner();
  let nowMs = 0;
  return percentilesOf(() => {
    nowMs += 20_000;
    for (let i = 0; i < 4; i++) planner.observe(factsOf(nowMs));
    planner.prefillFirst(workers, nowMs);
  });
}

/** Disaggregated divides them, as effectiveRoles does. */
function workersFor(strategy) {
  return strategy === 'disaggregated' ? divided : workers;
}

const workers = Array.from({ length: 64 }, (_, index) => loadedWorker(index, 'any'));
const divided = workers.map((worker, index) => ({ ...worker, role: index < 32 ? 'prefill' : 'decode' }));
const quarter = new Set(workers.slice(0, 16).map(({ id }) => id));
const predictor = new LengthPredictor();
for (let i = 0; i < 2000; i++) {
  predictor.observe(
    { promptTokenCount: prng.integer(16, 4000), maxTokenCount: 512 },
    { tokenCount: prng.integer(1, 500), isCensored: false },
  );
}
const result = {
  machine: {
    cpu: os.cpus()[0]?.model,
    cores: os.cpus().length,
    node: process.version,
    loadAverage: os.loadavg()[0],
  },
  workerCount: workers.length,
  decisionMicroseconds: Object.fromEntries(
    ['collocated', 'disaggregated', 'adaptive'].map((strategy) => [
      strategy,
      percentilesOf(() => chooseRoute(factsOf(0), planOf(workersFor(strategy), strategy, quarter))),
    ]),
  ),
  plannerMicroseconds: plannerLooks(),
  lengthPredictionMicroseconds: percentilesOf(() =>
    predictor.predict({ promptTokenCount: prng.integer(16, 4000), maxTokenCount: 512 }),
  ),
  requestMicroseconds: wholeRequests(workers),
};
if (!process.argv.includes('--json')) console.log(JSON.stringify(result, null, 2));
else console.log(JSON.stringify(result));
