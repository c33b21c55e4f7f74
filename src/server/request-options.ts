/** Small readings of request fields that both completion endpoints share. */
import { createHash } from 'node:crypto';
import { InvalidRequestError, TwostrokeError } from '../base/errors.js';
import type { RequestInput } from '../control/gateway-api.js';
import type { ChatBody } from './chat-schema.js';
import type { Exchange, StreamOptions } from './exchange.js';
import type { Caller } from './keys.js';
import type { TokenForm } from './logprobs.js';
import { sloOfBody } from './request-slo.js';
import type { ServedModel } from './served-model.js';

/** No name means the one model there is, as vLLM allows. */
export function checkModelName(model: ServedModel, name: string | null | undefined): void {
  if (name === null || name === undefined || model.names.includes(name)) return;
  throw new TwostrokeError(
    'not_found',
    `The model "${name}" does not exist. This server has "${model.names.join('", "')}".`,
    {
      param: 'model',
    },
  );
}

export function streamOptionsOf(body: Pick<ChatBody, 'stream' | 'stream_options'>): StreamOptions {
  const options = body.stream_options ?? {};
  if (body.stream !== true) {
    if (body.stream_options)
      throw new InvalidRequestError('stream_options: only allowed with "stream": true', 'stream_options');
    return { stream: 'no', usage: 'none' };
  }
  if (options.include_usage !== true) return { stream: 'yes', usage: 'none' };
  return { stream: 'yes', usage: options.continuous_usage_stats === true ? 'every' : 'last' };
}

export function stopStringsOf(stop: ChatBody['stop']): readonly string[] {
  if (stop === null || stop === undefined) return [];
  return typeof stop === 'string' ? [stop] : stop;
}

export function tokenFormOf(body: Pick<ChatBody, 'return_tokens_as_token_ids'>): TokenForm {
  return body.return_tokens_as_token_ids === true ? 'id' : 'text';
}

type SchedulingBody = Pick<ChatBody, 'priority' | 'cache_salt' | 'on_transfer_failure' | 'slo'>;
type Scheduling = Pick<
  RequestInput,
  'priority' | 'cacheSalt' | 'owner' | 'onTransferFailure' | 'slo' | 'serviceClass'
>;

export function schedulingOf(
  body: SchedulingBody,
  { caller, slo, serviceClass }: Pick<Exchange, 'caller' | 'slo' | 'serviceClass'>,
): Scheduling {
  const { priority, on_transfer_failure: onTransferFailure } = body;
  const cacheSalt = saltOf(body, caller);
  return {
    ...(priority === null || priority === undefined ? {} : { priority }),
    ...(cacheSalt === null ? {} : { cacheSalt }),
    ...(caller.owner === null ? {} : { owner: caller.owner }),
    slo: { ...slo, ...sloOfBody(body.slo) },
    ...(serviceClass === undefined ? {} : { serviceClass }),
    ...(onTransferFailure === null || onTransferFailure === undefined ? {} : { onTransferFailure }),
  };
}

/** A digest: a salt may be as long as a body, and goes with every prompt of it, to the router and to each
 *  worker that it meets. Namespaces are of one length, so none of them with a salt reads as another; UTF-16,
 *  so that no two texts are one. */
function saltOf({ cache_salt: salt = null }: SchedulingBody, { cacheNamespace }: Caller): string | null {
  if (salt === null) return cacheNamespace;
  return createHash('sha256')
    .update(`${cacheNamespace ?? ''}${salt}`, 'utf16le')
    .digest('hex');
}
