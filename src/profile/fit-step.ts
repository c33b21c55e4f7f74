/** From measured steps to a StepCost: which knots the data carry, the unknowns, the error on steps that the
 *  fit has not seen. Pure. */
import { at } from '../base/assert.js';
import { TwostrokeError } from '../base/errors.js';
import { percentile } from '../base/percentiles.js';
import { type StepCost, stepMs } from '../router/step-cost.js';
import type { StepSample, StepWork } from '../router/step-work.js';
import { fitNonNegative, type Observation } from './least-squares.js';

/** |fitted − measured| / measured. */
export interface FitError {
  readonly median: number;
  readonly p90: number;
}

export interface StepFit {
  readonly cost: StepCost;
  /** On every fifth sample, which a fit of the others has not seen. */
  readonly error: FitError;
  /** The same for each kind of step; NaN where there was none. */
  readonly errorOfKind: Readonly<Record<StepKind, FitError>>;
}

type StepKind = 'prefill' | 'decode' | 'mixed';

const knotRowCounts = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192];
/** Samples that a stretch between two knots needs, lest it follow one disturbed step. */
const samplesPerKnotMin = 3;
const heldOutEvery = 5;
const sampleCountMin = 20;

/** Enough samples, and not all of one row count. */
export function canFit(samples: readonly StepSample[]): boolean {
  return samples.length >= sampleCountMin && new Set(samples.map(rowCountOf)).size >= 2;
}

/** Throws TwostrokeError when the samples cannot be fitted. */
export function fitStep(samples: readonly StepSample[]): StepFit {
  if (!canFit(samples)) {
    throw new TwostrokeError(
      'unavailable',
      `${samples.length} steps, or of one row count alone, do not make a profile: measure longer`,
    );
  }
  const knots = knotsFor(samples);
  const seen = samples.filter((_, index) => index % heldOutEvery !== 0);
  const heldOut = samples.filter((_, index) => index % heldOutEvery === 0);
  const tried = fitWith(knots, seen);
  const ofKind = (kind: StepKind) =>
    errorOf(
      tried,
      heldOut.filter((sample) => kindOf(sample) === kind),
    );
  const errorOfKind = { prefill: ofKind('prefill'), decode: ofKind('decode'), mixed: ofKind('mixed') };
  return { cost: fitWith(knots, samples), error: errorOf(tried, heldOut), errorOfKind };
}

function kindOf({ decodeCount, prefillTokenCount }: StepWork): StepKind {
  if (prefillTokenCount === 0) return 'decode';
  return decodeCount === 0 ? 'prefill' : 'mixed';
}

export function errorOf(cost: StepCost, samples: readonly StepSample[]): FitError {
  const errors = samples
    .map((sample) => Math.abs(stepMs(cost, sample) - sample.ms) / sample.ms)
    .sort((a, b) => a - b);
  return { median: percentile(errors, 0.5), p90: percentile(errors, 0.9) };
}

/** The first and the last row count measured, and powers of two between them with enough samples on either
 *  side. */
function knotsFor(samples: readonly StepSample[]): readonly number[] {
  const rows = samples.map(rowCountOf).sort((a, b) => a - b);
  const last = at(rows, rows.length - 1);
  const knots = [at(rows, 0)];
  const countWithin = (low: number, high: number) => rows.filter((row) => row > low && row <= high).length;
  for (const row of knotRowCounts) {
    const before = at(knots, knots.length - 1);
    if (row <= before || row >= last) continue;
    if (countWithin(before, row) >= samplesPerKnotMin && countWithin(row, last) >= samplesPerKnotMin)
      knots.push(row);
  }
  return [...knots, last];
}

function fitWith(knots: readonly number[], samples: readonly StepSample[]): StepCost {
  const observations = samples.map(
    (sample): Observation => ({ features: featuresOf(knots, sample), value: Math.max(sample.ms, 1e-6) }),
  );
  const coefficients = fitNonNegative(observations);
  let ms = 0;
  const rowKnots = knots.map((rowCount, index) => {
    ms += at(coefficients, index);
    return { rowCount, ms };
  });
  const [msPerSampledRow = 0, msPerDecodeKvToken = 0, msPerPrefillPair = 0] = coefficients.slice(
    knots.length,
  );
  return { rowKnots, msPerSampledRow, msPerDecodeKvToken, msPerPrefillPair };
}

/** rows() as a sum of non-negative parts: its value at the first knot, then the rise over each stretch; the
 *  last one goes on. */
function featuresOf(knots: readonly number[], work: StepWork): readonly number[] {
  const rowCount = rowCountOf(work);
  const rises = knots.slice(1).map((high, index) => {
    const low = at(knots, index);
    const share = Math.max(0, (rowCount - low) / (high - low));
    return index === knots.length - 2 ? share : Math.min(1, share);
  });
  return [1, ...rises, work.decodeCount, work.decodeKvTokenCount, work.prefillPairCount];
}

function rowCountOf({ decodeCount, prefillTokenCount }: StepWork): number {
  return decodeCount + prefillTokenCount;
}
