/** Bounds on how long one answer may become. Used by chat.ts and completions.ts, before anything is
 *  submitted. */
import { InvalidRequestError } from '../base/errors.js';
import type { SamplingParams } from '../engine/sampling-params.js';

/** Log-probabilities that are kept for an answer, alternatives counted too. */
const scoreCountMax = 2 ** 19;
/** What each choice says of its prompt again, over all choices: log-probabilities, or tokens. Their JSON
 *  takes seconds, if in turns. */
const repeatedCountMax = 2 ** 22;

type Asked = Pick<SamplingParams, 'promptLogprobCount' | 'topLogprobCount' | 'choiceCount' | 'maxTokenCount'>;

interface Prompts {
  readonly count: number;
  /** Over all of them. */
  readonly tokenCount: number;
  /** In each choice: its text or ids, and the log-probabilities if there are any. */
  readonly areRepeated: boolean;
}

/** Throws InvalidRequestError. */
export function checkAnswerLength(asked: Asked, prompts: Prompts, isStreamed: boolean): void {
  const choiceCount = prompts.count * asked.choiceCount;
  // one choice alone may be as long as the context, and takes as long
  const isKept = !isStreamed && choiceCount > 1;
  const outputCount = isKept ? choiceCount * asked.maxTokenCount * perToken(asked.topLogprobCount) : 0;
  const count = prompts.tokenCount * perToken(asked.promptLogprobCount) + outputCount;
  const field = asked.promptLogprobCount === null ? 'logprobs' : 'prompt_logprobs';
  if (count > scoreCountMax) {
    throw new InvalidRequestError(
      `logprobs: up to ${count} log-probabilities were asked for, and one answer may have ${scoreCountMax}. Ask for fewer alternatives, fewer prompts or choices at a time, or a lower max_tokens.`,
      field,
    );
  }
  const perPromptToken = Math.max(1, perToken(asked.promptLogprobCount));
  const repeatedCount = prompts.areRepeated ? prompts.tokenCount * asked.choiceCount * perPromptToken : 0;
  if (repeatedCount <= repeatedCountMax) return;
  const what = asked.promptLogprobCount === null ? 'tokens' : 'log-probabilities';
  throw new InvalidRequestError(
    `n: each of ${asked.choiceCount} choices would repeat its prompt, ${repeatedCount} ${what} in all, and one answer may have ${repeatedCountMax}. Ask for fewer choices at a time.`,
    'n',
  );
}

/** The token's own and its alternatives. */
function perToken(alternativeCount: number | null): number {
  return alternativeCount === null ? 0 : 1 + alternativeCount;
}
