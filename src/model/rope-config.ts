/** How a config.json describes rotary embeddings, made explicit. Two spellings are read: hub style
 *  (`rope_theta`, `rope_scaling`, `partial_rotary_factor` at the top) and transformers 5 (`rope_parameters`
 *  holding all of it). rope.ts makes the tables. */
import { ModelError } from '../base/errors.js';
import type { ConfigFields } from './config-fields.js';
import { describeJson } from './json-file.js';

export type RopeScaling =
  | { readonly kind: 'default' }
  /** Position interpolation: every frequency divided by `factor`. */
  | { readonly kind: 'linear'; readonly factor: number; readonly originalPositionCount: number }
  /** NTK-aware: past the original length the base grows with the longest context. */
  | { readonly kind: 'dynamic'; readonly factor: number; readonly originalPositionCount: number }
  /** Llama 3.1: long wavelengths divided by `factor`, short ones kept, a ramp between. */
  | {
      readonly kind: 'llama3';
      readonly factor: number;
      readonly lowFrequencyFactor: number;
      readonly highFrequencyFactor: number;
      readonly originalPositionCount: number;
    }
  /** Phi-3: a factor per frequency, one list for short and one for long contexts. */
  | {
      readonly kind: 'longrope';
      readonly shortFactors: readonly number[];
      readonly longFactors: readonly number[];
      readonly originalPositionCount: number;
      readonly attentionFactor: number;
    }
  /** YaRN (Peng et al. 2023), as transformers reads it. */
  | {
      readonly kind: 'yarn';
      readonly factor: number;
      readonly betaFast: number;
      readonly betaSlow: number;
      readonly originalPositionCount: number;
      readonly attentionFactor: number;
      readonly rounding: 'truncate' | 'none';
    };

export interface RopeConfig {
  readonly theta: number;
  readonly scaling: RopeScaling;
  /** How many of a head's dimensions are rotated, from the first; even. */
  readonly rotaryCount: number;
}

/** @throws ModelError for an unknown scaling or missing numbers. */
export function readRopeConfig(fields: ConfigFields, headDim: number, maxPositionCount: number): RopeConfig {
  const scaling = fields.object('rope_parameters') ?? fields.object('rope_scaling');
  const theta = (scaling?.has('rope_theta') ? scaling : fields).positive('rope_theta', 10000);
  const share = (scaling?.has('partial_rotary_factor') ? scaling : fields).positive(
    'partial_rotary_factor',
    1,
  );
  const rotaryCount = Math.trunc(headDim * share);
  if (rotaryCount < 2 || rotaryCount % 2 !== 0 || rotaryCount > headDim) {
    throw new ModelError(
      `${fields.file}: ${rotaryCount} rotated of ${headDim} head dimensions: must be even and at most the head`,
    );
  }
  return {
    theta,
    rotaryCount,
    scaling:
      scaling === null ? { kind: 'default' } : readScaling(scaling, fields, rotaryCount, maxPositionCount),
  };
}

/** The longest context, as vLLM derives it: linear, dynamic and yarn name the length before scaling, the
 *  others the one after it. */
export function scaledPositionCount({ scaling }: RopeConfig, statedPositionCount: number): number {
  if (scaling.kind !== 'linear' && scaling.kind !== 'dynamic' && scaling.kind !== 'yarn')
    return statedPositionCount;
  return Math.floor(scaling.originalPositionCount * scaling.factor);
}

function readScaling(
  scaling: ConfigFields,
  fields: ConfigFields,
  rotaryCount: number,
  maxPositionCount: number,
): RopeScaling {
  const kind = scaling.text('rope_type') ?? scaling.text('type') ?? 'default';
  const original = (fallback: number) =>
    (scaling.has('original_max_position_embeddings') ? scaling : fields).count(
      'original_max_position_embeddings',
      fallback,
    );
  switch (kind) {
    case 'default':
      return { kind };
    case 'linear':
    case 'dynamic':
      return { kind, factor: scaling.positive('factor'), originalPositionCount: original(maxPositionCount) };
    case 'llama3':
      return {
        kind,
        factor: scaling.positive('factor'),
        lowFrequencyFactor: scaling.positive('low_freq_factor'),
        highFrequencyFactor: scaling.positive('high_freq_factor'),
        originalPositionCount: scaling.count('original_max_position_embeddings'),
      };
    case 'longrope':
    case 'su':
      return readLongrope(scaling, rotaryCount, original(maxPositionCount), maxPositionCount);
    case 'yarn':
      return readYarn(scaling, original(maxPositionCount));
    default:
      throw new ModelError(
        `${fields.file}: rope scaling ${describeJson(kind)} is not supported (supported: default, linear, dynamic, llama3, longrope, yarn)`,
      );
  }
}

function readLongrope(
  scaling: ConfigFields,
  rotaryCount: number,
  originalPositionCount: number,
  maxPositionCount: number,
): RopeScaling {
  const factorsOf = (name: string): readonly number[] => {
    const factors = scaling.numbers(name);
    if (factors?.length !== rotaryCount / 2 || factors.some((factor) => factor <= 0)) {
      scaling.fail(name, `a list of ${rotaryCount / 2} positive numbers`);
    }
    return factors;
  };
  // transformers: the ratio of the two lengths, unless the config gives the attention factor itself.
  const ratio =
    maxPositionCount > originalPositionCount
      ? maxPositionCount / originalPositionCount
      : scaling.positive('factor', 1);
  const derived = ratio <= 1 ? 1 : Math.sqrt(1 + Math.log(ratio) / Math.log(originalPositionCount));
  return {
    kind: 'longrope',
    shortFactors: factorsOf('short_factor'),
    longFactors: factorsOf('long_factor'),
    originalPositionCount,
    attentionFactor: scaling.positive('attention_factor', derived),
  };
}

function readYarn(scaling: ConfigFields, originalPositionCount: number): RopeScaling {
  const factor = scaling.positive('factor');
  const scaleOf = (mscale: number) => (factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1);
  const mscale = scaling.optionalNumber('mscale');
  const mscaleAllDim = scaling.optionalNumber('mscale_all_dim');
  const derived = mscale && mscaleAllDim ? scaleOf(mscale) / scaleOf(mscaleAllDim) : scaleOf(1);
  return {
    kind: 'yarn',
    factor,
    betaFast: scaling.positive('beta_fast', 32),
    betaSlow: scaling.positive('beta_slow', 1),
    originalPositionCount,
    attentionFactor: scaling.positive('attention_factor', derived),
    rounding: scaling.flag('truncate', true) ? 'truncate' : 'none',
  };
}
