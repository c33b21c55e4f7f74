/** OpenAI's `usage`, exact: what was prefilled, what was found cached, what was given to the client. */
import type { Generation } from './generation.js';

export function usageOf(generations: readonly Generation[]): object {
  const sum = (pick: (generation: Generation) => number) =>
    generations.reduce((total, generation) => total + pick(generation), 0);
  const promptTokenCount = sum((generation) => generation.promptTokenCount);
  const completionTokenCount = sum((generation) => generation.completionTokenCount);
  return {
    prompt_tokens: promptTokenCount,
    completion_tokens: completionTokenCount,
    total_tokens: promptTokenCount + completionTokenCount,
    prompt_tokens_details: { cached_tokens: sum((generation) => generation.cachedTokenCount) },
  };
}
