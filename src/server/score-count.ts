/** A bound on the log-probabilities of one answer: they are kept until it is whole, and made into JSON in one
 *  go. Used by chat.ts and completions.ts, before anything is submitted. */
import { InvalidRequestError } from '../base/errors.js';
import type { SamplingParams } from '../engine/sampling-params.js';

/** Alternatives counted too. Their JSON holds the event loop for about a second. */
const scoreCountMax = 2 ** 19;

type Asked = Pick<SamplingParams, 'promptLogprobCount' | 'topLogprobCount' | 'choiceCount' | 'maxTokenCount'>;

/** Throws InvalidRequestError. */
export function checkScoreCount(
  asked: Asked,
  prompts: { readonly count: number; readonly tokenCount: number },
  isStreamed: boolean,
): void {
  const choiceCount = prompts.count * asked.choiceCount;
  // one choice alone may be as long as the context, and takes as long
  const isKept = !isStreamed && choiceCount > 1;
  const outputCount = isKept ? choiceCount * asked.maxTokenCount * perToken(asked.topLogprobCount) : 0;
  const count = prompts.tokenCount * perToken(asked.promptLogprobCount) + outputCount;
  if (count <= scoreCountMax) return;
  throw new InvalidRequestError(
    `logprobs: up to ${count} log-probabilities were asked for, and one answer may have ${scoreCountMax}. Ask for fewer alternatives, fewer prompts or choices at a time, or a lower max_tokens.`,
    asked.promptLogprobCount === null ? 'logprobs' : 'prompt_logprobs',
  );
}

/** The token's own and its alternatives. */
function perToken(alternativeCount: number | null): number {
  return alternativeCount === null ? 0 : 1 + alternativeCount;
}
