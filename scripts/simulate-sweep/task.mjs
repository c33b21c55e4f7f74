/** One workload of one scenario, in a thread of its own: every rate and strategy of it; tells rows of the table. Started by
 *  scripts/simulate-sweep.mjs with the same command line. */
import { parentPort, workerData } from 'node:worker_threads';
import { summariseSweep } from '../../dist/src/bench/sweep-summary.js';
import { routesTaken } from '../../dist/src/sim/routes-taken.js';
import { simulateSweep } from '../../dist/src/sim/sweep.js';
import { isGpu, name, options, scenarios } from './scenarios.mjs';

const scenario = scenarios[workerData.scenarioIndex];
const data = await simulateSweep({
  ...{ name, candidate: 'adaptive', seed: 1 },
  ...{ repetitionCount: Number(options.repetitions), requestCount: Number(options.requests) },
  ...{ warmup: { requestCount: 60, ms: 6000 }, saturationConcurrency: isGpu ? 128 : 32 },
  ...scenario,
  workloads: [scenario.workloads[workerData.workloadIndex]],
});
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
