/** What answers keep until their clients have read them: bounded for all together. */
import net from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { OverloadedError } from '../../src/control/admission.js';
import { bytesPerScore, EventQueue } from '../../src/control/generation-stream.js';
import type { TokenEvent } from '../../src/engine/token-event.js';
import { AnswerRoom } from '../../src/server/answer-room.js';
import { say, startTestServer, type TestServer } from './demo-server.js';

const patient = { timeout: 15_000 };
const scores = (count: number) => count * bytesPerScore;

describe('the room', () => {
  it('refuses scores early, lets what runs go on, and ends what keeps most when it is full', () => {
    const room = new AnswerRoom(1000);
    const cut: string[] = [];
    const open = (name: string, byteCount: number | null) => room.open(byteCount, () => cut.push(name));
    const small = open('small', 100);
    const large = open('large', 400);
    expect(() => open('late', 1)).toThrow(OverloadedError);
    const plain = open('plain', null); // asks for no scores
    large.add(200);
    small.add(100);
    plain.add(200);
    expect([room.byteCount, ...cut]).toEqual([1000]);
    small.add(1);
    expect([room.byteCount, ...cut]).toEqual([401, 'large']);
    large.add(500); // it is ending
    large.end();
    expect(room.byteCount).toBe(401);
    for (const share of [small, plain, small]) share.end();
    expect(room.byteCount).toBe(0);
    expect(() => open('later', 500)).not.toThrow();
  });

  it('counts what waits in a stream until it is read or nobody wants it', async () => {
    let keptByteCount = 0;
    const kept = {
      add: (byteCount: number) => {
        keptByteCount += byteCount;
      },
    };
    const event = {
      kind: 'tokens',
      requestId: 'a',
      choiceIndex: 0,
      tokens: [{ tokenId: 1, logprob: { logprob: -1, top: [[1, -1]] } }],
    } as unknown as TokenEvent;
    const queue = new EventQueue(() => {}, kept);
    const read = queue.next();
    queue.push(event);
    await read;
    expect(keptByteCount).toBe(0);
    for (let i = 0; i < 10; i++) queue.push(event);
    const ofOne = keptByteCount / 10;
    expect(ofOne).toBeGreaterThan(scores(2));
    for (let i = 0; i < 7; i++) await queue.next();
    expect(keptByteCount).toBe(3 * ofOne);
    queue.clear();
    expect(keptByteCount).toBe(0);
  });
});

describe('a server', () => {
  let test: TestServer;
  const sockets: net.Socket[] = [];
  beforeEach(async () => {
    test = await startTestServer(say('hello'), { bodyBytesMax: 8 << 20, answerBytesMax: scores(100_000) });
  });
  afterEach(async () => {
    for (const socket of sockets.splice(0)) socket.destroy();
    await expect.poll(() => [test.gateway.activeCount, test.gateway.placeCount], patient).toEqual([0, 0]);
    await test.close();
  });

  function connect(body: object, isReading: boolean): { socket: net.Socket; received: () => string } {
    const socket = net.connect(test.server.port, '127.0.0.1');
    let received = '';
    if (isReading) {
      socket.on('data', (bytes) => {
        received += bytes;
      });
    } else socket.pause();
    socket.on('error', () => undefined);
    const text = JSON.stringify(body);
    const head = `host: x\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(text)}`;
    socket.write(`POST /v1/completions HTTP/1.1\r\n${head}\r\n\r\n${text}`);
    sockets.push(socket);
    return { socket, received: () => received };
  }

  it('says 429 before it computes scores of prompts that many answers would keep', async () => {
    test.gateway.stepMs = 5;
    const scored = {
      prompt: Array(4).fill(Array(450).fill(7)),
      prompt_logprobs: 20,
      max_tokens: 60,
      ignore_eos: true,
    };
    const first = connect(scored, true); // 37,800 scores
    await expect.poll(() => test.gateway.activeCount, patient).toBe(4);
    const second = await test.post('/v1/completions', scored);
    expect(second.status).toBe(429);
    expect(second.headers.get('retry-after')).toBe('1');
    expect(await second.text()).toMatch(/log-probabilities take most of it/);
    expect(test.gateway.submitted).toHaveLength(4);
    expect((await test.post('/v1/completions', { prompt: 'a', max_tokens: 2 })).status).toBe(200);
    await expect.poll(first.received, patient).toContain('"prompt_logprobs"');
    await expect.poll(async () => (await test.post('/v1/completions', scored)).status, patient).toBe(200);
  });

  it('ends the answer that keeps most when nothing is left: a 429 while it is whole', async () => {
    test.gateway.stepMs = 1;
    const greedy = { prompt: 'a', n: 100, logprobs: 20, max_tokens: 200, ignore_eos: true };
    const modest = { prompt: 'a', logprobs: 20, max_tokens: 500, ignore_eos: true, stream: true };
    const large = connect(greedy, true);
    const small = connect(modest, true);
    await expect.poll(large.received, patient).toMatch(/^HTTP\/1\.1 429/);
    await expect.poll(small.received, patient).toContain('[DONE]');
    expect(small.received()).not.toContain('"error"');
  });

  it('ends a stream with an error when it keeps most', async () => {
    test.gateway.stepMs = 1;
    const body = { prompt: 'a', n: 128, logprobs: 20, max_tokens: 500, ignore_eos: true, stream: true };
    const { received } = connect(body, true);
    await expect.poll(() => test.gateway.eventCount, patient).toBeGreaterThan(1);
    test.gateway.submitted[0]?.kept?.add(scores(200_000));
    await expect.poll(() => test.gateway.activeCount, patient).toBe(0);
    await expect.poll(received, patient).toContain('[DONE]');
    expect(received()).toContain('"code":"rate_limit_exceeded"}}');
  });
});
