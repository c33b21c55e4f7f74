/** Measures a running gateway's workers and makes their profile files: one for each kind of worker. Used by cli/ (profile, serve) and the
 *  example. The gateway should have nothing else to do meanwhile; if it has, the measurement is of what is left. */

import { at } from '../base/assert.js';
import type { Clock } from '../base/clock.js';
import type { WorkerId } from '../base/ids.js';
import type { WorkerStatus } from '../control/worker-status.js';
import type { CostParameters, ProfileFile, ProfileKey } from '../router/cost-parameters.js';
import { stepMs } from '../router/step-cost.js';
import type { StepSample } from '../router/step-work.js';
import type { ReadyBody } from '../worker/messages.js';
import { Asker, type MeasuredGateway } from './asking.js';
import { fitLinks, medianOf, probedLinks } from './fit-link.js';
import { fitStep, type StepFit } from './fit-step.js';
import { type Measurements, measureWorkers } from './measure.js';
import { isSameKey, profileKeyOf } from './profile-key.js';
import { readableOf } from './readable.js';
import { averagedRuns, thinned } from './thin-samples.js';

export interface ProfileOptions {
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
  /** A step of one worker alone, in parts of what the file says of it: below 1 where workers slow each other down. Null: not measured. */
  readonly soloShare: number | null;
  readonly errorOfKind: StepFit['errorOfKind'];
}

/** Samples of one kind that the fit sees, and that the file keeps. */
const fittedPerKind = 24;
const keptPerKind = 4;
const keptCountMax = 500;

/** One for each kind of worker, in the order of the workers. Throws when a worker made no steps (it died, or the budget is too short). */
export async function profileWorkers(options: ProfileOptions): Promise<readonly MeasuredProfile[]> {
  const { gateway, clock, vocabCount, signal, measuredAt } = options;
  const asker = new Asker({ gateway, clock, vocabCount, signal });
  const measurements = await measureWorkers({ ...options, asker }).finally(() => asker.close());
  return kindsOf(gateway.workers()).map(({ key, workers }) => profileOf(key, workers, measurements, measuredAt));
}

type ReadyWorker = WorkerStatus & { readonly ready: ReadyBody };

function kindsOf(workers: readonly WorkerStatus[]): readonly { key: ProfileKey; workers: readonly ReadyWorker[] }[] {
  const kinds: { key: ProfileKey; workers: ReadyWorker[] }[] = [];
  for (const worker of workers.filter(isReady)) {
    const key = profileKeyOf(worker.ready);
    const kind = kinds.find((each) => isSameKey(each.key, key));
    if (kind === undefined) kinds.push({ key, workers: [worker] });
    else kind.workers.push(worker);
  }
  return kinds;
}

function isReady(worker: WorkerStatus): worker is ReadyWorker {
  return worker.state === 'ready' && worker.ready !== null;
}

function profileOf(
  key: ProfileKey,
  workers: readonly ReadyWorker[],
  { steps, solo, overheadsMs, handOvers }: Measurements,
  measuredAt: string,
): MeasuredProfile {
  const ids = workers.map(({ id }) => id);
  const { ready, stepLimits } = at(workers, 0);
  const samples = ids.flatMap((id) => steps.get(id) ?? []);
  const fit = fitStep(ids.flatMap((id) => thinned(averagedRuns(steps.get(id) ?? []), fittedPerKind)));
  const trials = workers.flatMap(({ connectors }) => connectors.flatMap((connector) => connector.trials));
  const own = handOvers.filter(({ from }) => ids.includes(from));
  const { links, handOverMs, handOverMsPerByte } = fitLinks(trials, own);
  const ownOverheads = ids.flatMap((id) => overheadsMs.get(id) ?? []);
  const overheadMs = medianOf(ownOverheads.length > 0 ? ownOverheads : [...overheadsMs.values()].flat());
  const kvBytesPerToken = ready.blockBytes / ready.blockTokenCount;
  const parameters: CostParameters = {
    step: fit.cost,
    links,
    request: {
      arrivalMs: overheadMs / 2, // one clock cannot tell the two halves apart
      tokenMs: overheadMs / 2,
      handOverMs,
      handOverMsPerToken: handOverMsPerByte * kvBytesPerToken,
    },
    kvBytesPerToken,
    tokenBudget: stepLimits.tokenBudget,
    prefillChunkTokenCount: stepLimits.prefillChunkTokenCount,
  };
  const fastest = Math.max(0, ...probedLinks(trials).map(({ bytesPerSecond }) => bytesPerSecond));
  const file: ProfileFile = {
    key,
    measuredAt,
    parameters,
    readable: readableOf(parameters, fastest),
    fitError: fit.error,
    samples: thinned(samples, keptPerKind).slice(-keptCountMax),
    linkSamples: own.map(({ connector, bytes, exposedMs }) => ({ connector, bytes, ms: exposedMs })),
  };
  const isSolo = ids.includes(solo.worker) && solo.samples.length > 0;
  return { file, workers: ids, soloShare: isSolo ? soloShareOf(parameters, solo.samples) : null, errorOfKind: fit.errorOfKind };
}

function soloShareOf({ step }: CostParameters, samples: readonly StepSample[]): number {
  return medianOf(averagedRuns(samples).map((sample) => sample.ms / stepMs(step, sample)));
}
