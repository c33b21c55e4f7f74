/** A sweep of real servers once more on virtual time: every run with the arrivals and lengths it had, one
 *  simulated cluster a server, which keeps what it has learned from run to run and rests while the others are
 *  asked. Used by scripts/simulate-accuracy.mjs.
 *  Invariant: nothing of what the real server answered is read, but for how long it took, which is how long
 *  the others rested. */
import { InvalidRequestError } from '../base/errors.js';
import type { LoadRecord, PlannedRequest } from '../bench/load-record.js';
import { fallbackTokenIds, mix, randomIds } from '../bench/prompts.js';
import type { SweepData, SweepRun } from '../bench/sweep-file.js';
import { type SimulatedRun, type SimulationOptions, simulateRuns } from './simulation.js';

/** Between two runs of a sweep: the workload is made, the server asked who it is. */
const changeMs = 300;
const drainMs = 3_600_000;

/** Simulated records by the real run's index; those of A/A repeats are missing. Throws InvalidRequestError
 *  where there are no records to replay. */
export async function replaySweep(
  data: SweepData,
  simulationOf: (mode: string) => SimulationOptions,
): Promise<ReadonlyMap<number, readonly LoadRecord[]>> {
  const replayed = new Map<number, readonly LoadRecord[]>();
  for (const mode of new Set(data.header.runs.map((run) => run.mode))) {
    const runs = data.header.runs.filter((run) => run.mode === mode && run.stage !== 'repeat');
    const results = await simulateRuns(
      simulationOf(mode),
      runs.map((run, place) => ({
        ...runOf(recordsOf(data, run), run),
        idleMs: restMs(data, runs[place - 1], run),
      })),
    );
    for (const [place, { records }] of results.entries()) {
      const run = runs[place];
      if (run !== undefined) replayed.set(run.runIndex, inPhases(records, recordsOf(data, run)));
    }
  }
  return replayed;
}

function recordsOf({ records }: SweepData, { runIndex }: SweepRun): readonly LoadRecord[] {
  const found = records.get(runIndex) ?? [];
  if (found.length === 0) throw new InvalidRequestError(`run ${runIndex} of the sweep has no records`);
  return found;
}

/** Requests at the times they were really sent; where there were no arrival times, as many open as there
 *  were. */
function runOf(real: readonly LoadRecord[], { ratePerSecond, runIndex }: SweepRun): SimulatedRun {
  const openCountMax = 1 + real.reduce((max, { inFlightCount }) => Math.max(max, inFlightCount), 0);
  const isOpenLoop = ratePerSecond !== null;
  return {
    plan: [...real]
      .sort((a, b) => a.index - b.index)
      .map((record) => plannedOf(record, runIndex, isOpenLoop)),
    load: {
      concurrencyMax: isOpenLoop ? Number.POSITIVE_INFINITY : openCountMax,
      warmupMs: 0,
      warmupRequestCount: 0,
      drainMs,
      durationMs: Number.POSITIVE_INFINITY,
    },
  };
}

/** No two prompts begin alike, as in the real sweep. */
function plannedOf(record: LoadRecord, runIndex: number, isOpenLoop: boolean): PlannedRequest {
  const { index, promptTokenCount, wantedTokenCount, maxTokenCount, sentMs } = record;
  const ids = randomIds(fallbackTokenIds, mix(runIndex, 1), index, promptTokenCount);
  return {
    index,
    promptTokenCount,
    wantedTokenCount,
    maxTokenCount,
    at: isOpenLoop ? sentMs : 'asap',
    prompt: { kind: 'ids', ids },
  };
}

/** What lay between two runs of one server. */
function restMs({ header, records }: SweepData, previous: SweepRun | undefined, run: SweepRun): number {
  if (previous === undefined) return 0;
  const between = header.runs.filter(
    ({ runIndex }) => runIndex > previous.runIndex && runIndex < run.runIndex,
  );
  const tookMs = ({ runIndex }: SweepRun) =>
    (records.get(runIndex) ?? []).reduce((max, { endMs }) => Math.max(max, endMs), 0);
  return between.reduce((sum, each) => sum + changeMs + tookMs(each), changeMs);
}

/** What was measured of the real run is what is measured of the simulated one. */
function inPhases(simulated: readonly LoadRecord[], real: readonly LoadRecord[]): readonly LoadRecord[] {
  const phases = new Map(real.map(({ index, phase }) => [index, phase]));
  return simulated.map((record) => ({ ...record, phase: phases.get(record.index) ?? 'warmup' }));
}
