/** The benchmark field `forced_output_tokens`: after how many tokens the answer ends as if the model had
 *  drawn its end token. It lets a load test give each request a known length while router and admission see
 *  only the larger max_tokens, as in production. Used by chat.ts and completions.ts. Invariant: only a server
 *  started with --allow-forced-length takes it. */
import { InvalidRequestError } from '../base/errors.js';
import type { SamplingParams } from '../engine/sampling-params.js';
import type { ChatBody } from './chat-schema.js';
import type { ServerContext } from './exchange.js';

const field = 'forced_output_tokens';

type ForcedBody = Pick<ChatBody, typeof field | 'stop' | 'stop_token_ids' | 'min_tokens'>;

/** `sampling` with the forced length, if one is asked for. Throws InvalidRequestError where it is not allowed
 *  or contradicts another field. */
export function withForcedLength(
  context: ServerContext,
  body: ForcedBody,
  sampling: SamplingParams,
): SamplingParams {
  const forced = body[field] ?? null;
  if (forced === null) return sampling;
  if (context.allowForcedLength !== true) {
    throw new InvalidRequestError(
      `${field}: this is for benchmarks; the server takes it only when started with --allow-forced-length`,
      field,
    );
  }
  if (forced > sampling.maxTokenCount) {
    throw new InvalidRequestError(
      `${field}: ${forced} is more than the ${sampling.maxTokenCount} tokens allowed`,
      field,
    );
  }
  for (const other of ['stop', 'stop_token_ids', 'min_tokens'] as const) {
    const value = body[other] ?? null;
    if (value === null || value === 0 || (Array.isArray(value) && value.length === 0)) continue;
    throw new InvalidRequestError(
      `${field}: the length is fixed, so it cannot be combined with ${other}`,
      field,
    );
  }
  return { ...sampling, forcedTokenCount: forced };
}
