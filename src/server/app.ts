/** The HTTP surface: every route, the checks before them, and the one place where errors become responses.
 *  Made by http-server.ts. Headers that must also be on streamed answers are set on the raw response, since
 *  those never pass through hono. */
import type { ServerResponse } from 'node:http';
import type { HttpBindings } from '@hono/node-server';
import { type Context, Hono } from 'hono';
import { getPath } from 'hono/utils/url';
import { TwostrokeError } from '../base/errors.js';
import { freshId } from '../base/prng.js';
import { AnswerRoom } from './answer-room.js';
import { HttpError, toApiError } from './api-error.js';
import type { ModelCard, ModelList } from './api-types.js';
import { BodyRoom } from './body-room.js';
import { chatCompletion } from './chat.js';
import { type ClassRule, classOf } from './class-rules.js';
import { completion } from './completions.js';
import type { Connections } from './connections.js';
import { answerEarly } from './early-answer.js';
import type { Exchange, ServerContext } from './exchange.js';
import { LongList, sendJson } from './json-answer.js';
import { type Caller, type KeyOptions, Keys, requireTotals } from './keys.js';
import { RecentRequests } from './recent-requests.js';
import { withJsonBody } from './request-body.js';
import { sloOfHeaders } from './request-slo.js';
import type { Outlet } from './response-writer.js';
import type { ServedModel } from './served-model.js';
import { applyTemplate, detokenize, tokenize } from './tokenize.js';
import { ignoredFieldsHeader, UnknownFields } from './unknown-fields.js';
import type { OnParsed } from './validation.js';

export interface AppOptions extends KeyOptions {
  /** Value of access-control-allow-origin; null: no CORS headers. */
  readonly corsOrigin: string | null;
  readonly version: string;
  /** Unknown fields are refused instead of ignored. */
  readonly strictFields: boolean;
  /** Absent: requests are of no class. */
  readonly classRules?: readonly ClassRule[];
  /** True once shutdown began: open connections are asked to go elsewhere. */
  readonly isStopping: () => boolean;
  readonly connections: Connections;
}

type Env = { Bindings: HttpBindings; Variables: { requestIdText: string; caller: Caller } };
type Handler = (context: Context<Env>) => Response | Promise<Response>;

export function createApp(context: ServerContext, options: AppOptions): Hono<Env> {
  const app = new Hono<Env>({ getPath: plainPath });
  prepareResponses(app, context, options);
  refuse(app, options);
  const table = routes(context, options);
  for (const [method, path, handler] of table) app.on(method, path, handler);
  const methodsOf = new Map<string, string[]>();
  for (const [method, path] of table) methodsOf.set(path, [...(methodsOf.get(path) ?? []), method]);
  for (const [path, methods] of methodsOf) {
    app.all(path, ({ req }) => {
      const allow = methods.join(', ');
      throw new HttpError(405, 'invalid_request', `${req.method} is not allowed on ${path}. Use ${allow}.`, {
        headers: { allow },
      });
    });
  }
  app.notFound(({ req }) =>
    errorResponse(
      new TwostrokeError(
        'not_found',
        `There is nothing at ${req.method} ${req.path}. GET / lists the endpoints.`,
      ),
    ),
  );
  app.onError((error, { req, get }) => {
    if (!(error instanceof TwostrokeError))
      context.logger.error({ err: error, path: req.path, requestId: get('requestIdText') }, 'internal error');
    return errorResponse(error);
  });
  return app;
}

/** Clients join paths carelessly: doubled slashes and one at the end mean nothing. What is open without a key
 *  is decided by this path too. */
function plainPath(request: Request): string {
  const path = getPath(request).replace(/\/{2,}/g, '/');
  return path.length > 1 && path.endsWith('/') ? path.slice(0, -1) : path;
}

/** Around every handler: request id, CORS, counting. What is refused below is counted too. */
function prepareResponses(
  app: Hono<Env>,
  { metrics, clock, logger }: ServerContext,
  options: AppOptions,
): void {
  app.use(async (c, next) => {
    const startMs = clock.nowMs();
    const requestId = requestIdText(c.req.header('x-request-id'));
    c.set('requestIdText', requestId);
    c.env.outgoing.setHeader('x-request-id', requestId);
    if (options.corsOrigin !== null) setCorsHeaders(c, options.corsOrigin);
    if (c.req.method === 'OPTIONS' && options.corsOrigin !== null) return c.body(null, 204);
    await next();
    const { status } = c.res;
    metrics.onResponse(c.req.routePath, status);
    logger.debug(
      { requestId, method: c.req.method, path: c.req.path, status, ms: clock.nowMs() - startMs },
      'request',
    );
    if (c.env.incoming.complete || c.env.outgoing.headersSent) return;
    await answerEarly(c.res, c.env, clock);
    c.res = undefined; // or its headers would be merged into the next
    c.res = alreadySent();
    return;
  });
}

/** Before every handler: shutdown, key. */
function refuse(app: Hono<Env>, options: AppOptions): void {
  const keys = new Keys(options);
  app.use(async (c, next) => {
    const { incoming, outgoing } = c.env;
    if (options.isStopping()) {
      outgoing.setHeader('connection', 'close');
      throw new TwostrokeError('unavailable', 'The server is shutting down');
    }
    c.set('caller', keys.caller(c.req.path, incoming.headers.authorization));
    await next();
  });
}

function setCorsHeaders(c: Context<Env>, origin: string): void {
  const { outgoing } = c.env;
  outgoing.setHeader('access-control-allow-origin', origin);
  outgoing.setHeader(
    'access-control-expose-headers',
    `x-request-id, x-twostroke-route, ${ignoredFieldsHeader}`,
  );
  if (c.req.method !== 'OPTIONS') return;
  outgoing.setHeader('access-control-allow-methods', 'GET, POST, OPTIONS');
  outgoing.setHeader(
    'access-control-allow-headers',
    c.req.header('access-control-request-headers') ?? 'authorization, content-type',
  );
  outgoing.setHeader('access-control-max-age', '86400');
}

/** The client's own id if it is short and printable, so that it can stand in a header and a log line. */
function requestIdText(given: string | undefined): string {
  return given !== undefined && /^[\x21-\x7e]{1,200}$/.test(given) ? given : freshId('req');
}

/** How handlers take bodies in and send answers. */
function answering(context: ServerContext, options: AppOptions) {
  const { gateway } = context;
  const answers = new AnswerRoom(context.answerBytesMax);
  const bodies = new BodyRoom(context.bodyBytesMax, context.clock);
  const unknownFields = new UnknownFields(options.strictFields ? 'refuse' : 'ignore', context.logger);
  const tellUnknown =
    (outgoing: ServerResponse): OnParsed =>
    (given, known) =>
      unknownFields.handle(given, known, outgoing);
  const outletOf = ({ incoming, outgoing }: HttpBindings): Outlet => ({
    incoming,
    outgoing,
    onCut: (listen) => options.connections.onCut(incoming.socket, listen),
  });
  const sent = async ({ env }: Context<Env>, result: object): Promise<Response> => {
    await sendJson(outletOf(env), result, context.clock);
    return alreadySent();
  };
  const json =
    (handle: (body: unknown, onParsed: OnParsed) => object | Promise<object>): Handler =>
    async (c) => {
      const { incoming, outgoing } = c.env;
      return withJsonBody(incoming, bodies, async (body) =>
        sent(c, await handle(body, tellUnknown(outgoing))),
      );
    };
  const generating =
    (handle: typeof chatCompletion): Handler =>
    async (c) => {
      if (gateway.health().status === 'loading')
        throw new TwostrokeError('unavailable', 'The model is still loading');
      const { incoming, outgoing } = c.env;
      const serviceClass = classOf(options.classRules ?? [], incoming.headers);
      // before a byte of the body is read: a refusal has to cost next to nothing
      gateway.checkRoom(serviceClass);
      const exchange: Exchange = {
        ...outletOf(c.env),
        caller: c.get('caller'),
        slo: sloOfHeaders(incoming.headers),
        ...(serviceClass === undefined ? {} : { serviceClass }),
        answers,
        onParsed: tellUnknown(outgoing),
      };
      await withJsonBody(incoming, bodies, (body) => handle(context, exchange, body));
      return alreadySent();
    };
  return { sent, json, generating };
}

function routes(
  context: ServerContext,
  options: AppOptions,
): readonly (readonly [method: string, path: string, handler: Handler])[] {
  const { gateway, model, metrics } = context;
  const recent = new RecentRequests(gateway);
  const { sent, json, generating } = answering(context, options);
  return [
    ['POST', '/v1/chat/completions', generating(chatCompletion)],
    ['POST', '/v1/completions', generating(completion)],
    ['GET', '/v1/models', (c) => c.json(modelList(model))],
    ['GET', '/v1/models/:id{.+}', (c) => c.json(modelCard(model, knownName(model, c.req.param('id') ?? '')))],
    ['POST', '/tokenize', json((body, onParsed) => tokenize(model, body, onParsed))],
    ['POST', '/apply-template', json((body, onParsed) => applyTemplate(model, body, onParsed))],
    ['POST', '/detokenize', json((body, onParsed) => detokenize(model, body, onParsed))],
    ['GET', '/health', (c) => c.json(gateway.health(), gateway.health().status === 'ok' ? 200 : 503)],
    [
      'GET',
      '/workers',
      (c) => {
        requireTotals(c.get('caller'));
        return c.json({ ...gateway.health(), workers: gateway.workers(), state: gateway.state });
      },
    ],
    [
      'GET',
      '/routes',
      (c) => {
        const count = Math.max(1, Math.trunc(Number(c.req.query('count') ?? 10)) || 10);
        const id = c.req.query('id');
        const caller = c.get('caller');
        const requests = id === undefined ? recent.last(caller, count) : recent.find(caller, id);
        const routing = caller.sees === 'own' ? null : gateway.routing();
        return sent(c, { requests: new LongList(() => requests), routing });
      },
    ],
    // whether the process answers at all; /health says whether it can serve
    ['GET', '/ping', (c) => c.body(null, 200)],
    ['GET', '/version', (c) => c.json({ version: options.version })],
    [
      'GET',
      '/metrics',
      async (c) => {
        requireTotals(c.get('caller'));
        const { contentType, text } = await metrics.render();
        return c.body(text, 200, { 'content-type': contentType });
      },
    ],
    ['GET', '/', (c) => c.text(`${indexText(model, options)}\n`)],
  ];
}

function indexText(model: ServedModel, options: AppOptions): string {
  return `twostroke ${options.version} serves ${model.names[0]}: POST /v1/chat/completions, /v1/completions, /tokenize, /detokenize, /apply-template; GET /v1/models, /health, /workers, /routes, /metrics, /version`;
}

function modelList(model: ServedModel): ModelList {
  return { object: 'list', data: model.names.map((name) => modelCard(model, name)) };
}

function modelCard(model: ServedModel, id: string): ModelCard {
  return {
    id,
    object: 'model',
    created: model.createdSeconds,
    owned_by: 'twostroke',
    root: model.names[0],
    max_model_len: model.maxModelTokenCount,
  };
}

function knownName(model: ServedModel, name: string): string {
  if (model.names.includes(name)) return name;
  throw new TwostrokeError(
    'not_found',
    `The model "${name}" does not exist. This server has "${model.names.join('", "')}".`,
    {
      param: 'model',
    },
  );
}

function errorResponse(error: unknown): Response {
  const { status, headers, body } = toApiError(error);
  return Response.json(body, { status, headers });
}

/** Tells the Node adapter that the handler wrote the response itself. */
function alreadySent(): Response {
  return new Response(null, { headers: { 'x-hono-already-sent': 'true' } });
}
