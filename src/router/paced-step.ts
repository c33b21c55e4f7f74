/** How many prompt tokens a step may hold beside the sequences that decode in it. Pure arithmetic over a
 *  step-time model: the engine's pacer plans steps by it (engine/pacer.ts), the router predicts by it what a
 *  worker will do (prediction.ts). */
import type { StepWork } from './step-work.js';

/** Milliseconds that a step is expected to take. */
export type PredictMs = (work: StepWork) => number;

/** Sequences that decode in a step, and the keys they attend to together. */
export interface Decodes {
  readonly count: number;
  readonly kvTokenCount: number;
}

/** Share of the TPOT that steps aim at: the rest is for the way of the tokens to the client and for steps
 *  that scatter. */
export const aimedTpotShare = 0.97;
/** One block: prompt tokens are counted in it, and however late the decodes are, one goes on now and then. */
export const leastPromptTokenCount = 16;
/** Tokens over which slack is spent: less makes bursts of long steps, more spends slack too late. */
export const slackTokenCount = 16;
/** Larger steps are not made once prompts are computed at this share of the best rate: they only make
 *  others wait. What is between is within the error of step times, and would change the size with every
 *  step that is learned from. */
const efficientShare = 0.9;

const noDecodes: Decodes = { count: 0, kvTokenCount: 0 };

/** The work of these decodes and one chunk of a prompt, `firstPosition` tokens of which are computed
 *  already. */
export function stepWith(
  { count, kvTokenCount }: Decodes,
  chunkTokenCount: number,
  firstPosition = 0,
): StepWork {
  return {
    decodeCount: count,
    decodeKvTokenCount: kvTokenCount,
    prefillTokenCount: chunkTokenCount,
    prefillPairCount: chunkTokenCount * firstPosition + (chunkTokenCount * (chunkTokenCount + 1)) / 2,
  };
}

/** The smallest step, by doubling, that computes prompts at nearly the best rate. */
export function efficientChunk(predictMs: PredictMs, tokenBudget: number): number {
  const msPerToken = (tokenCount: number) => predictMs(stepWith(noDecodes, tokenCount)) / tokenCount;
  let bestMs = msPerToken(tokenBudget);
  for (let size = leastPromptTokenCount; size < tokenBudget; size *= 2)
    bestMs = Math.min(bestMs, msPerToken(size));
  let size = Math.min(leastPromptTokenCount, tokenBudget);
  while (size < tokenBudget && efficientShare * msPerToken(size) > bestMs) size *= 2;
  return Math.min(size, tokenBudget);
}

/** Most prompt tokens, in whole blocks and no more than `most`, with which the step takes at most `capMs`.
 *  May be 0. */
export function promptRoomWithin(
  predictMs: PredictMs,
  decodes: Decodes,
  capMs: number,
  { most, firstPosition }: { readonly most: number; readonly firstPosition: number },
): number {
  if (predictMs(stepWith(decodes, most, firstPosition)) <= capMs) return most;
  let low = 0;
  let high = Math.ceil(most / leastPromptTokenCount);
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (predictMs(stepWith(decodes, middle * leastPromptTokenCount, firstPosition)) <= capMs) low = middle;
    else high = middle;
  }
  return low * leastPromptTokenCount;
}

/** Prompt tokens a step on average: where not even a block fits, steps without prompts save up for one. More
 *  than 0. */
export function meanRoomWithin(
  predictMs: PredictMs,
  decodes: Decodes,
  capMs: number,
  { most, firstPosition }: { readonly most: number; readonly firstPosition: number },
): number {
  const room = promptRoomWithin(predictMs, decodes, capMs, { most, firstPosition });
  if (room > 0) return room;
  const baseMs = predictMs(stepWith(decodes, 0));
  const blockMs = predictMs(stepWith(decodes, leastPromptTokenCount, firstPosition));
  const share = blockMs > baseMs ? (capMs - baseMs) / (blockMs - baseMs) : 1;
  return leastPromptTokenCount * Math.min(1, Math.max(1 / slackTokenCount, share));
}
