/** Gathers token events into results. Used by Engine.generate. */
import { assert } from '../base/assert.js';
import type { Clock } from '../base/clock.js';
import { fromWire } from '../base/errors.js';
import type { RequestId } from '../base/ids.js';
import type { GenerationRequest, GenerationResult } from './generation-request.js';
import type { FinishReason, TokenEvent, TokenLogprob, TokenOutput } from './token-event.js';

interface ResultCollection {
  push(event: TokenEvent): void;
  /** In the order of the requests. */
  finish(): readonly GenerationResult[];
}

interface Draft {
  readonly choices: { tokens: TokenOutput[]; finishReason: FinishReason }[];
  promptLogprobs: readonly TokenLogprob[] | null;
  cachedTokenCount: number;
  ttftMs: number;
  e2elMs: number;
}

export function collectResults(requests: readonly GenerationRequest[], clock: Clock): ResultCollection {
  const startMs = clock.nowMs();
  const drafts = new Map<RequestId, Draft>();
  for (const { id, sampling } of requests) {
    const choices = Array.from({ length: sampling.choiceCount }, () => ({
      tokens: [],
      finishReason: 'length' as const,
    }));
    drafts.set(id, { choices, promptLogprobs: null, cachedTokenCount: 0, ttftMs: 0, e2elMs: 0 });
  }
  const push = (event: TokenEvent) => {
    const draft = drafts.get(event.requestId);
    if (draft === undefined) return;
    switch (event.kind) {
      case 'failed':
        throw fromWire(event.error);
      case 'cached':
        draft.cachedTokenCount = event.cachedTokenCount;
        return;
      case 'promptLogprobs':
        draft.promptLogprobs = event.logprobs;
        return;
      case 'tokens': {
        const choice = draft.choices[event.choiceIndex];
        assert(choice !== undefined, `request ${event.requestId} has no choice ${event.choiceIndex}`);
        choice.tokens.push(...event.tokens);
        if (event.finishReason !== undefined) choice.finishReason = event.finishReason;
        draft.e2elMs = clock.nowMs() - startMs;
        draft.ttftMs ||= draft.e2elMs;
      }
    }
  };
  return { push, finish: () => [...drafts].map(([id, draft]) => ({ id, ...draft })) };
}
