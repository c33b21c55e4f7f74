/** Keeps every worker busy with bursts and collects the steps they report. Used by measure.ts.
 *
 *  All workers at once: those that share cores or memory slow each other down when they serve, so they are
 *  measured like that. Each takes the bursts in another order, so that one decodes while another prefills.
 *  Time is divided by need: every burst that fits into what is left runs once, then the cheap ones again and
 *  again. A worker too slow for the time goes on with the cheapest until its steps are enough for a fit. */
import type { Clock } from '../base/clock.js';
import type { WorkerId } from '../base/ids.js';
import type { WorkerStatus } from '../control/worker-status.js';
import type { StepSample } from '../router/step-work.js';
import { type Asker, onWorker } from './asking.js';
import { type Burst, burstLimitsOf, burstsFor, effortOf } from './bursts.js';

interface StepMeasuring {
  readonly asker: Asker;
  readonly clock: Clock;
  readonly endMs: number;
  /** Whether the steps of this worker make a fit. */
  readonly isEnough: (worker: WorkerId) => boolean;
  readonly onProgress: () => void;
}

interface Measured {
  readonly burst: Burst;
  runCount: number;
  /** Of the last run. */
  ms: number | null;
}

const runCountMax = 6;
/** Those that run beyond the time. */
const overtimeBurstCount = 4;

/** Resolves at `endMs` or when nothing fits into the time that is left, but not before every worker has
 *  enough steps. */
export async function keepBusy(workers: readonly WorkerStatus[], measuring: StepMeasuring): Promise<void> {
  await Promise.all(workers.map((worker, index) => runBursts(worker, index / workers.length, measuring)));
}

async function runBursts(worker: WorkerStatus, startShare: number, measuring: StepMeasuring): Promise<void> {
  const { clock, endMs, onProgress } = measuring;
  const measured: Measured[] = burstsFor(burstLimitsOf(worker)).map((burst) => ({
    burst,
    runCount: 0,
    ms: null,
  }));
  const shift = Math.floor(startShare * measured.length);
  let msPerEffort = 0;
  for (;;) {
    const leftMs = endMs - clock.nowMs();
    const rotated = [...measured.slice(shift), ...measured.slice(0, shift)];
    const first = msPerEffort === 0 ? measured[0] : undefined;
    const inTime =
      first ?? leastRun(rotated.filter(({ burst, ms }) => (ms ?? msPerEffort * effortOf(burst)) <= leftMs));
    const next = inTime ?? overtime(measured, measuring.isEnough(worker.id));
    if (next === undefined || next.runCount >= runCountMax) return;
    const startMs = clock.nowMs();
    await runBurst(worker.id, next.burst, measuring.asker);
    next.ms = clock.nowMs() - startMs;
    next.runCount++;
    msPerEffort = next.ms / effortOf(next.burst);
    onProgress();
  }
}

/** The cheapest bursts, of which one has a batch, once each; then more of them while the steps are not
 *  enough. */
function overtime(measured: readonly Measured[], isEnough: boolean): Measured | undefined {
  const next = leastRun(measured.slice(0, overtimeBurstCount));
  return isEnough && (next?.runCount ?? 0) > 0 ? undefined : next;
}

function leastRun(all: readonly Measured[]): Measured | undefined {
  let best: Measured | undefined;
  for (const each of all) if (best === undefined || each.runCount < best.runCount) best = each;
  return best;
}

export async function runBurst(worker: WorkerId, { crowd, guests }: Burst, asker: Asker): Promise<void> {
  const route = onWorker(worker);
  const open = crowd.map((one) => asker.ask(one, route));
  if (guests.length > 0) {
    await Promise.all(open.map(({ firstToken }) => firstToken));
    for (const guest of guests) await asker.ask(guest, route).record;
    for (const { cancel } of open) cancel();
  }
  await Promise.all(open.map(({ record }) => record));
}

/** The steps that workers report, by worker. */
export class HeardSteps {
  readonly #samples = new Map<WorkerId, StepSample[]>();

  hear(worker: WorkerId, samples: readonly StepSample[]): void {
    const known = this.#samples.get(worker) ?? [];
    for (const sample of samples) known.push(sample);
    this.#samples.set(worker, known);
  }

  of(worker: WorkerId): readonly StepSample[] {
    return this.#samples.get(worker) ?? [];
  }

  forget(): void {
    this.#samples.clear();
  }
}
