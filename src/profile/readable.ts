/** The five parameters that a person can read, the rule they make, and their text. Derived from
 *  CostParameters; used by profile.ts, cli/ and the example. Pure. */
import { assert } from '../base/assert.js';
import type { CostParameters, ReadableParameters } from '../router/cost-parameters.js';
import { stepMs } from '../router/step-cost.js';
import { prefillPairCountOf, type StepWork } from '../router/step-work.js';

/** Where the curves are read: a short conversation. */
const keysPerSequence = 256;
const promptTokenCount = 512;
const decodingCount = 4;
const interferingTokenCount = 128;
const thresholdGrowth = 1.5;
const batchCountMax = 4096;

/** When separation pays, as far as decode steps are concerned. */
export interface SeparationRule {
  /** Of a prompt of 512 tokens: bytes and bookkeeping. */
  readonly transferMsPerToken: number;
  /** γ ÷ transfer: how many times over one stream's delay pays for the move. */
  readonly interferencePerTransfer: number;
  /** Streams that must be decoding on a worker so that the delay a prompt inflicts on them is more than
   *  moving it takes. */
  readonly decodingCountMin: number;
}

export function readableOf({ step, tokenBudget, links }: CostParameters): ReadableParameters {
  const decodeMs = (count: number) => stepMs(step, decodeWork(count));
  const promptCount = Math.min(promptTokenCount, tokenBudget);
  const guestCount = Math.min(interferingTokenCount, tokenBudget);
  const mixedMs = stepMs(step, { ...decodeWork(decodingCount), ...promptWork(guestCount) });
  return {
    prefillMsPerToken: stepMs(step, { ...decodeWork(0), ...promptWork(promptCount) }) / promptCount,
    decodeMsPerStep: decodeMs(1),
    batchThreshold: thresholdOf(decodeMs),
    interferenceMsPerToken: (mixedMs - decodeMs(decodingCount)) / guestCount,
    linkGBPerSecond:
      links.length === 0 ? null : Math.max(...links.map(({ bytesPerSecond }) => bytesPerSecond)) / 1e9,
  };
}

/** Null where nothing can be moved, or nothing is gained by it. The link is the quickest for that prompt, as
 *  in the router's estimates. */
export function separationRule(
  parameters: CostParameters,
  readable: ReadableParameters,
): SeparationRule | null {
  const { links, request, kvBytesPerToken } = parameters;
  if (links.length === 0 || readable.interferenceMsPerToken <= 0) return null;
  const bytes = promptTokenCount * kvBytesPerToken;
  const linkMs = Math.min(
    ...links.map(({ latencyMs, bytesPerSecond }) => latencyMs + (1000 * bytes) / bytesPerSecond),
  );
  const transferMsPerToken = (linkMs + request.handOverMs) / promptTokenCount + request.handOverMsPerToken;
  const interferencePerTransfer = readable.interferenceMsPerToken / transferMsPerToken;
  return { transferMsPerToken, interferencePerTransfer, decodingCountMin: 1 / interferencePerTransfer };
}

function decodeWork(count: number): StepWork {
  return {
    decodeCount: count,
    decodeKvTokenCount: keysPerSequence * count,
    prefillTokenCount: 0,
    prefillPairCount: 0,
  };
}

function promptWork(tokenCount: number): Pick<StepWork, 'prefillTokenCount' | 'prefillPairCount'> {
  return { prefillTokenCount: tokenCount, prefillPairCount: prefillPairCountOf(0, tokenCount) };
}

/** Between two batches the time is a straight line, nearly. */
function thresholdOf(decodeMs: (count: number) => number): number {
  const limitMs = thresholdGrowth * decodeMs(1);
  assert(limitMs > 0, 'a decode step takes time');
  let [low, high] = [1, 2];
  while (decodeMs(high) < limitMs && high < batchCountMax) [low, high] = [high, 2 * high];
  if (decodeMs(high) < limitMs) return batchCountMax;
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (decodeMs(middle) < limitMs) low = middle;
    else high = middle;
  }
  return high;
}
