/** Robust non-negative least squares with relative errors: few unknowns, many noisy times. Used by
 *  fit-step.ts and fit-link.ts; pure.
 *
 *  Minimises Σ wᵢ ((ŷᵢ − yᵢ) / ŷᵢ)² over b ≥ 0 with ŷ = X b, where wᵢ (Huber, 1964) takes the weight from
 *  what lies far off: a step that something else on the machine disturbed says nothing about the next one. */
import { assert, at } from '../base/assert.js';
import { percentile } from '../base/percentiles.js';

export interface Observation {
  /** Non-negative, one for each unknown. */
  readonly features: readonly number[];
  /** Positive. */
  readonly value: number;
}

const roundCount = 12;
const sweepCountMax = 2000;
const toleranceShare = 1e-8;
/** In standard deviations of the relative error: beyond, an observation pulls with constant force. */
const huberLimit = 1.345;
/** MAD of a normal distribution → its standard deviation. */
const madToDeviation = 1.4826;
/** Below this relative scatter nothing is an outlier: exact data stay exact. */
const scatterMin = 1e-6;

/** One non-negative coefficient for each feature. */
export function fitNonNegative(observations: readonly Observation[]): readonly number[] {
  const [first] = observations;
  assert(first !== undefined, 'a fit needs observations');
  const firstWeights = observations.map(({ value }) => 1 / value ** 2);
  let coefficients = solve(
    observations,
    firstWeights,
    first.features.map(() => 0),
  );
  for (let round = 0; round < roundCount; round++) {
    coefficients = solve(observations, weightsOf(observations, coefficients), coefficients);
  }
  return coefficients;
}

export function predict(coefficients: readonly number[], features: readonly number[]): number {
  let sum = 0;
  for (let i = 0; i < features.length; i++) sum += at(coefficients, i) * at(features, i);
  return sum;
}

function weightsOf(observations: readonly Observation[], coefficients: readonly number[]): readonly number[] {
  const predicted = observations.map(({ features, value }) =>
    Math.max(predict(coefficients, features), value / 10),
  );
  const errors = observations.map(({ value }, i) => Math.abs(at(predicted, i) - value) / at(predicted, i));
  const scatter = madToDeviation * percentile([...errors].sort(ascending), 0.5);
  const limit = huberLimit * Math.max(scatter, scatterMin);
  return errors.map((error, i) => Math.min(1, limit / error) / at(predicted, i) ** 2);
}

const ascending = (a: number, b: number) => a - b;

/** Coordinate descent on the normal equations, columns scaled to one: for a dozen unknowns as good as any
 *  active-set method, and quick from a start that is nearly right. */
function solve(
  observations: readonly Observation[],
  weights: readonly number[],
  start: readonly number[],
): readonly number[] {
  const { gram, right, scales } = normalEquations(observations, weights);
  const count = right.length;
  const solution = start.map((value, j) => value * at(scales, j));
  for (let sweep = 0; sweep < sweepCountMax; sweep++) {
    let changeMax = 0;
    let valueMax = 0;
    for (let j = 0; j < count; j++) {
      if (at(scales, j) === 0) continue; // no observation has it
      const row = at(gram, j);
      let gradient = at(right, j);
      for (let k = 0; k < count; k++) gradient -= at(row, k) * at(solution, k);
      const value = Math.max(0, at(solution, j) + gradient);
      changeMax = Math.max(changeMax, Math.abs(value - at(solution, j)));
      valueMax = Math.max(valueMax, value);
      solution[j] = value;
    }
    if (changeMax <= toleranceShare * valueMax) break;
  }
  return solution.map((value, j) => (at(scales, j) === 0 ? 0 : value / at(scales, j)));
}

function normalEquations(observations: readonly Observation[], weights: readonly number[]) {
  const count = observations[0]?.features.length ?? 0;
  const gram = Array.from({ length: count }, () => new Array<number>(count).fill(0));
  const right = new Array<number>(count).fill(0);
  for (const [i, { features, value }] of observations.entries()) {
    const weight = at(weights, i);
    for (let j = 0; j < count; j++) {
      const weighted = weight * at(features, j);
      if (weighted === 0) continue;
      const row = at(gram, j);
      for (let k = 0; k < count; k++) row[k] = at(row, k) + weighted * at(features, k);
      right[j] = at(right, j) + weighted * value;
    }
  }
  const scales = gram.map((row, j) => Math.sqrt(at(row, j)));
  for (let j = 0; j < count; j++) {
    const row = at(gram, j);
    const scale = at(scales, j) || 1;
    for (let k = 0; k < count; k++) row[k] = at(row, k) / (scale * (at(scales, k) || 1));
    right[j] = at(right, j) / scale;
  }
  return { gram, right, scales };
}
