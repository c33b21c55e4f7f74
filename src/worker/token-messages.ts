/** A step's events as messages of bounded length: a prompt's log-probabilities are megabytes, and whoever reads
 *  them in one go holds everybody else up. Used by worker.ts. Invariant: the order stays. */
import type { TokenEvent } from '../engine/token-event.js';
import type { TokensBody } from './messages.js';

/** Alternatives counted too: some milliseconds of reading. */
const scoreCountMax = 8192;

type PromptLogprobs = Extract<TokenEvent, { kind: 'promptLogprobs' }>;

export function* tokenMessages(events: readonly TokenEvent[]): Generator<TokensBody> {
  let together: TokenEvent[] = [];
  for (const event of events) {
    if (event.kind !== 'promptLogprobs') {
      together.push(event);
      continue;
    }
    if (together.length > 0) yield { events: together };
    together = [];
    for (const piece of piecesOf(event)) yield { events: [piece] };
  }
  if (together.length > 0) yield { events: together };
}

/** The same pieces of the same prompt on every worker, so that whoever got some of them knows which are
 *  new. */
function* piecesOf(event: PromptLogprobs): Generator<PromptLogprobs> {
  const { logprobs } = event;
  const perToken = 1 + (logprobs[0]?.top.length ?? 0);
  const length = Math.max(1, Math.floor(scoreCountMax / perToken));
  for (let start = 0; start < Math.max(1, logprobs.length); start += length)
    yield { ...event, start, logprobs: logprobs.slice(start, start + length) };
}
