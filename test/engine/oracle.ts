/** What the fake model must generate for a request, computed without blocks, batches or steps. */
import type { GenerationRequest } from '../../src/engine/generation-request.js';
import type { FinishReason, TokenLogprob } from '../../src/engine/token-event.js';
import { cellValue, drawToken, fakeLogprob, fakeTop, layerCount, mix, vocabCount } from './fake-device.js';
import { isAllowed } from './fake-masks.js';

export interface OracleChoice {
  readonly tokens: readonly number[];
  readonly logprobs: readonly TokenLogprob[];
  readonly finishReason: FinishReason;
}

/** One context, grown token by token. */
class Context {
  readonly #folds = new Array<number>(layerCount).fill(0);
  #position = 0;

  /** Returns the last layer's value at the new token. */
  push(token: number): number {
    let x = token;
    for (let layer = 0; layer < layerCount; layer++) {
      this.#folds[layer] = mix(this.#folds[layer]!, cellValue(x, this.#position, layer));
      x = this.#folds[layer]!;
    }
    this.#position++;
    return x;
  }
}

const logprobOf = (x: number, token: number, topCount: number): TokenLogprob => ({
  logprob: fakeLogprob(x, token),
  top: Array.from(
    { length: topCount },
    (_, rank) => [fakeTop(x, rank), fakeLogprob(x, fakeTop(x, rank))] as const,
  ),
});

function forbidden({ sampling }: GenerationRequest, tokens: readonly number[]): readonly number[] {
  const ids = Array.from({ length: vocabCount }, (_, id) => id);
  const allowed = sampling.allowedTokenIds;
  return ids.filter(
    (id) =>
      allowed?.includes(id) === false ||
      (sampling.grammar !== undefined && !isAllowed(sampling.grammar, tokens, id)),
  );
}

/** All tokens of a choice, those given in `outputs` included. */
export function idealChoice(
  request: GenerationRequest,
  choiceIndex: number,
  maxModelTokenCount: number,
): OracleChoice {
  const { promptIds, sampling } = request;
  const context = new Context();
  let x = 0;
  for (const id of promptIds) x = context.push(id);
  const tokens: number[] = [];
  const logprobs: TokenLogprob[] = [];
  const stops = new Set([...sampling.endTokenIds, ...sampling.stopTokenIds]);
  const given = request.outputs?.[choiceIndex] ?? [];
  const seed = sampling.seed + choiceIndex;
  const usesHistory =
    sampling.repetitionPenalty !== 1 || sampling.presencePenalty !== 0 || sampling.frequencyPenalty !== 0;
  const limit = Math.min(sampling.maxTokenCount, maxModelTokenCount - promptIds.length);
  while (tokens.length < limit) {
    const drawn = drawToken({
      x,
      temperature: sampling.temperature,
      seed: [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0],
      drawIndex: tokens.length,
      history: usesHistory ? { prompt: promptIds, output: tokens } : { prompt: [], output: [] },
      banned: new Set([
        ...(tokens.length < sampling.minTokenCount ? stops : []),
        ...forbidden(request, tokens),
      ]),
      biases: sampling.logitBias,
    });
    const token = given[tokens.length] ?? drawn;
    logprobs.push(logprobOf(x, token, sampling.topLogprobCount ?? 0));
    tokens.push(token);
    if (tokens.length > sampling.minTokenCount && stops.has(token))
      return { tokens, logprobs, finishReason: 'stop' };
    x = context.push(token);
  }
  return { tokens, logprobs, finishReason: 'length' };
}

export function idealPromptLogprobs({ promptIds, sampling }: GenerationRequest): readonly TokenLogprob[] {
  const context = new Context();
  return promptIds
    .slice(0, -1)
    .map((id, i) => logprobOf(context.push(id), promptIds[i + 1]!, sampling.promptLogprobCount ?? 0));
}
