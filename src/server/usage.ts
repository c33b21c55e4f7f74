/** OpenAI's `usage`, exact: what was prefilled, what was found cached, what was given to the client. Used by
 *  the two formats. */
import type { Usage } from './api-types.js';
import type { Generation } from './generation.js';

/** `output`: not reported where a token was generated only because scoring a prompt needs one (max_tokens
 *  0). */
type Output = 'reported' | 'not reported';
type Counted = Pick<Generation, 'promptTokenCount' | 'cachedTokenCount' | 'completionTokenCount'>;

export function usageOf(generations: readonly Counted[], output: Output = 'reported'): Usage {
  const sum = (pick: (generation: Counted) => number) =>
    generations.reduce((total, generation) => total + pick(generation), 0);
  const cachedTokenCount = sum((generation) => generation.cachedTokenCount);
  const completionTokenCount = sum((generation) => generation.completionTokenCount);
  return usage(
    sum((generation) => generation.promptTokenCount),
    cachedTokenCount,
    output === 'not reported' ? 0 : completionTokenCount,
  );
}

/** The usage of many prompts while their deltas are sent, without a look at all of them for each. */
export class UsageSoFar {
  readonly #generations: readonly Counted[];
  readonly #output: Output;
  readonly #begun = new Set<number>();
  readonly #promptTokenCount: number;
  #cachedTokenCount = 0;
  #completionTokenCount = 0;

  constructor(generations: readonly Counted[], output: Output) {
    this.#generations = generations;
    this.#output = output;
    this.#promptTokenCount = generations.reduce((total, { promptTokenCount }) => total + promptTokenCount, 0);
  }

  /** What has been found cached is known with a prompt's first delta. */
  add(promptIndex: number, tokenCount: number): Usage {
    if (!this.#begun.has(promptIndex))
      this.#cachedTokenCount += this.#generations[promptIndex]?.cachedTokenCount ?? 0;
    this.#begun.add(promptIndex);
    this.#completionTokenCount += tokenCount;
    return usage(
      this.#promptTokenCount,
      this.#cachedTokenCount,
      this.#output === 'not reported' ? 0 : this.#completionTokenCount,
    );
  }
}

function usage(promptTokenCount: number, cachedTokenCount: number, completionTokenCount: number): Usage {
  return {
    prompt_tokens: promptTokenCount,
    completion_tokens: completionTokenCount,
    total_tokens: promptTokenCount + completionTokenCount,
    prompt_tokens_details: { cached_tokens: cachedTokenCount },
  };
}
