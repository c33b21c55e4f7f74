/** One workload of one scenario, in a thread of its own: every rate and strategy of it; tells rows of the
 *  table. Started by scripts/simulate-sweep.mjs with the same command line. */
import path from 'node:path';
import { parentPort, workerData } from 'node:worker_threads';
import { SweepFiles } from '#built/bench/sweep-file.js';
import { summariseSweep } from '#built/bench/sweep-summary.js';
import { routesTaken } from '#built/sim/routes-taken.js';
import { simulateSweep } from '#built/sim/sweep.js';
import { isGpu, name, options, scenarios, sweepFolderOf } from './scenarios.mjs';

const scenario = scenarios[workerData.scenarioIndex];
const data = await simulateSweep({
  name,
  candidate: 'adaptive',
  seed: 1,
  repetitionCount: Number(options.repetitions),
  requestCount: Number(options.requests),
  settleMs: 6000,
  warmupMs: 1500,
  saturation: isGpu ? { concurrency: 256, requestCount: 350 } : { concurrency: 32, requestCount: 200 },
  ...scenario,
  workloads: [scenario.workloads[workerData.workloadIndex]],
});
if (options.sweeps !== undefined)
  new SweepFiles(path.join(sweepFolderOf(scenario), `${workerData.workloadIndex}`)).keep(data);
const rows = summariseSweep(data).points.map((point) => rowOf(scenario.name, point, data));
const requestCount = [...data.records.values()].reduce((sum, records) => sum + records.length, 0);
parentPort.postMessage({ rows, requestCount });

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
      .map(({ runIndex }) => data.records.get(runIndex));
  const modes = Object.fromEntries(
    point.modes.map(({ mode: each, summary, goodRequestsPerSecond, predictionErrors: errors }) => [
      each,
      {
        goodRequestsPerSecond,
        ttftMsP50: summary.ttftMs.p50,
        ttftMsP99: summary.ttftMs.p99,
        tpotMsP50: summary.tpotMs.p50,
        tpotMsP99: summary.tpotMs.p99,
        requestsPerSecond: summary.requestsPerSecond,
        predictionErrors: errors,
        routes: recordsOf(each).map(routesTaken), // by repetition
      },
    ]),
  );
  const { workload, ratePerSecond, rateFraction, reference, comparison, noise } = point;
  return { scenario, workload, ratePerSecond, rateFraction, reference, comparison, noise, modes };
}
