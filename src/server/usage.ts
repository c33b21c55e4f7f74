/** OpenAI's `usage`, exact: what was prefilled, what was found cached, what was given to the client. */
import type { Generation } from './generation.js';

/** `output`: not told where a token was generated only because scoring a prompt needs one (max_tokens 0). */
export function usageOf(generations: readonly Generation[], output: 'told' | 'not told' = 'told'): object {
  const sum = (pick: (generation: Generation) => number) =>
    generations.reduce((total, generation) => total + pick(generation), 0);
  const promptTokenCount = sum((generation) => generation.promptTokenCount);
  const completionTokenCount = output === 'not told' ? 0 : sum((generation) => generation.completionTokenCount);
  return {
    prompt_tokens: promptTokenCount,
    completion_tokens: completionTokenCount,
    total_tokens: promptTokenCount + completionTokenCount,
    prompt_tokens_details: { cached_tokens: sum((generation) => generation.cachedTokenCount) },
  };
}
