/** Tables of rotary position embeddings, made once at load in float64 and stored as f32. Read by the kernel
 *  behind ops.ropeStore: row p = cos[rotary/2] then sin[rotary/2] of the angles p * frequency[i], both times
 *  the scaling's attention factor. */
import { at } from '../base/assert.js';
import { ModelError } from '../base/errors.js';
import type { RopeConfig, RopeScaling } from './rope-config.js';

/** [positionCount, rotaryCount] row-major. `positionCount` is also the longest context, which decides
 *  longrope's list and dynamic's base. */
export function ropeTable(rope: RopeConfig, positionCount: number): Float32Array<ArrayBuffer> {
  const half = rope.rotaryCount / 2;
  const frequencies = scaledFrequencies(rope, positionCount);
  const factor = attentionFactor(rope.scaling);
  if (![factor, ...frequencies].every((value) => Number.isFinite(Math.fround(value)))) {
    throw new ModelError('config.json: the numbers of its rope scaling give no finite angles');
  }
  const table = new Float32Array(positionCount * rope.rotaryCount);
  for (let position = 0; position < positionCount; position++) {
    const row = position * rope.rotaryCount;
    for (let i = 0; i < half; i++) {
      const angle = position * at(frequencies, i);
      table[row + i] = Math.cos(angle) * factor;
      table[row + half + i] = Math.sin(angle) * factor;
    }
  }
  return table;
}

/** [rotaryCount / 2] radians per position. */
export function scaledFrequencies(rope: RopeConfig, contextTokenCount: number): readonly number[] {
  const { scaling, rotaryCount, theta } = rope;
  const base = Array.from({ length: rotaryCount / 2 }, (_, i) => theta ** ((-2 * i) / rotaryCount));
  switch (scaling.kind) {
    case 'default':
      return base;
    case 'linear':
      return base.map((frequency) => frequency / scaling.factor);
    case 'dynamic':
      return dynamicFrequencies(rope, scaling, contextTokenCount);
    case 'llama3':
      return base.map((frequency) => llama3Frequency(frequency, scaling));
    case 'longrope': {
      const factors =
        contextTokenCount > scaling.originalPositionCount ? scaling.longFactors : scaling.shortFactors;
      return base.map((frequency, i) => frequency / at(factors, i));
    }
    case 'yarn':
      return yarnFrequencies(base, rope, scaling);
  }
}

function attentionFactor(scaling: RopeScaling): number {
  return scaling.kind === 'longrope' || scaling.kind === 'yarn' ? scaling.attentionFactor : 1;
}

/** Llama 3.1's rule: bands by how often a frequency turns within the original context. */
function llama3Frequency(frequency: number, scaling: Extract<RopeScaling, { kind: 'llama3' }>): number {
  const { factor, lowFrequencyFactor: low, highFrequencyFactor: high } = scaling;
  const turnCount = (scaling.originalPositionCount * frequency) / (2 * Math.PI);
  if (turnCount > high) return frequency;
  if (turnCount < low) return frequency / factor;
  const smooth = (turnCount - low) / (high - low);
  return (1 - smooth) * (frequency / factor) + smooth * frequency;
}

/** NTK-aware scaling for the longest context, as vLLM: transformers grows the base with each sequence, but
 *  keys in the cache were rotated by the base of their time. */
function dynamicFrequencies(
  { rotaryCount, theta }: RopeConfig,
  { factor, originalPositionCount }: Extract<RopeScaling, { kind: 'dynamic' }>,
  contextTokenCount: number,
): readonly number[] {
  const length = Math.max(contextTokenCount, originalPositionCount);
  const growth =
    ((factor * length) / originalPositionCount - (factor - 1)) ** (rotaryCount / (rotaryCount - 2));
  return Array.from({ length: rotaryCount / 2 }, (_, i) => (theta * growth) ** ((-2 * i) / rotaryCount));
}

/** YaRN's "NTK by parts": interpolate slow dimensions, keep fast ones, a linear ramp between the two
 *  correction dimensions. */
function yarnFrequencies(
  base: readonly number[],
  rope: RopeConfig,
  scaling: Extract<RopeScaling, { kind: 'yarn' }>,
): readonly number[] {
  const dimensionOf = (turnCount: number) =>
    (rope.rotaryCount * Math.log(scaling.originalPositionCount / (turnCount * 2 * Math.PI))) /
    (2 * Math.log(rope.theta));
  const rounded = scaling.rounding === 'truncate';
  const low = Math.max(
    rounded ? Math.floor(dimensionOf(scaling.betaFast)) : dimensionOf(scaling.betaFast),
    0,
  );
  const end = Math.min(
    rounded ? Math.ceil(dimensionOf(scaling.betaSlow)) : dimensionOf(scaling.betaSlow),
    rope.rotaryCount - 1,
  );
  const high = end === low ? low + 0.001 : end; // as transformers: never divide by zero
  return base.map((frequency, i) => {
    const ramp = Math.min(Math.max((i - low) / (high - low), 0), 1);
    return (frequency / scaling.factor) * ramp + frequency * (1 - ramp);
  });
}
