/** From a profile file to the times of a simulated worker: its raw samples, never its fit. Used by
 *  cli/simulate.ts and scripts. */
import { InvalidRequestError } from '../base/errors.js';
import { Prng } from '../base/prng.js';
import type { CostParameters, ProfileFile } from '../router/cost-parameters.js';
import { fastestLinkSamples, type LinkTimes, MeasuredLink } from './link-times.js';
import type { WorkerTimes } from './simulated-workers.js';
import { MeasuredSteps } from './step-times.js';

/** Of one simulation, by its seed: the times of each worker, who draws from a random sequence of its own. */
type TimesOf = (seed: number) => (workerIndex: number) => WorkerTimes;

/** Fits the samples once, for as many simulations as are to be run. */
export function timesFromProfiles(profiles: readonly ProfileFile[]): TimesOf {
  const measured = profiles.map(measuredOf);
  return (seed) => (workerIndex) => forWorker(measured, workerIndex)(new Prng(seed * 1009 + workerIndex));
}

function measuredOf(profile: ProfileFile): (prng: Prng) => WorkerTimes {
  const steps = new MeasuredSteps(profile.samples);
  const link = linkTimesOf(profile);
  const { kvBytesPerToken } = profile.parameters;
  return (prng) => ({
    steps: steps.timesFor(prng),
    link: link(prng),
    request: requestCostOf(profile),
    kvBytesPerToken,
  });
}

/** One profile for every worker, or one for each; the last one serves the rest. */
export function forWorker<T>(ofProfiles: readonly T[], workerIndex: number): T {
  const item = ofProfiles[Math.min(workerIndex, ofProfiles.length - 1)];
  if (item === undefined) throw new InvalidRequestError('a simulation needs a profile: give --profile FILE');
  return item;
}

/** Hand-overs were measured as a whole, messages included, from the moment the gateway had the first token:
 *  where there are such samples their messages take no more than that token. */
function requestCostOf({ linkSamples, parameters: { request } }: ProfileFile): WorkerTimes['request'] {
  return linkSamples.length > 0 ? { ...request, handOverMs: request.tokenMs } : request;
}

function linkTimesOf({ linkSamples, parameters }: ProfileFile): (prng: Prng) => LinkTimes {
  if (linkSamples.length > 0) {
    const link = new MeasuredLink(fastestLinkSamples(linkSamples));
    return (prng) => link.timesFor(prng);
  }
  const [link] = [...parameters.links].sort((a, b) => b.bytesPerSecond - a.bytesPerSecond);
  if (link === undefined) throw new InvalidRequestError('the profile has no link: measure with two workers');
  return () => ({ drawLatency: () => link.latencyMs, draw: (bytes) => (1000 * bytes) / link.bytesPerSecond });
}

/** Factors on what the router believes; 1 is what was measured. */
export interface RouterError {
  /** α: what prompt tokens cost. */
  readonly prefill: number;
  /** β: what a step costs that only decodes. */
  readonly decode: number;
  /** γ: what prompt tokens cost those who decode in the same step: the rise of a step with its rows, on top
   *  of α. */
  readonly interference: number;
}

/** The router's parameters, wrong on purpose. */
export function withRouterError(
  parameters: CostParameters,
  { prefill, decode, interference }: RouterError,
): CostParameters {
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
