/** From a profile file to the times of a simulated worker: its raw samples, never its fit. Used by cli/simulate.ts and scripts. */
import { InvalidRequestError } from '../base/errors.js';
import { Prng } from '../base/prng.js';
import type { CostParameters, ProfileFile } from '../router/cost-parameters.js';
import { fastestLinkSamples, SampledLinkTimes } from './link-times.js';
import type { WorkerTimes } from './simulated-workers.js';
import { SampledStepTimes } from './step-times.js';

/** Times of worker `workerIndex`; every worker draws from a random sequence of its own. */
export function timesFromProfiles(profiles: readonly ProfileFile[], seed: number): (workerIndex: number) => WorkerTimes {
  return (workerIndex) => {
    const profile = profileOf(profiles, workerIndex);
    const prng = new Prng(seed * 1009 + workerIndex);
    return {
      steps: new SampledStepTimes(profile.samples, prng),
      link: linkTimes(profile, prng),
      request: requestCostOf(profile),
      kvBytesPerToken: profile.parameters.kvBytesPerToken,
    };
  };
}

/** One profile for every worker, or one for each; the last one serves the rest. */
export function profileOf(profiles: readonly ProfileFile[], workerIndex: number): ProfileFile {
  const profile = profiles[Math.min(workerIndex, profiles.length - 1)];
  if (profile === undefined) throw new InvalidRequestError('a simulation needs a profile: give --profile FILE');
  return profile;
}

/** Hand-overs were measured as a whole, messages included: those take no time of their own where there are such samples. */
function requestCostOf({ linkSamples, parameters: { request } }: ProfileFile): WorkerTimes['request'] {
  return linkSamples.length > 0 ? { ...request, handOverMs: 0 } : request;
}

function linkTimes({ linkSamples, parameters }: ProfileFile, prng: Prng): WorkerTimes['link'] {
  if (linkSamples.length > 0) return new SampledLinkTimes(fastestLinkSamples(linkSamples), prng);
  const [link] = [...parameters.links].sort((a, b) => b.bytesPerSecond - a.bytesPerSecond);
  if (link === undefined) throw new InvalidRequestError('the profile has no link: measure with two workers');
  return { drawLatency: () => link.latencyMs, draw: (bytes) => (1000 * bytes) / link.bytesPerSecond };
}

/** Factors on what the router believes; 1 is what was measured. */
export interface RouterError {
  /** α: what prompt tokens cost. */
  readonly prefill: number;
  /** β: what a step costs that only decodes. */
  readonly decode: number;
  /** γ: what prompt tokens cost those who decode in the same step: the rise of a step with its rows, on top of α. */
  readonly interference: number;
}

/** The router's parameters, wrong on purpose. */
export function withRouterError(parameters: CostParameters, { prefill, decode, interference }: RouterError): CostParameters {
  const { step } = parameters;
  const baseMs = step.rowKnots[0]?.ms ?? 0;
  return {
    ...parameters,
    step: {
      rowKnots: step.rowKnots.map(({ rowCount, ms }) => ({
        rowCount,
        ms: baseMs * decode + (ms - baseMs) * prefill * interference,
      })),
      msPerSampledRow: step.msPerSampledRow * decode,
      msPerDecodeKvToken: step.msPerDecodeKvToken * decode,
      msPerPrefillPair: step.msPerPrefillPair * prefill,
    },
  };
}
