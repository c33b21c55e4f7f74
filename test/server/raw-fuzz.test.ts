/** What comes over a socket and is no decent HTTP, from many clients at once that leave when they like:
 *  whatever it is, the server goes on answering others, says nothing of an error of its own, and keeps
 *  nothing. Seeded. */
import net from 'node:net';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { Prng } from '../../src/base/prng.js';
import { startTestServer, type TestServer } from './demo-server.js';

const seed = 20_261_130;
const clientCount = process.env.TWOSTROKE_TEST === 'full' ? 5000 : 150;
const atOnce = 25;

let test: TestServer;
beforeAll(async () => {
  test = await startTestServer(() => [70, 71, 72], { bodyBytesMax: 1 << 16 });
  test.gateway.stepMs = 1;
});
afterAll(() => test.close());

const bodies = [
  '{"prompt":"a","max_tokens":20,"ignore_eos":true,"stream":true}',
  '{"prompt":["a","b","c"],"n":2,"max_tokens":8,"ignore_eos":true}',
  '{"messages":[{"role":"user","content":"Hi"}],"max_tokens":9}',
  '{"prompt":"\\ud800\\u0000","stop":["\\udc00"],"cache_salt":"\\ud800","__proto__":{"n":2},"constructor":1}',
  `{"messages":[{"role":"user","content":"Hi","name":${'['.repeat(300)}`,
  '{"prompt":1e999,"prompt":"a","seed":-1e400,"logit_bias":{"__proto__":1}}',
  '{"messages":[{"role":"user","content":[{"type":"text","text":"\\u0000"}]}],"chat_template_kwargs":{"messages":null,"__proto__":1}}',
  '[',
  '',
  '\u0000\u0001',
];
const heads = [
  'POST /v1/completions HTTP/1.1',
  'POST /v1/chat/completions HTTP/1.1',
  'POST //v1//completions/ HTTP/1.0',
  'POST http://elsewhere/tokenize HTTP/1.1',
  'POST http://[ HTTP/1.1',
  'GET /v1/models/%ZZ%00 HTTP/1.1',
  'GET /routes?count=-1e309&id=%00 HTTP/1.1',
  'OPTIONS * HTTP/1.1',
  'HEAD /health HTTP/1.1',
  'CONNECT a:1 HTTP/1.1',
  'PRI * HTTP/2.0',
];
const headers = [
  'host: x',
  'host: a b',
  'content-type: application/json',
  'content-type: application/json',
  'content-encoding: gzip',
  'content-type: text/plain',
  'transfer-encoding: chunked',
  'expect: 100-continue',
  'expect: something',
  'connection: upgrade\r\nupgrade: h2c',
  'connection: close',
  'content-length: 5',
  'content-length: 99999999999',
  'x-request-id: \t\x7f',
  `x-long: ${'x'.repeat(20_000)}`,
];

function request(prng: Prng): string {
  const body = prng.pick(bodies);
  const lines = [
    prng.pick(heads),
    'host: x',
    ...Array.from({ length: prng.integer(0, 3) }, () => prng.pick(headers)),
  ];
  const isHonest = prng.uniform() < 0.6;
  const chunked = `${body.length.toString(16)};ext\r\n${body}\r\n0\r\ntrailer: x\r\n\r\n`;
  if (isHonest) lines.push('content-type: application/json', `content-length: ${Buffer.byteLength(body)}`);
  return `${lines.join('\r\n')}\r\n\r\n${isHonest ? body : prng.pick([body, chunked, 'zz\r\n', ''])}`;
}

/** What came back until the client left or was left. */
function client(prng: Prng): Promise<string> {
  const bytes = Buffer.from(
    Array.from({ length: prng.integer(1, 4) }, () => request(prng)).join(''),
    'latin1',
  );
  if (prng.uniform() < 0.2) bytes[prng.integer(0, bytes.length - 1)] = prng.integer(0, 255);
  const cuts = [
    0,
    prng.integer(0, bytes.length),
    prng.uniform() < 0.8 ? bytes.length : prng.integer(0, bytes.length),
  ].sort((a, b) => a - b);
  const patienceMs = prng.integer(0, 120);
  const waitsForAnswer = prng.uniform() < 0.3;
  const leave = prng.pick(['end', 'destroy', 'resetAndDestroy'] as const);
  return new Promise((resolve) => {
    let received = '';
    const socket = net.connect(test.server.port, '127.0.0.1');
    socket.on('data', (part) => {
      received += part.toString('latin1');
    });
    socket.on('error', () => undefined);
    socket.on('close', () => resolve(received));
    socket.on('end', () => socket.destroy());
    for (let i = 1; i < cuts.length; i++) socket.write(bytes.subarray(cuts[i - 1], cuts[i]));
    const leaveSoon = () => {
      setTimeout(() => socket[leave](), patienceMs);
      setTimeout(() => socket.destroy(), patienceMs + 100);
    };
    if (!waitsForAnswer) leaveSoon();
    else {
      socket.once('data', leaveSoon);
      setTimeout(leaveSoon, 5000).unref(); // there may be none
    }
  });
}

it('keeps answering, and keeps nothing', { timeout: 600_000 }, async () => {
  const prng = new Prng(seed);
  const statuses = new Set<string>();
  for (let done = 0; done < clientCount; done += atOnce) {
    const answers = await Promise.all(Array.from({ length: atOnce }, () => client(prng)));
    for (const text of answers)
      for (const [, status = ''] of text.matchAll(/HTTP\/1\.1 (\d+)/g)) statuses.add(status);
    expect((await fetch(`${test.url}/health`)).status).toBe(200);
  }
  expect([...statuses].filter((status) => status >= '500')).toEqual([]);
  expect([...statuses]).toEqual(expect.arrayContaining(['200', '400']));
  await vi.waitFor(() => expect([test.gateway.activeCount, test.gateway.placeCount]).toEqual([0, 0]), {
    timeout: 15_000,
  });
});
