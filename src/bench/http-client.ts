/** Streamed completions over node:http with kept connections: the lightest way to send many requests and
 *  stamp every chunk. Used by setup.ts. Chunks are stamped when their bytes are handed to JavaScript;
 *  several in one packet have one time. */
import {
  Agent,
  type ClientRequest,
  request as httpRequest,
  type IncomingMessage,
  type OutgoingHttpHeaders,
} from 'node:http';
import { request as httpsRequest, Agent as TlsAgent } from 'node:https';
import type { Clock } from '../base/clock.js';
import { InvalidRequestError, messageOf } from '../base/errors.js';
import { AnswerReader } from './answer-reader.js';
import type { CompletionAnswer, CompletionClient, PreparedRequest } from './completion-client.js';
import type { Outcome, PlannedRequest } from './load-record.js';
import { SseReader } from './sse-reader.js';

export interface HttpClientOptions {
  readonly baseUrl: string;
  readonly api: 'completions' | 'chat';
  readonly model: string;
  readonly apiKey: string | null;
  readonly temperature: number | null;
  readonly ignoreEos: boolean;
  readonly outputLength: 'forced' | 'limit';
}

const paths = { completions: '/v1/completions', chat: '/v1/chat/completions' } as const;
const errorBytesMax = 4096;

export class HttpCompletionClient implements CompletionClient {
  readonly #options: HttpClientOptions;
  readonly #clock: Clock;
  readonly #url: URL;
  readonly #agent: Agent;

  constructor(options: HttpClientOptions, clock: Clock) {
    this.#options = options;
    this.#clock = clock;
    this.#url = new URL(paths[options.api], options.baseUrl);
    const agentOptions = { keepAlive: true, noDelay: true, maxSockets: Number.POSITIVE_INFINITY };
    this.#agent = this.#url.protocol === 'https:' ? new TlsAgent(agentOptions) : new Agent(agentOptions);
  }

  prepare(planned: PlannedRequest): PreparedRequest {
    const body = Buffer.from(JSON.stringify(requestBody(planned, this.#options)));
    const headers = sloHeaders(planned);
    return { send: (signal) => this.#send(body, headers, signal) };
  }

  close(): void {
    this.#agent.destroy();
  }

  #send(body: Buffer, headers: OutgoingHttpHeaders, signal: AbortSignal): Promise<CompletionAnswer> {
    return new Promise((resolve) => {
      const reader = new AnswerReader(this.#clock.nowMs());
      let facts: { status?: number; route?: string } = {};
      const finish = (outcome: Outcome, error?: string) => {
        signal.removeEventListener('abort', abort);
        resolve(
          reader.end(outcome, this.#clock.nowMs(), { ...facts, ...(error === undefined ? {} : { error }) }),
        );
      };
      const request = this.#open(body, headers);
      const abort = () => {
        finish('unfinished');
        request.destroy();
      };
      signal.addEventListener('abort', abort);
      request.on('error', (error) => finish('failed', messageOf(error)));
      request.on('response', (response) => {
        facts = factsOf(response);
        response.on('error', (error) => finish('failed', messageOf(error)));
        if (response.statusCode === 200) this.#readStream(response, reader, finish);
        else readError(response, finish);
      });
      request.end(body);
      if (signal.aborted) abort();
    });
  }

  #open(body: Buffer, headers: OutgoingHttpHeaders): ClientRequest {
    const { apiKey } = this.#options;
    const send = this.#url.protocol === 'https:' ? httpsRequest : httpRequest;
    return send(this.#url, {
      method: 'POST',
      agent: this.#agent,
      headers: {
        'content-type': 'application/json',
        'content-length': body.byteLength,
        accept: 'text/event-stream',
        ...headers,
        ...(apiKey === null ? {} : { authorization: `Bearer ${apiKey}` }),
      },
    });
  }

  #readStream(
    response: IncomingMessage,
    reader: AnswerReader,
    finish: (outcome: Outcome, error?: string) => void,
  ): void {
    const sse = new SseReader();
    response.setEncoding('utf8');
    response.on('data', (text: string) => {
      const nowMs = this.#clock.nowMs();
      for (const payload of sse.push(text)) reader.accept(payload, nowMs);
    });
    response.on('end', () => finish('completed'));
  }
}

/** As a twostroke server reads them; others pass over them. */
function sloHeaders({ slo = {} }: PlannedRequest): OutgoingHttpHeaders {
  return {
    ...(slo.ttftMs === undefined ? {} : { 'x-slo-ttft-ms': slo.ttftMs }),
    ...(slo.tpotMs === undefined ? {} : { 'x-slo-tpot-ms': slo.tpotMs }),
    ...(slo.e2elMs === undefined ? {} : { 'x-slo-e2el-ms': slo.e2elMs }),
  };
}

function factsOf({ statusCode, headers }: IncomingMessage): { status?: number; route?: string } {
  const route = headers['x-twostroke-route'];
  return {
    ...(statusCode === undefined ? {} : { status: statusCode }),
    ...(typeof route === 'string' ? { route } : {}),
  };
}

function readError(response: IncomingMessage, finish: (outcome: Outcome, error: string) => void): void {
  const status = response.statusCode ?? 0;
  let text = '';
  response.setEncoding('utf8');
  response.on('data', (part: string) => {
    if (text.length < errorBytesMax) text += part;
  });
  response.on('end', () =>
    finish(status === 429 || status === 503 ? 'rejected' : 'failed', `status ${status}: ${errorText(text)}`),
  );
}

function errorText(body: string): string {
  try {
    const json = JSON.parse(body) as { error?: { message?: string }; message?: string };
    return json.error?.message ?? json.message ?? body;
  } catch {
    return body;
  }
}

function requestBody(
  { prompt, maxTokenCount, wantedTokenCount }: PlannedRequest,
  options: HttpClientOptions,
): object {
  const common = {
    model: options.model,
    max_tokens: maxTokenCount,
    stream: true,
    stream_options: { include_usage: true },
    ...(options.temperature === null ? {} : { temperature: options.temperature }),
    ...(options.ignoreEos ? { ignore_eos: true } : {}),
    ...(options.outputLength === 'forced' ? { forced_output_tokens: wantedTokenCount } : {}),
  };
  if (options.api === 'completions')
    return { ...common, prompt: prompt.kind === 'ids' ? prompt.ids : prompt.text };
  if (prompt.kind === 'ids')
    throw new InvalidRequestError('the chat endpoint takes text: token ids were planned');
  return { ...common, messages: [{ role: 'user', content: prompt.text }] };
}
