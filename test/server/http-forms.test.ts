/** One request in the many forms that clients and proxies give it: content types, encodings, paths, methods,
 *  HTTP/1.0. */
import { once } from 'node:events';
import net from 'node:net';
import { brotliCompressSync, deflateSync, gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { answerOf } from './answers.js';
import { say, startTestServer, type TestServer } from './demo-server.js';

const bodyBytesMax = 64 * 1024;
let test: TestServer;
beforeAll(async () => {
  test = await startTestServer(say('hello'), { bodyBytesMax });
});
afterAll(() => test.close());

const json = JSON.stringify({ prompt: 'Hi' });
function send(
  body: string | Uint8Array<ArrayBuffer>,
  headers: Record<string, string>,
  path = '/tokenize',
): Promise<Response> {
  return fetch(test.url + path, { method: 'POST', headers, body });
}
const typed = { 'content-type': 'application/json' };

describe('content types', () => {
  it.each([
    'application/json',
    'Application/JSON',
    'application/json; charset=utf-8',
    'application/json;charset=UTF8',
    'application/json; charset="utf-8"',
    'application/json; charset=us-ascii',
    'application/problem+json',
    'text/json',
  ])('%s is read', async (type) => {
    expect((await send(json, { 'content-type': type })).status).toBe(200);
  });

  it('none at all is read', async () => {
    const bytes = Buffer.from(json) as Uint8Array<ArrayBuffer>; // fetch gives bytes no type
    expect((await send(bytes, {})).status).toBe(200);
  });

  it.each([
    'text/plain',
    'text/plain;charset=UTF-8',
    'application/x-www-form-urlencoded',
    'multipart/form-data; boundary=x',
    'application/octet-stream',
    'application/jsonish',
    'json',
    'application/json; charset=utf-16',
    'application/json; charset=latin1',
  ])('%s is refused with 415, and what to send instead', async (type) => {
    const response = await send(json, { 'content-type': type });
    expect(response.status).toBe(415);
    expect((await answerOf(response)).error.message).toMatch(/"Content-Type: application\/json"/);
  });

  it('a byte order mark is no part of the JSON', async () => {
    expect((await send(`\uFEFF${json}`, typed)).status).toBe(200);
  });
});

describe('content encodings', () => {
  const encoders = {
    gzip: gzipSync,
    'x-gzip': gzipSync,
    deflate: deflateSync,
    br: brotliCompressSync,
  } as const;
  const names = Object.keys(encoders) as (keyof typeof encoders)[];

  it.each(names)('%s is read', async (name) => {
    const response = await send(encoders[name](json) as Uint8Array<ArrayBuffer>, {
      ...typed,
      'content-encoding': name.toUpperCase(),
    });
    expect([response.status, await response.json()]).toMatchObject([200, { count: 1 }]);
  });

  it.each(names)('a small %s body that unpacks to more than the limit is 413', async (name) => {
    const bomb = encoders[name](Buffer.alloc(256 * bodyBytesMax, ' ')) as Uint8Array<ArrayBuffer>;
    expect(bomb.length).toBeLessThan(bodyBytesMax);
    const response = await send(bomb, { ...typed, 'content-encoding': name });
    expect(response.status).toBe(413);
    expect((await answerOf(response)).error.message).toMatch(/65536 bytes/);
  });

  it.each(names)('what is no %s, or only its beginning, is 400', async (name) => {
    const whole = encoders[name](json);
    for (const bytes of [Buffer.from(json), whole.subarray(0, whole.length - 3), Buffer.alloc(0)]) {
      const response = await send(bytes as Uint8Array<ArrayBuffer>, { ...typed, 'content-encoding': name });
      expect(response.status).toBe(400);
      expect((await answerOf(response)).error.message).toMatch(/not valid|empty/);
    }
  });

  it('identity and nothing are the body as it is', async () => {
    for (const name of ['identity', ''])
      expect((await send(json, { ...typed, 'content-encoding': name })).status).toBe(200);
  });

  it.each(['zstd', 'gzip, gzip', 'compress'])('%s is 415 with what is known', async (name) => {
    const response = await send(json, { ...typed, 'content-encoding': name });
    expect(response.status).toBe(415);
    expect(response.headers.get('accept-encoding')).toBe('gzip, deflate, br');
  });
});

describe('paths', () => {
  it.each(['/tokenize/', '//tokenize', '/tokenize//', '/%74okenize', '/tokenize/?x=1'])(
    '%s is /tokenize',
    async (path) => {
      expect((await send(json, typed, path)).status).toBe(200);
    },
  );

  it.each(['/v1//chat/completions/', '//v1/chat/completions'])('%s generates', async (path) => {
    const body = JSON.stringify({ messages: [{ role: 'user', content: 'Hi' }] });
    expect((await send(body, typed, path)).status).toBe(200);
  });

  it.each(['/health/', '/v1/models/', '/v1/models/demo/', '/v1/models/d%65mo', '/'])(
    'GET %s is served',
    async (path) => {
      expect((await fetch(test.url + path)).status).toBe(200);
    },
  );

  it.each(['/%', '/%ff', '/%00', '/tokenize/x'])('%s is 404', async (path) => {
    expect((await fetch(test.url + path)).status).toBe(404);
  });

  it('keys are asked for however a path is written', async () => {
    const guarded = await startTestServer(say('hello'), { http: { apiKeys: ['sesame'] } });
    try {
      for (const path of [
        '/v1/models',
        '/v1/models/',
        '//v1/models',
        '/v1/%6dodels',
        '/health/../v1/models',
        '/routes/',
      ])
        expect((await fetch(guarded.url + path)).status).toBe(401);
      for (const path of ['/health', '/health/', '//health'])
        expect((await fetch(guarded.url + path)).status).toBe(200);
    } finally {
      await guarded.close();
    }
  });
});

describe('methods', () => {
  it('HEAD is GET without a body', async () => {
    for (const path of ['/health', '/v1/models', '/metrics']) {
      const response = await fetch(test.url + path, { method: 'HEAD' });
      expect([response.status, await response.text()]).toEqual([200, '']);
    }
    expect((await fetch(`${test.url}/v1/completions`, { method: 'HEAD' })).status).toBe(405);
  });
});

describe('HTTP/1.0', () => {
  it('is served without a Host', async () => {
    expect(await raw('GET /health HTTP/1.0\r\n\r\n')).toMatch(/^HTTP\/1\.1 200 /);
    const head = `POST /v1/completions HTTP/1.0\r\ncontent-type: application/json\r\n`;
    const whole = await raw(`${head}content-length: ${json.length}\r\n\r\n${json}`);
    expect(whole).toMatch(/^HTTP\/1\.1 200 /);
    expect(whole).toContain('"text":"hello"');
  });

  it('streams until the connection ends', async () => {
    const body = JSON.stringify({ prompt: 'Hi', stream: true });
    const head = 'POST /v1/completions HTTP/1.0\r\ncontent-type: application/json\r\n';
    const text = await raw(`${head}content-length: ${body.length}\r\n\r\n${body}`);
    expect(text).toMatch(/^HTTP\/1\.1 200 /);
    expect(text).not.toMatch(/transfer-encoding/i);
    expect(text.trimEnd().endsWith('data: [DONE]')).toBe(true);
  });

  it('but HTTP/1.1 needs one', async () => {
    expect(await raw('GET /health HTTP/1.1\r\n\r\n')).toMatch(/^HTTP\/1\.1 400 /);
  });
});

/** All that comes back until the server ends the connection. */
async function raw(text: string): Promise<string> {
  const socket = net.connect(test.server.port, '127.0.0.1');
  let received = '';
  socket.on('data', (bytes) => {
    received += bytes;
  });
  socket.write(text);
  await once(socket, 'close');
  return received;
}
