/** Keeps samples of every kind and not too many of any: a run makes thousands of steps of one row and few
 *  long prompts. Pure. */
import { at } from '../base/assert.js';
import type { StepSample } from '../router/step-work.js';

const runCountMax = 8;

/** Decode steps in a row with the same rows, up to eight together as their mean. A step whose end was noticed
 *  late makes the next one look short: their sum is right, and it is sums that requests wait for. */
export function averagedRuns(samples: readonly StepSample[]): readonly StepSample[] {
  const runs: StepSample[][] = [];
  for (const sample of samples) {
    const run = runs.at(-1);
    const before = run?.at(-1);
    const goesOn = before !== undefined && sample.prefillTokenCount === 0 && before.prefillTokenCount === 0;
    if (run !== undefined && goesOn && before.decodeCount === sample.decodeCount && run.length < runCountMax)
      run.push(sample);
    else runs.push([sample]);
  }
  return runs.map((run) => (run.length === 1 ? at(run, 0) : meanOf(run)));
}

function meanOf(run: readonly StepSample[]): StepSample {
  const mean = (key: keyof StepSample) => run.reduce((sum, sample) => sum + sample[key], 0) / run.length;
  return { ...at(run, 0), decodeKvTokenCount: mean('decodeKvTokenCount'), ms: mean('ms') };
}

/** Of one worker: without the first step that computed prompts in so many rows, where so many came again. A
 *  GPU chooses its kernels and touches memory then, once in a process's life; requests that come later never
 *  wait for that. */
export function warmSteps(samples: readonly StepSample[]): readonly StepSample[] {
  const counts = new Map<number, number>();
  for (const sample of samples) counts.set(rowCountOf(sample), (counts.get(rowCountOf(sample)) ?? 0) + 1);
  const seen = new Set<number>();
  return samples.filter((sample) => {
    const rowCount = rowCountOf(sample);
    if (sample.prefillTokenCount === 0 || counts.get(rowCount) === 1 || seen.has(rowCount)) return true;
    seen.add(rowCount);
    return false;
  });
}

function rowCountOf({ decodeCount, prefillTokenCount }: StepSample): number {
  return prefillTokenCount === 0 ? 0 : decodeCount + prefillTokenCount;
}

/** At most `countMax` of each kind, from all over the run, in order. Of one kind: all four counts within half
 *  a power of two. The last steps of bursts would not do: their ends are noticed late, since no other
 *  follows. */
export function thinned(samples: readonly StepSample[], countMax: number): readonly StepSample[] {
  const totals = new Map<string, number>();
  for (const sample of samples) totals.set(kindOf(sample), (totals.get(kindOf(sample)) ?? 0) + 1);
  const seen = new Map<string, number>();
  return samples.filter((sample) => {
    const kind = kindOf(sample);
    const [index, total] = [seen.get(kind) ?? 0, totals.get(kind) ?? 1];
    seen.set(kind, index + 1);
    const keptBefore = (count: number) => Math.floor((count * countMax) / total + 0.5);
    return total <= countMax || keptBefore(index + 1) > keptBefore(index);
  });
}

function kindOf({
  decodeCount,
  decodeKvTokenCount,
  prefillTokenCount,
  prefillPairCount,
}: StepSample): string {
  return [decodeCount, decodeKvTokenCount, prefillTokenCount, prefillPairCount]
    .map((count) => Math.round(2 * Math.log2(count + 1)))
    .join();
}
