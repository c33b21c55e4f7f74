/** HTTP to a hub: one GET, its redirects, and what the answer means. Used by pull.ts and file-download.ts.
 *  Invariants: the token goes to the endpoint's own origin and nowhere else; redirects go to http or https,
 *  never from https to http; an answer's text is bounded before it is parsed. */
import { type Dispatcher, EnvHttpProxyAgent } from 'undici';
import { messageOf, TwostrokeError } from '../base/errors.js';
import { isJsonObject, type JsonObject, parseJson } from '../model/json-file.js';
import { printable } from './listing.js';
import { TransientError } from './retries.js';
import type { HubSettings } from './settings.js';

/** Of a repository with 100,000 files. */
const listingLimits = { byteCount: 2 ** 25, valueCount: 2 ** 21 };
const redirectCountMax = 10;

export interface HubAnswer {
  readonly statusCode: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: Dispatcher.ResponseData['body'];
}

interface Get {
  /** For messages: `org/name` or a file of it. */
  readonly what: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal: AbortSignal;
}

export class HubClient {
  readonly #settings: HubSettings;
  readonly #agent: EnvHttpProxyAgent;

  /** `stallMs`: without a byte, a connection counts as broken. */
  constructor(settings: HubSettings, stallMs: number) {
    this.#settings = settings;
    const { http, https, none } = settings.proxies;
    this.#agent = new EnvHttpProxyAgent({
      httpProxy: http,
      httpsProxy: https,
      noProxy: none,
      headersTimeout: stallMs,
      bodyTimeout: stallMs,
      connectTimeout: stallMs,
    });
  }

  close(): Promise<void> {
    return this.#agent.destroy();
  }

  /** Throws TransientError for what may work later, TwostrokeError for what will not. */
  async json(path: string, get: Get): Promise<JsonObject> {
    const { body } = await this.get(path, get);
    const pieces: Buffer[] = [];
    let byteCount = 0;
    for await (const piece of transient(get.signal, body) as AsyncIterable<Buffer>) {
      byteCount += piece.length;
      if (byteCount > listingLimits.byteCount) {
        throw new TwostrokeError(
          'model_error',
          `${get.what}: the hub's answer is larger than ${listingLimits.byteCount} bytes`,
        );
      }
      pieces.push(piece);
    }
    const where = `${get.what}: the hub's answer`;
    const value = parseJson(Buffer.concat(pieces), where, listingLimits);
    if (!isJsonObject(value)) throw new TwostrokeError('model_error', `${where} must be an object`);
    return value;
  }

  /** A success; its body must be read or destroyed. Throws as `json`. */
  async get(path: string, get: Get): Promise<HubAnswer> {
    let url = new URL(this.#settings.endpoint + path);
    for (let redirectCount = 0; redirectCount <= redirectCountMax; redirectCount++) {
      const answer = await this.#getOnce(url, get);
      if (answer.statusCode >= 200 && answer.statusCode < 300) return answer;
      const location = one(answer.headers.location);
      await answer.body.dump({ limit: 2 ** 16 }).catch(() => undefined);
      if (answer.statusCode < 300 || answer.statusCode >= 400 || location === '')
        throw this.#refusal(answer, get.what);
      url = redirected(url, location, get.what);
    }
    throw new TwostrokeError('unavailable', `${get.what}: more than ${redirectCountMax} redirects`);
  }

  async #getOnce(url: URL, { headers, signal }: Get): Promise<HubAnswer> {
    const { token, endpoint } = this.#settings;
    const isOwn = url.origin === new URL(endpoint).origin;
    const authorization = token !== null && isOwn ? { authorization: `Bearer ${token}` } : {};
    try {
      return await this.#agent.request({
        origin: url.origin,
        path: url.pathname + url.search,
        method: 'GET',
        signal,
        headers: { 'user-agent': 'twostroke', 'accept-encoding': 'identity', ...headers, ...authorization },
      });
    } catch (error) {
      throw asTransient(error, signal, url.host);
    }
  }

  #refusal({ statusCode, headers }: HubAnswer, what: string): Error {
    const { endpoint, token } = this.#settings;
    const reason = printable(one(headers['x-error-message']));
    const says = reason === '' ? '' : ` (the hub says: ${reason})`;
    const code = one(headers['x-error-code']);
    if (statusCode === 429) return new TransientError(`too many requests${says}`, retryAfterMs(headers));
    if (statusCode >= 500 || statusCode === 408)
      return new TransientError(`HTTP ${statusCode}${says}`, retryAfterMs(headers));
    if (code === 'GatedRepo' || statusCode === 403) {
      const id = what.split(/[@:]/)[0];
      return new TwostrokeError(
        'forbidden',
        `${what}: access has to be granted: accept its terms on ${endpoint}/${id}, ` +
          `and set HF_TOKEN to a token of that account${says}`,
      );
    }
    if (statusCode === 401) {
      const hint = token === null ? 'set HF_TOKEN if it is private' : 'the hub refuses the token in HF_TOKEN';
      return new TwostrokeError(
        'unauthorized',
        `${what}: no such model on ${endpoint}, or not for everybody: ${hint}${says}`,
      );
    }
    if (statusCode === 404) {
      const missing =
        code === 'RevisionNotFound'
          ? 'no such revision'
          : code === 'EntryNotFound'
            ? 'no such file'
            : 'no such model';
      return new TwostrokeError(
        'not_found',
        `${what}: neither a folder here nor on ${endpoint}: ${missing}${says}`,
      );
    }
    return new TwostrokeError('unavailable', `${what}: ${endpoint} answers HTTP ${statusCode}${says}`);
  }
}

/** Pieces of a body; a connection that breaks is a TransientError. */
export async function* transient(signal: AbortSignal, body: AsyncIterable<unknown>): AsyncGenerator<unknown> {
  try {
    yield* body;
  } catch (error) {
    throw asTransient(error, signal, 'the connection');
  }
}

/** A certificate that is refused today is refused in a minute too. */
function asTransient(error: unknown, signal: AbortSignal, host: string): unknown {
  if (signal.aborted || error instanceof TwostrokeError || error instanceof TransientError) return error;
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  const text = `${host}: ${messageOf(error) || code}`;
  if (/CERT|TLS|SELF_SIGNED|UNABLE_TO|INVALID/.test(code))
    return new TwostrokeError('unavailable', text, { cause: error });
  return new TransientError(text, null);
}

function redirected(from: URL, location: string, what: string): URL {
  const to = URL.canParse(location, from.href) ? new URL(location, from) : null;
  const isAllowed =
    to !== null && (to.protocol === 'https:' || (to.protocol === 'http:' && from.protocol === 'http:'));
  if (isAllowed) return to;
  throw new TwostrokeError(
    'unavailable',
    `${what}: ${from.host} redirects to ${printable(location)}, which is not followed`,
  );
}

/** Seconds or a date; null: it does not say. */
function retryAfterMs(headers: HubAnswer['headers']): number | null {
  const text = one(headers['retry-after']);
  return /^\d{1,9}$/.test(text) ? 1000 * Number(text) : null;
}

export function one(header: string | string[] | undefined): string {
  return (Array.isArray(header) ? header[0] : header) ?? '';
}
