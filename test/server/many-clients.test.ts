/** What the bodies of many clients take together, and requests that come many at a time on one connection. */
import { once } from 'node:events';
import net from 'node:net';
import { setImmediate as turn } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { OverloadedError } from '../../src/control/admission.js';
import { BodyRoom } from '../../src/server/body-room.js';
import { connectionCountMax } from '../../src/server/connection-limit.js';
import { say, startTestServer, type TestServer } from './demo-server.js';

const bodyBytesMax = 1 << 20;
const patient = { timeout: 15_000 };
let test: TestServer;
const sockets: net.Socket[] = [];
beforeEach(async () => {
  test = await startTestServer(say('hello'), { bodyBytesMax });
});
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await test.close();
});

function connect(text: string): { socket: net.Socket; received: () => string } {
  const socket = net.connect(test.server.port, '127.0.0.1');
  let received = '';
  socket.on('data', (bytes) => {
    received += bytes;
  });
  socket.on('error', () => undefined);
  socket.write(text);
  sockets.push(socket);
  return { socket, received: () => received };
}

describe('the room for bodies', () => {
  it('is bounded for all together, keeps nothing of who has ended, and always takes small ones', async () => {
    const room = new BodyRoom(bodyBytesMax, systemClock);
    const waiting: (() => void)[] = [];
    const hold = (byteCount: number) =>
      room.with((share) => {
        share.grow(byteCount);
        return new Promise<void>((resolve) => waiting.push(resolve));
      });
    const held = Array.from({ length: 16 }, () => hold(bodyBytesMax));
    await expect(hold(65_537)).rejects.toThrow(OverloadedError);
    held.push(hold(65_536));
    for (const resolve of waiting) resolve();
    await Promise.all(held);
    expect(room.byteCount).toBe(0);
    await expect(room.with(() => Promise.reject(new Error('broken')))).rejects.toThrow('broken');
    expect(room.byteCount).toBe(0);
  });

  it('unpacks one body at a time, also after one that failed', async () => {
    const room = new BodyRoom(bodyBytesMax, systemClock);
    let [now, most] = [0, 0];
    const unpack = (fails: boolean) =>
      room.inTurn(async () => {
        most = Math.max(most, ++now);
        await turn();
        now--;
        if (fails) throw new Error('broken');
      });
    const outcomes = await Promise.allSettled([false, true, false, true, false].map(unpack));
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(3);
    expect(most).toBe(1);
  });

  it('parses large bodies of many clients in turns of their own', async () => {
    const yields = vi.spyOn(systemClock, 'yield');
    const count = 10;
    const body = JSON.stringify({ prompt: 'Hi', metadata: 'x'.repeat(100_000) });
    const asked = Array.from({ length: count }, () => test.post('/tokenize', body));
    expect((await Promise.all(asked)).map(({ status }) => status)).toEqual(Array(count).fill(200));
    const turnCount = 4 * count; // its own, to measure it, to decode it, to parse it
    expect(yields).toHaveBeenCalledTimes(turnCount);
    await test.post('/tokenize', { prompt: 'Hi' });
    expect(yields).toHaveBeenCalledTimes(turnCount);
    yields.mockRestore();
  });

  it('refuses large bodies of clients that do not finish with a 429, and has room again when they leave', async () => {
    const head = `POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${bodyBytesMax}\r\n\r\n`;
    const slow = Array.from({ length: 24 }, () => connect(head + ' '.repeat(bodyBytesMax - 1)));
    const refused = () => slow.filter(({ received }) => received().startsWith('HTTP/1.1 429')).length;
    await expect.poll(refused, patient).toBeGreaterThanOrEqual(8);
    expect(refused()).toBeLessThan(24);
    expect((await test.post('/tokenize', { prompt: 'small' })).status).toBe(200);
    const large = { prompt: 'a', metadata: 'x'.repeat(100_000) };
    for (const { socket } of slow) socket.destroy();
    await expect.poll(async () => (await test.post('/tokenize', large)).status, patient).toBe(200);
  });

  it('counts large bodies until what they ask for has ended', async () => {
    test.gateway.script = () => [70];
    test.gateway.stepMs = 20;
    const body = JSON.stringify({
      prompt: 'a',
      metadata: 'x'.repeat(1_000_000),
      stream: true,
      ignore_eos: true,
      max_tokens: 400,
    });
    const head = `POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n`;
    const held = Array.from({ length: 16 }, () => connect(head + body));
    await expect.poll(() => test.gateway.activeCount, patient).toBe(16);
    expect((await test.post('/tokenize', body)).status).toBe(429);
    expect((await test.post('/tokenize', { prompt: 'small' })).status).toBe(200);
    for (const { socket } of held) socket.destroy();
    await expect.poll(async () => (await test.post('/tokenize', body)).status, patient).toBe(200);
  });

  it('reads compressed bodies of many clients at once', async () => {
    const body = gzipSync(
      JSON.stringify({ prompt: 'Hi', metadata: 'x'.repeat(500_000) }),
    ) as Uint8Array<ArrayBuffer>;
    const headers = { 'content-type': 'application/json', 'content-encoding': 'gzip' };
    const asked = Array.from({ length: 20 }, () =>
      fetch(`${test.url}/tokenize`, { method: 'POST', headers, body }),
    );
    expect((await Promise.all(asked)).map(({ status }) => status)).toEqual(Array(20).fill(200));
  });
});

describe('a pipeline', () => {
  const get = 'GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n';
  const answerCount = (text: string) => text.split('HTTP/1.1 200').length - 1;

  it('holds up nobody by its length: each request of it begins in a turn of its own', async () => {
    const health = vi.spyOn(test.gateway, 'health');
    let turnCount = 0;
    let isDone = false;
    const counting = (async () => {
      for (; !isDone; turnCount++) await turn();
    })();
    const turnsAtCall: number[] = [];
    health.mockImplementation(() => {
      turnsAtCall.push(turnCount);
      return { status: 'ok', detail: '' };
    });
    const { received } = connect(get.replace('/metrics', '/health').repeat(80));
    await expect.poll(() => answerCount(received()), patient).toBe(80);
    isDone = true;
    await counting;
    const perTurn = new Map<number, number>();
    for (const at of turnsAtCall) perTurn.set(at, (perTurn.get(at) ?? 0) + 1);
    expect(Math.max(...perTurn.values())).toBeLessThanOrEqual(4); // the handler looks twice
    health.mockRestore();
  });

  it('whose client reads nothing keeps one answer, not all of them', async () => {
    const big = 'x'.repeat(8 << 20);
    const health = vi.spyOn(test.gateway, 'health').mockReturnValue({ status: 'ok', detail: big });
    const { socket } = connect('');
    socket.pause();
    socket.write(get.replace('/metrics', '/health').repeat(50));
    await expect.poll(() => health.mock.calls.length, patient).toBeGreaterThan(0);
    for (let i = 0; i < 20; i++) await fetch(`${test.url}/version`);
    expect(health.mock.calls.length).toBeLessThanOrEqual(2); // the handler looks twice
    health.mockRestore();
  });

  it('of more requests than anybody has reason to send ends its connection', async () => {
    const { socket } = connect(get.repeat(1000));
    await once(socket, 'close');
    expect((await fetch(`${test.url}/health`)).status).toBe(200);
  });
});

describe('more connections than there may be', () => {
  it('end the oldest idle ones, and none that is being answered', async () => {
    await test.close();
    test = await startTestServer(() => [70], { http: { connectionCountMax: 10 } });
    test.gateway.stepMs = 20;
    const body = JSON.stringify({ prompt: 'a', stream: true, ignore_eos: true, max_tokens: 50 });
    const stream = connect(
      `POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    );
    await expect.poll(stream.received, patient).toContain('data: ');
    const idle = Array.from({ length: 30 }, () => connect(''));
    const openCount = () => idle.filter(({ socket }) => !socket.destroyed).length;
    await expect.poll(openCount, patient).toBe(9);
    const late = connect('GET /health HTTP/1.1\r\nhost: x\r\n\r\n');
    await expect.poll(late.received, patient).toContain('200 OK');
    expect(openCount()).toBe(8);
    await expect.poll(stream.received, patient).toContain('[DONE]');
  });

  it('end the oldest that has not sent all of its request when none is idle', async () => {
    await test.close();
    test = await startTestServer(() => [70], { http: { connectionCountMax: 10 } });
    test.gateway.stepMs = 20;
    const head =
      'POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ';
    const body = JSON.stringify({ prompt: 'a', stream: true, ignore_eos: true, max_tokens: 50 });
    const stream = connect(`${head}${body.length}\r\n\r\n${body}`);
    await expect.poll(stream.received, patient).toContain('data: ');
    const slow = Array.from({ length: 30 }, () => connect(`${head}100\r\n\r\n{`));
    const openCount = () => slow.filter(({ socket }) => !socket.destroyed).length;
    await expect.poll(openCount, patient).toBe(9);
    const late = connect('GET /health HTTP/1.1\r\nhost: x\r\n\r\n');
    await expect.poll(late.received, patient).toContain('200 OK');
    await expect.poll(stream.received, patient).toContain('[DONE]');
  });

  it('are as many as the open-file limit leaves beside what the server needs itself', () => {
    const limits = (soft: string) =>
      `Limit  Soft Limit  Hard Limit  Units\nMax open files            ${soft}  1048576   files\n`;
    expect(connectionCountMax(limits('1024'))).toBe(768);
    expect(connectionCountMax(limits('200'))).toBe(100);
    expect(connectionCountMax(limits('unlimited'))).toBe(Number.POSITIVE_INFINITY);
    expect(connectionCountMax('')).toBe(Number.POSITIVE_INFINITY);
    expect(connectionCountMax()).toBeGreaterThan(0);
  });
});
