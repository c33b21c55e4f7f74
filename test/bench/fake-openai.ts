/** An OpenAI-compatible server in this process whose answers are scripts: what the load generator meets in
 *  the wild, on demand. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface CompletionRequest {
  readonly path: string;
  readonly headers: IncomingMessage['headers'];
  readonly body: Record<string, unknown>;
}

export type CompletionScript = (request: CompletionRequest, response: ServerResponse) => void | Promise<void>;

export interface FakeOpenAi {
  readonly url: string;
  readonly requests: CompletionRequest[];
  close(): Promise<void>;
}

/** `extras`: what GET and POST paths besides completions answer; anything else is a 404. */
export async function startFakeOpenAi(
  script: CompletionScript,
  extras: Readonly<Record<string, unknown>> = {},
): Promise<FakeOpenAi> {
  const requests: CompletionRequest[] = [];
  const routes: Readonly<Record<string, unknown>> = {
    '/v1/models': { data: [{ id: 'fake', max_model_len: 512 }] },
    ...extras,
  };
  const server = createServer(async (incoming, response) => {
    const parts: Buffer[] = [];
    for await (const part of incoming) parts.push(part as Buffer);
    const path = (incoming.url ?? '').split('?')[0] ?? '';
    if (path.endsWith('/completions')) {
      const body = JSON.parse(Buffer.concat(parts).toString()) as Record<string, unknown>;
      const request = { path, headers: incoming.headers, body };
      requests.push(request);
      await script(request, response);
      return;
    }
    const answer = routes[path];
    response.writeHead(answer === undefined ? 404 : 200, { 'content-type': 'application/json' });
    response.end(JSON.stringify(answer ?? { error: { message: 'nothing here' } }));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    requests,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

export const event = (payload: unknown): string =>
  `data: ${typeof payload === 'string' ? payload : JSON.stringify(payload)}\n\n`;

/** A well-behaved stream of as many tokens as were asked for. */
export const wellBehaved: CompletionScript = ({ body, path }, response) => {
  const count = Number(body.forced_output_tokens ?? body.max_tokens);
  response.writeHead(200, {
    'content-type': 'text/event-stream',
    'x-twostroke-route': 'disaggregated; w0 -> w1',
  });
  for (let i = 1; i <= count; i++) {
    const finish = i === count ? 'stop' : null;
    const choice = path.includes('chat')
      ? { delta: { content: 'a' }, finish_reason: finish }
      : { text: 'a', finish_reason: finish };
    response.write(event({ id: `id-${body.prompt === undefined ? 'chat' : 'text'}`, choices: [choice] }));
  }
  response.write(event({ choices: [], usage: { prompt_tokens: 7, completion_tokens: count } }));
  response.end(event('[DONE]'));
};
