/** Measures the workers of a running gateway: steps under load, what a request costs beside them, hand-overs.
 *  Used by profile.ts. Takes about as long as it is given, whatever the model: a slow one gets fewer points,
 *  though never too few for a fit. */

import { assert } from '../base/assert.js';
import type { Clock } from '../base/clock.js';
import type { WorkerId } from '../base/ids.js';
import type { WorkerStatus } from '../control/worker-status.js';
import type { StepSample } from '../router/step-work.js';
import { type Asker, handedOver, type MeasuredGateway, onWorker } from './asking.js';
import { HeardSteps, keepBusy, runBurst } from './measure-steps.js';
import { handOverPairs } from './worker-kinds.js';

interface MeasureOptions {
  readonly gateway: MeasuredGateway;
  readonly asker: Asker;
  readonly clock: Clock;
  readonly budgetMs: number;
  /** Whether these steps of one worker make a fit. */
  readonly isEnough: (samples: readonly StepSample[]) => boolean;
  readonly onProgress: (share: number, what: string) => void;
}

/** One hand-over of a prompt, nothing else going on. */
export interface HandOverSample {
  readonly from: WorkerId;
  readonly to: WorkerId;
  readonly connector: string;
  readonly bytes: number;
  /** From the first token until the sequence was schedulable at the decode side. */
  readonly exposedMs: number;
}

export interface Measurements {
  /** With all workers busy. */
  readonly steps: ReadonlyMap<WorkerId, readonly StepSample[]>;
  /** Of one worker while the others rested; compared with the rest, not fitted. */
  readonly solo: { readonly worker: WorkerId; readonly samples: readonly StepSample[] };
  /** Milliseconds from arrival to first token, less its steps. */
  readonly overheadsMs: ReadonlyMap<WorkerId, readonly number[]>;
  readonly handOvers: readonly HandOverSample[];
}

/** Shares of the budget; what one phase leaves over, the next one has. */
const stepsShare = 0.75;
const handOverShare = 0.9;
const overheadShare = 0.96;
/** Workers report at most every 100 ms. */
const reportMs = 150;
const overheadCountMax = 6;
/** Workers that are asked one after the other. */
const aloneCountMax = 4;
const handOverPromptTokenCounts = [32, 32, 128, 512, 1024];
const shortAsk = { promptTokenCount: 16, cachedTokenCount: 0, outputTokenCount: 2 };
const soloBursts = [
  {
    crowd: new Array(4).fill({ promptTokenCount: 32, cachedTokenCount: 0, outputTokenCount: 12 }),
    guests: [],
  },
  { crowd: [{ promptTokenCount: 192, cachedTokenCount: 0, outputTokenCount: 12 }], guests: [] },
];

export async function measureWorkers(options: MeasureOptions): Promise<Measurements> {
  const { gateway } = options;
  const workers = gateway.workers().filter(({ state }) => state === 'ready');
  const [first] = workers;
  assert(first !== undefined, 'there is no worker to measure');
  const heard = new HeardSteps();
  const stopListening = gateway.onStepSamples((id, samples) => heard.hear(id, samples));
  try {
    return await measureAll(workers, first, heard, options);
  } finally {
    stopListening();
  }
}

async function measureAll(
  workers: readonly WorkerStatus[],
  first: WorkerStatus,
  heard: HeardSteps,
  options: MeasureOptions,
): Promise<Measurements> {
  const { asker, clock, budgetMs, onProgress } = options;
  const startMs = clock.nowMs();
  const at = (share: number) => startMs + share * budgetMs;
  const tell = (what: string) => onProgress(Math.min(1, (clock.nowMs() - startMs) / budgetMs), what);

  await Promise.all(
    workers.map(({ id }) => runBurst(id, { crowd: [shortAsk, shortAsk], guests: [] }, asker)),
  );
  await clock.sleep(reportMs);
  heard.forget(); // first steps record graphs and touch memory
  const isEnough = (id: WorkerId) => options.isEnough(heard.of(id));
  await keepBusy(workers, { asker, clock, endMs: at(stepsShare), isEnough, onProgress: () => tell('steps') });
  await clock.sleep(reportMs);
  const steps = new Map(workers.map(({ id }) => [id, heard.of(id)]));
  const handOvers = await measureHandOvers(workers, options, at(handOverShare), () => tell('hand-overs'));
  const overheadsMs = new Map<WorkerId, readonly number[]>();
  for (const { id } of workers.slice(0, aloneCountMax))
    overheadsMs.set(id, await measureOverheads(id, heard, options, at(overheadShare)));
  tell('requests');
  heard.forget();
  if (workers.length > 1) {
    for (const burst of soloBursts) if (clock.nowMs() < at(1)) await runBurst(first.id, burst, asker);
    await clock.sleep(reportMs);
  }
  return { steps, solo: { worker: first.id, samples: heard.of(first.id) }, overheadsMs, handOvers };
}

/** Alone on its worker: time to the first token less the step that made it. */
async function measureOverheads(
  worker: WorkerId,
  heard: HeardSteps,
  { asker, clock }: MeasureOptions,
  endMs: number,
): Promise<readonly number[]> {
  const overheads: number[] = [];
  for (let count = 0; count < 1 || (count < overheadCountMax && clock.nowMs() < endMs); count++) {
    heard.forget();
    const { firstTokenMs, arrivalMs } = await asker.ask(shortAsk, onWorker(worker)).record;
    await clock.sleep(reportMs);
    const step = heard
      .of(worker)
      .find(({ prefillTokenCount }) => prefillTokenCount === shortAsk.promptTokenCount);
    if (firstTokenMs !== undefined && step !== undefined)
      overheads.push(Math.max(0, firstTokenMs - arrivalMs - step.ms));
  }
  return overheads;
}

/** Prompts of the first length between all pairs, whatever the time: a pair that was never asked would cost
 *  what another one does. */
async function measureHandOvers(
  workers: readonly WorkerStatus[],
  { asker, clock, gateway }: MeasureOptions,
  endMs: number,
  onProgress: () => void,
): Promise<readonly HandOverSample[]> {
  const samples: HandOverSample[] = [];
  for (const [round, promptTokenCount] of handOverPromptTokenCounts.entries()) {
    for (const [from, to] of handOverPairs(workers)) {
      const contextTokenCount = Math.min(from.ready.maxModelTokenCount, to.ready.maxModelTokenCount);
      if (promptTokenCount + 3 > contextTokenCount || (round > 0 && clock.nowMs() > endMs)) continue;
      const ask = { promptTokenCount, cachedTokenCount: 0, outputTokenCount: 3 };
      const record = await asker.ask(ask, handedOver(from.id, to.id)).record;
      onProgress();
      if (record.handOverFailures.length > 0) continue;
      const connector = gateway
        .workers()
        .find(({ id }) => id === from.id)
        ?.connectors.find(({ peer }) => peer === to.id)?.name;
      const { transferBytes: bytes, exposedTransferMs: exposedMs } = record;
      samples.push({ from: from.id, to: to.id, connector: connector ?? 'unknown', bytes, exposedMs });
    }
  }
  return samples;
}
