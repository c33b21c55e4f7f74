/** How exchanges end when something else ends first: the socket, the server, the client's patience to send.
 *  Raw sockets throughout. */
import net from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Clock, systemClock } from '../../src/base/clock.js';
import { say, startTestServer, type TestServer } from './demo-server.js';

const bodyBytesMax = 1 << 20;
let test: TestServer;
beforeEach(async () => {
  test = await startTestServer(say('hello there'), { bodyBytesMax, http: { apiKeys: ['key'] } });
});
afterEach(async () => {
  await test.close();
  expect(test.gateway.activeCount).toBe(0);
});

const endless = { messages: [{ role: 'user', content: 'Hi' }], ignore_eos: true, max_tokens: 400 };
const chatPath = '/v1/chat/completions';

/** The machine may be busy. */
const patient = { timeout: 15_000 };

interface Shape {
  readonly headers?: readonly string[];
  readonly version?: '1.0' | '1.1';
}

function post(route: string, body: object | string, { headers = [], version = '1.1' }: Shape = {}): string {
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  const all = ['host: x', 'authorization: Bearer key', 'content-type: application/json', ...headers];
  return `POST ${route} HTTP/${version}\r\n${all.join('\r\n')}\r\ncontent-length: ${Buffer.byteLength(text)}\r\n\r\n${text}`;
}

class Client {
  readonly socket: net.Socket;
  readonly closed: Promise<string>;
  received = '';
  error: NodeJS.ErrnoException | null = null;

  constructor(options: Partial<net.TcpNetConnectOpts> = {}) {
    this.socket = net.connect({ ...options, port: test.server.port, host: '127.0.0.1' });
    this.socket.on('data', (bytes) => {
      this.received += bytes;
    });
    this.socket.on('error', (error) => {
      this.error = error;
    });
    this.closed = new Promise((resolve) => this.socket.on('close', () => resolve(this.received)));
  }

  send(text: string | Buffer): this {
    this.socket.write(text);
    return this;
  }
}

describe('a socket that is gone', () => {
  it.each([true, false])('ends its request, and none of its pipeline begins (stream: %s)', async (stream) => {
    test.gateway.script = () => [70];
    test.gateway.stepMs = 20;
    const one = post(chatPath, { ...endless, stream });
    const client = new Client().send(one + one + one);
    await expect.poll(() => test.gateway.activeCount, patient).toBe(1);
    await expect.poll(() => test.gateway.eventCount, patient).toBeGreaterThan(12);
    client.socket.destroy();
    await expect.poll(() => test.gateway.activeCount, patient).toBe(0);
    expect(test.gateway.cancelledIds).toHaveLength(1);
    expect(test.gateway.submitted).toHaveLength(1);
    expect(test.gateway.eventCount).toBeLessThan(400);
  });

  it('ends also one that has more to say than fits', async () => {
    test.gateway.script = () => [70];
    const large = post('/v1/completions', {
      prompt: 'a',
      stream: true,
      ignore_eos: true,
      max_tokens: 400,
      n: 50,
      logprobs: 20,
    });
    const client = new Client();
    client.socket.pause();
    client.send(large + large);
    await expect.poll(() => test.gateway.activeCount, patient).toBe(1);
    await systemClock.sleep(100);
    client.socket.destroy();
    await expect.poll(() => test.gateway.activeCount, patient).toBe(0);
  });
});

describe('a client that wants the connection closed', () => {
  it.each([
    ['streamed, Connection: close', true, { headers: ['connection: close'] }],
    ['whole, Connection: close', false, { headers: ['connection: close'] }],
    ['streamed, HTTP/1.0', true, { version: '1.0' }],
    ['whole, HTTP/1.0', false, { version: '1.0' }],
  ] as const)('has it closed after its answer: %s', async (_name, stream, shape) => {
    const received = await new Client().send(post(chatPath, { ...endless, max_tokens: 3, stream }, shape))
      .closed;
    expect(received).toMatch(/^HTTP\/1\.1 200 OK/);
    expect(received).toMatch(/\r\nconnection: close\r\n/i);
    expect(received).toContain(stream ? 'data: [DONE]\n\n' : '"finish_reason":"length"');
  });

  it('and one that does not say so keeps it after a stream', async () => {
    const client = new Client().send(post(chatPath, { ...endless, max_tokens: 3, stream: true }));
    await expect.poll(() => client.received, patient).toContain('[DONE]');
    expect(client.received).toMatch(/\r\nconnection: keep-alive\r\n/i);
    client.send(post('/tokenize', { prompt: 'Hi' }));
    await expect.poll(() => client.received, patient).toContain('"tokens"');
    client.socket.destroy();
  });
});

describe('the end of the server', () => {
  it.each([true, false])('tells who is still being answered (stream: %s)', async (stream) => {
    test.gateway.script = () => [70];
    test.gateway.stepMs = 20;
    const client = new Client().send(post(chatPath, { ...endless, stream }));
    await expect.poll(() => test.gateway.eventCount, patient).toBeGreaterThan(3);
    await test.server.close(50);
    const received = await client.closed;
    const error =
      '{"error":{"message":"The server is shutting down","type":"server_error","param":null,"code":"unavailable"}}';
    if (stream) expect(received).toMatch(/^HTTP\/1\.1 200/);
    else expect(received).toMatch(/^HTTP\/1\.1 503/);
    expect(received).toContain(stream ? `data: ${error}\n\n\r\n` : error);
    if (stream) expect(received).toMatch(/data: \[DONE\]\n\n\r\n0\r\n\r\n$/);
    expect(client.error).toBeNull();
  });

  it('does not wait for one that reads nothing, nor for what it has sent behind it', async () => {
    test.gateway.script = () => [70];
    const large = post('/v1/completions', {
      prompt: 'a',
      stream: true,
      ignore_eos: true,
      max_tokens: 400,
      n: 50,
      logprobs: 20,
    });
    const client = new Client();
    client.socket.pause();
    client.send(large + large);
    await expect.poll(() => test.gateway.activeCount, patient).toBe(1);
    await test.server.close(50);
    expect(test.gateway.activeCount).toBe(0);
    client.socket.destroy();
  });
});

/** Sends everything, as clients do that look at the answer only then; slowly enough for the server to have
 *  answered long before. */
async function insist(head: string, byteCount: number): Promise<Client> {
  const client = new Client({ allowHalfOpen: true }).send(head);
  const piece = Buffer.alloc(1 << 18, 'x');
  for (let left = byteCount; left > 0 && !client.socket.destroyed; left -= piece.length) {
    const isTaken = client.socket.write(piece.subarray(0, left));
    if (!isTaken && !client.socket.destroyed)
      await new Promise((resolve) => client.socket.once('drain', resolve).once('close', resolve));
    await systemClock.sleep(1);
  }
  return client;
}

describe('an answer before the body has been read', () => {
  const byteCount = 9 * bodyBytesMax;
  it.each([
    ['413', chatPath, 'application/json', 'key'],
    ['401', chatPath, 'application/json', 'wrong'],
    ['404', '/nowhere', 'application/json', 'key'],
    ['405', '/health', 'application/json', 'key'],
    ['415', chatPath, 'application/xml', 'key'],
    ['503', chatPath, 'application/json', 'key'],
  ])('reaches a client that sends its whole body first: %s', async (status, route, type, key) => {
    if (status === '503') test.gateway.healthNow = { status: 'loading', detail: '' };
    for (const more of ['', 'connection: close\r\n']) {
      const head = `POST ${route} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${key}\r\ncontent-type: ${type}\r\n${more}content-length: ${byteCount}\r\n\r\n`;
      const client = await insist(head, byteCount);
      await expect.poll(() => client.received, patient).toContain('"error":');
      expect(client.received).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
      expect(client.error).toBeNull();
      client.socket.destroy();
    }
  });

  it('reaches a client that waits for it before it sends, and leaves the connection usable', async () => {
    const body = 'x'.repeat(1000);
    const client = new Client().send(post('/nowhere', body).slice(0, -500));
    await expect.poll(() => client.received, patient).toContain('"error":');
    client.send(body.slice(500)).send(post('/tokenize', { prompt: 'Hi' }));
    await expect.poll(() => client.received, patient).toContain('"tokens"');
    client.socket.destroy();
  });

  it('reaches a client that does not speak HTTP, once, however much it says', async () => {
    for (let i = 0; i < 5; i++) {
      const client = await insist('nonsense\r\n\r\n', 1 << 20);
      client.socket.end();
      expect((await client.closed).split('HTTP/1.1 400 Bad Request').length - 1).toBe(1);
      expect(client.error).toBeNull();
    }
  });

  it('does not get into another answer of the connection', async () => {
    test.gateway.script = () => [70];
    test.gateway.stepMs = 5;
    const client = new Client().send(post(chatPath, { ...endless, stream: true }));
    await expect.poll(() => client.received, patient).toContain('data: ');
    client.send('nonsense\r\n\r\n');
    expect(await client.closed).not.toContain('HTTP/1.1 400');
    await expect.poll(() => test.gateway.activeCount, patient).toBe(0);
  });
});

describe('a client that never stops sending', () => {
  it('is cut some time after its answer', async () => {
    const clock: Clock = {
      nowMs: () => systemClock.nowMs(),
      wallMs: () => systemClock.wallMs(),
      sleep: (delayMs) => systemClock.sleep(delayMs),
      yield: () => systemClock.yield(),
      after: (delayMs, fire) => systemClock.after(delayMs / 300, fire),
    };
    const own = test;
    test = await startTestServer(say('hello'), { clock });
    try {
      const head = 'POST /nowhere HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n';
      const client = new Client().send(head);
      const dripping = setInterval(() => client.send('1\r\nx\r\n'), 5);
      expect(await client.closed).toContain('"code":"not_found"');
      clearInterval(dripping);
      const mute = new Client().send('nonsense\r\n\r\n');
      expect(await mute.closed).toContain('400 Bad Request');
    } finally {
      await test.close();
      test = own;
    }
  });
});
