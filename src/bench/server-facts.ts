/** What a load test must know of a server before it starts: model, context length, usable token ids, texts
 *  made into tokens. Used by setup.ts. */
import { messageOf, TwostrokeError } from '../base/errors.js';
import { type LoadRecord, predictedNames } from './load-record.js';
import { fallbackTokenIds, sampleText } from './prompts.js';

export interface ServerAddress {
  readonly baseUrl: string;
  readonly apiKey: string | null;
}

export interface ServerFacts {
  readonly model: string;
  /** null: the server does not tell. */
  readonly contextTokenCount: number | null;
  readonly tokenIdPool: readonly number[];
  /** Whether texts can be made into tokens there. */
  readonly tokenizer: 'served' | 'none';
}

/** Throws TwostrokeError 'unavailable' when nothing answers, 'not_found' when it has not the model asked
 *  for. */
export async function readServerFacts(address: ServerAddress, model: string | null): Promise<ServerFacts> {
  const { data = [] } = (await ask(address, '/v1/models')) as {
    data?: { id: string; max_model_len?: number }[];
  };
  const card = model === null ? data[0] : data.find(({ id }) => id === model);
  if (card === undefined) {
    const names = data.map(({ id }) => id).join(', ') || 'none';
    throw new TwostrokeError('not_found', `${address.baseUrl} has no model ${model ?? ''}: it has ${names}`, {
      param: 'model',
    });
  }
  const ids = await tokenIdsOf(address, card.id, sampleText);
  return {
    model: card.id,
    contextTokenCount: card.max_model_len ?? null,
    tokenIdPool: ids === null ? fallbackTokenIds : [...new Set(ids)].sort((a, b) => a - b),
    tokenizer: ids === null ? 'none' : 'served',
  };
}

/** null: this server has no /tokenize, or no tokenizer. */
export async function tokenIdsOf(
  address: ServerAddress,
  model: string,
  prompt: string,
): Promise<readonly number[] | null> {
  try {
    const answer = (await ask(address, '/tokenize', { model, prompt, add_special_tokens: false })) as {
      tokens?: number[];
    };
    return answer.tokens ?? null;
  } catch (error) {
    if (error instanceof TwostrokeError && error.code === 'not_found') return null;
    throw error;
  }
}

export async function textOf(
  address: ServerAddress,
  model: string,
  tokens: readonly number[],
): Promise<string> {
  const answer = (await ask(address, '/detokenize', { model, tokens })) as { prompt?: string };
  return answer.prompt ?? '';
}

/** What only the server knows of a request. */
export type RoutedFacts = Pick<LoadRecord, 'predicted' | 'transferMs'>;

/** A request as the server tells of it at /routes. */
interface ReportedRequest {
  readonly id: string;
  readonly routes: readonly { readonly estimates: Readonly<Record<string, number>> }[];
  readonly resumedMs?: number;
  readonly exposedTransferMs: number;
}

export function routedFactsOf({ routes, resumedMs, exposedTransferMs }: ReportedRequest): RoutedFacts {
  return {
    ...predictedOf(routes.at(-1)?.estimates ?? {}),
    ...(resumedMs === undefined ? {} : { transferMs: rounded(exposedTransferMs) }),
  };
}

/** Of the last thousand requests, by request id; empty for servers that are not twostroke. */
export async function readRouted(address: ServerAddress): Promise<ReadonlyMap<string, RoutedFacts>> {
  try {
    const { requests = [] } = (await ask(address, '/routes?count=1000')) as { requests?: ReportedRequest[] };
    return new Map(requests.map((request) => [request.id, routedFactsOf(request)]));
  } catch (error) {
    if (error instanceof TwostrokeError) return new Map();
    throw error;
  }
}

function predictedOf(estimates: Readonly<Record<string, number>>): Pick<RoutedFacts, 'predicted'> {
  const known = predictedNames.flatMap((name) => {
    const value = estimates[name];
    return value === undefined ? [] : [[name, rounded(value)]];
  });
  return known.length === 0 ? {} : { predicted: Object.fromEntries(known) };
}

/** Microseconds are enough, and files stay small. */
function rounded(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}

export function withRouted(
  records: readonly LoadRecord[],
  routed: ReadonlyMap<string, RoutedFacts>,
): readonly LoadRecord[] {
  return records.map((record) => ({ ...record, ...(record.id === undefined ? {} : routed.get(record.id)) }));
}

/** A status of 4xx becomes 'not_found': this server cannot do that. */
async function ask({ baseUrl, apiKey }: ServerAddress, path: string, body?: object): Promise<unknown> {
  let response: Response;
  try {
    response = await fetch(new URL(path, baseUrl), {
      headers: {
        'content-type': 'application/json',
        ...(apiKey === null ? {} : { authorization: `Bearer ${apiKey}` }),
      },
      ...(body === undefined ? {} : { method: 'POST', body: JSON.stringify(body) }),
    });
  } catch (error) {
    const cause =
      error instanceof Error && error.cause instanceof Error ? error.cause.message : messageOf(error);
    throw new TwostrokeError(
      'unavailable',
      `no server at ${baseUrl} (${cause}): start one, or name it with --base-url`,
    );
  }
  const text = await response.text();
  if (response.ok) return JSON.parse(text);
  const code = response.status === 401 ? 'unauthorized' : response.status < 500 ? 'not_found' : 'unavailable';
  throw new TwostrokeError(code, `${baseUrl}${path} answered ${response.status}: ${text.slice(0, 200)}`);
}
