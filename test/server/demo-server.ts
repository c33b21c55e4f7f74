/** Starts the real HTTP server on a free port, with the demo model's text side and a fake gateway behind
 *  it. */
import path from 'node:path';
import { type Clock, systemClock } from '../../src/base/clock.js';
import { silentLogger } from '../../src/base/log.js';
import { type HttpServer, type HttpServerOptions, startHttpServer } from '../../src/server/http-server.js';
import { createServerMetrics } from '../../src/server/metrics.js';
import type { ServedModel } from '../../src/server/served-model.js';
import { loadText } from '../../src/server/text-jobs.js';
import { DirectText } from '../../src/server/text-service.js';
import { FakeGateway, type Script } from './fake-gateway.js';

export const demoFolder = path.resolve(import.meta.dirname, '../../models/demo-6m');
const text = loadText(demoFolder);
export const tokenizer = text.tokenizer;
export const contextTokenCount = 512;

export const demoModel: ServedModel = {
  names: ['demo', 'demo-6m'],
  createdSeconds: 1_700_000_000,
  maxModelTokenCount: contextTokenCount,
  vocabCount: 4096,
  defaults: { temperature: 0.6, topK: 20, topP: 0.9, endTokenIds: [2, 0] },
  tokenizer,
  text: new DirectText(text),
  fingerprint: 'fp_test',
};

/** Replies with fixed text, or by a script of its own. */
export const say =
  (...texts: readonly string[]): Script =>
  (_input, choiceIndex) =>
    tokenizer.encode(texts[choiceIndex % texts.length] ?? '', { addSpecialTokens: 'none' });

export interface TestServer {
  readonly gateway: FakeGateway;
  readonly server: HttpServer;
  /** http://127.0.0.1:PORT */
  readonly url: string;
  post(path: string, body: unknown, headers?: Record<string, string>): Promise<Response>;
  close(): Promise<void>;
}

export async function startTestServer(
  script: Script,
  options: {
    model?: Partial<ServedModel>;
    http?: Partial<HttpServerOptions>;
    bodyBytesMax?: number;
    answerBytesMax?: number;
    allowForcedLength?: boolean;
    clock?: Clock;
  } = {},
): Promise<TestServer> {
  const gateway = new FakeGateway(script);
  const model = { ...demoModel, ...options.model };
  const context = {
    gateway,
    model,
    clock: options.clock ?? systemClock,
    logger: silentLogger,
    metrics: createServerMetrics(gateway, model.names[0]),
    bodyBytesMax: options.bodyBytesMax ?? 1 << 20,
    ...(options.answerBytesMax === undefined ? {} : { answerBytesMax: options.answerBytesMax }),
    allowForcedLength: options.allowForcedLength ?? false,
  };
  const server = await startHttpServer(context, {
    host: '127.0.0.1',
    port: 0,
    apiKeys: [],
    adminKeys: [],
    sharePrefixCache: false,
    corsOrigin: null,
    version: '0.0.0-test',
    strictFields: false,
    ...options.http,
  });
  const url = `http://127.0.0.1:${server.port}`;
  return {
    gateway,
    server,
    url,
    post: (route, body, headers = {}) =>
      fetch(url + route, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: typeof body === 'string' ? body : JSON.stringify(body),
      }),
    close: () => server.close(0),
  };
}
