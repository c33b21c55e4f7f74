/** A request as it came over the bus, made into what the engine takes. Used by worker-service.ts. */
import type { GenerationRequest } from '../engine/generation-request.js';
import type { RequestBody } from './messages.js';
import { unpackTokens } from './token-list.js';

export function toGenerationRequest(body: RequestBody): GenerationRequest {
  const { id, promptIds, sampling, outputs, priority, cacheSalt, deadlines } = body;
  return {
    id,
    promptIds: unpackTokens(promptIds),
    sampling,
    ...(outputs.length === 0 ? {} : { outputs: outputs.map(unpackTokens) }),
    priority,
    ...(cacheSalt === undefined ? {} : { cacheSalt }),
    ...(deadlines === undefined ? {} : { deadlines }),
  };
}
