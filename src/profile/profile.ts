/** Measures a running gateway's workers and makes their profile files: one for each kind of worker. Used by
 *  cli/ (profile) and library/ (learn-costs). The gateway should have nothing else to do meanwhile; if it
 *  has, the measurement is of what is left. */

import { at } from '../base/assert.js';
import type { Clock } from '../base/clock.js';
import type { WorkerId } from '../base/ids.js';
import type { CostParameters, ProfileFile } from '../router/cost-parameters.js';
import { stepMs } from '../router/step-cost.js';
import type { StepSample } from '../router/step-work.js';
import { guessedParameters } from '../router/worker-costs.js';
import { Asker, type MeasuredGateway } from './asking.js';
import { fitLinks, medianOf } from './fit-link.js';
import { canFit, fitStep, type StepFit } from './fit-step.js';
import { type HandOverSample, type Measurements, measureWorkers } from './measure.js';
import { readableOf } from './readable.js';
import { averagedRuns, thinned, warmSteps } from './thin-samples.js';
import { kindsOf, type ReadyWorker, type WorkerKind } from './worker-kinds.js';

interface ProfileOptions {
  readonly gateway: MeasuredGateway;
  readonly clock: Clock;
  readonly vocabCount: number;
  readonly budgetMs: number;
  /** For the file: ISO 8601, UTC. */
  readonly measuredAt: string;
  /** Cuts the measurement: the promise rejects. */
  readonly signal: AbortSignal;
  readonly onProgress: (share: number, what: string) => void;
}

export interface MeasuredProfile {
  readonly file: ProfileFile;
  readonly workers: readonly WorkerId[];
  /** A step of one worker alone, in parts of what the file says of it: below 1 where workers slow each other
   *  down. Null: not measured. */
  readonly soloShare: number | null;
  readonly errorOfKind: StepFit['errorOfKind'];
}

/** Samples of one kind: of one worker that the fit sees, and of all together that the file keeps. */
const fittedPerKind = 24;
const keptPerKind = 4;
const keptCountMax = 500;
/** Workers of a kind that the file has samples of: no two devices are quite alike. */
const keptWorkerCountMax = 4;

/** One for each kind of worker, in the order of the workers. Throws when a worker made too few steps (it
 *  died). */
export async function profileWorkers(options: ProfileOptions): Promise<readonly MeasuredProfile[]> {
  const { gateway, clock, vocabCount, signal, measuredAt } = options;
  const asker = new Asker({ gateway, clock, vocabCount, signal });
  const isEnough = (samples: readonly StepSample[]) => canFit(fittedOf(warmSteps(samples)));
  const measurements = await measureWorkers({ ...options, asker, isEnough }).finally(() => asker.close());
  const kinds = kindsOf(gateway.workers());
  return kinds.map((kind) => profileOf(kind, kinds, measurements, measuredAt));
}

function profileOf(
  kind: WorkerKind,
  all: readonly WorkerKind[],
  { steps, solo, overheadsMs, handOvers }: Measurements,
  measuredAt: string,
): MeasuredProfile {
  const { key, workers } = kind;
  const ids = workers.map(({ id }) => id);
  const { ready, stepLimits } = at(workers, 0);
  const warm = ids.map((id) => warmSteps(steps.get(id) ?? []));
  const fit = fitStep(warm.flatMap(fittedOf));
  const reported = warm.slice(0, keptWorkerCountMax);
  const kept = { perKind: keptPerKind / reported.length, count: Math.floor(keptCountMax / reported.length) };
  const { links, handOver } = linksOf(kind, all, handOvers);
  const ownOverheads = ids.flatMap((id) => overheadsMs.get(id) ?? []);
  const overheadMs = medianOf(ownOverheads.length > 0 ? ownOverheads : [...overheadsMs.values()].flat());
  const kvBytesPerToken = ready.blockBytes / ready.blockTokenCount;
  const parameters: CostParameters = {
    step: fit.cost,
    links,
    request: {
      arrivalMs: overheadMs / 2, // one clock cannot tell the two halves apart
      tokenMs: overheadMs / 2,
      handOverMs: handOver.ms,
      handOverMsPerToken: handOver.msPerByte * kvBytesPerToken,
    },
    kvBytesPerToken,
    tokenBudget: stepLimits.tokenBudget,
    prefillChunkTokenCount: stepLimits.prefillChunkTokenCount,
  };
  const file: ProfileFile = {
    key,
    measuredAt,
    parameters,
    readable: readableOf(parameters),
    fitError: fit.error,
    samples: reported.flatMap((samples) => thinned(samples, kept.perKind).slice(-kept.count)),
    linkSamples: handOversFrom(workers, handOvers).map(({ connector, bytes, exposedMs }) => ({
      connector,
      bytes,
      ms: exposedMs,
    })),
  };
  const isSolo = ids.includes(solo.worker) && solo.samples.length > 0;
  return {
    file,
    workers: ids,
    soloShare: isSolo ? soloShareOf(parameters, solo.samples) : null,
    errorOfKind: fit.errorOfKind,
  };
}

function fittedOf(warm: readonly StepSample[]): readonly StepSample[] {
  return thinned(averagedRuns(warm), fittedPerKind);
}

/** From hand-overs and probes of this kind of workers; where there are none, from those of the others, then a
 *  guess: nothing is free. */
function linksOf(kind: WorkerKind, all: readonly WorkerKind[], handOvers: readonly HandOverSample[]) {
  const fitOf = (kinds: readonly WorkerKind[]) => {
    const workers = kinds.flatMap((each) => each.workers);
    const trials = workers.flatMap(({ connectors }) => connectors.flatMap((connector) => connector.trials));
    return fitLinks(trials, handOversFrom(workers, handOvers));
  };
  const [own, any] = [fitOf([kind]), fitOf(all)];
  const guess = { ms: guessedParameters.request.handOverMs, msPerByte: 0 };
  return {
    links: own.links.length > 0 ? own.links : any.links,
    handOver: own.handOver ?? any.handOver ?? guess,
  };
}

function handOversFrom(
  workers: readonly ReadyWorker[],
  handOvers: readonly HandOverSample[],
): readonly HandOverSample[] {
  return handOvers.filter(({ from }) => workers.some(({ id }) => id === from));
}

function soloShareOf({ step }: CostParameters, samples: readonly StepSample[]): number {
  return medianOf(averagedRuns(samples).map((sample) => sample.ms / stepMs(step, sample)));
}
