/** The bus keeps order, deadlines and bounds, however the bytes are cut and whatever the other side sends. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { createConnection, createServer, type Socket } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { InvalidRequestError } from '../../src/base/errors.js';
import { silentLogger } from '../../src/base/log.js';
import { Prng } from '../../src/base/prng.js';
import { type BusConnection, type BusHandlers, type BusLimits, defaultBusLimits } from '../../src/bus/bus.js';
import { encodeFrame, type Frame, FrameDecoder } from '../../src/bus/frames.js';
import type { StrangerLimits } from '../../src/bus/strangers.js';
import { connectUnix, listenUnix } from '../../src/bus/unix-socket.js';

const options = { clock: systemClock, logger: silentLogger };
const quiet: BusHandlers = { onRequest: async () => null, onEvent: () => {} };
const closers: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0)) await close();
});

async function pair(
  serverSide: Partial<BusHandlers>,
  clientSide: Partial<BusHandlers> = {},
  limits: BusLimits = defaultBusLimits,
) {
  let accepted: (() => BusConnection) | undefined;
  const handlers = { ...quiet, ...serverSide };
  const server = await listenUnix({ ...options, limits }, (connection) => ({
    ...handlers,
    onRequest: (kind, body) => {
      accepted ??= connection; // not that of another server, which only looks whether this one lives
      return handlers.onRequest(kind, body);
    },
  }));
  closers.push(() => server.close());
  const client = await connectUnix(server.address, { ...options, limits }, { ...quiet, ...clientSide });
  await client.request('hello', null, 5000);
  return { server, client, serverConnection: accepted!() };
}

async function rawSocket(address: string): Promise<Socket> {
  const socket = createConnection(address);
  socket.on('error', () => {});
  await new Promise((resolve) => socket.once('connect', resolve));
  return socket;
}

function rawFrame(text: string): Buffer {
  const bytes = Buffer.alloc(4 + text.length);
  bytes.writeUInt32BE(text.length);
  bytes.write(text, 4);
  return bytes;
}

describe('frames', () => {
  const frames: Frame[] = [
    { t: 'e', k: 'tokens', b: { text: 'žluťoučký 🐎', ids: [1, 2, 3] } },
    { t: 'q', id: 7, k: 'ask', b: null },
    { t: 'r', id: 7, b: { long: 'x'.repeat(5000) } },
    { t: 'x', id: 9, e: { code: 'internal', message: 'no' } },
  ];
  const stream = Buffer.concat(frames.map((frame) => encodeFrame(frame, 1 << 20)));

  it('come out whole however the bytes are cut', () => {
    for (let seed = 1; seed <= 50; seed++) {
      const prng = new Prng(seed);
      const decoder = new FrameDecoder(1 << 20);
      const received: Frame[] = [];
      for (let offset = 0; offset < stream.length; ) {
        const end = Math.min(stream.length, offset + (seed === 1 ? 1 : prng.integer(1, 1 + 40 * seed)));
        received.push(...decoder.push(stream.subarray(offset, end)));
        offset = end;
      }
      expect(received).toEqual(frames);
    }
  });

  it('over the limit are refused on both sides', () => {
    expect(() => encodeFrame(frames[2]!, 1000)).toThrow(/limit is 1000/);
    expect(() => new FrameDecoder(1000).push(encodeFrame(frames[2]!, 1 << 20))).toThrow(/limit is 1000/);
  });

  it.each([
    'not json',
    '[]',
    'null',
    '{"t":"q","k":"x"}',
    '{"t":"e"}',
    '{"t":"z","id":1}',
    '{"t":"x","id":1}',
    '{"t":"x","id":1,"e":{"code":"odd","message":"x"}}',
  ])('malformed %s throws', (text) => {
    expect(() => new FrameDecoder(1000).push(rawFrame(text))).toThrow();
  });
});

describe('unix-socket bus', () => {
  it('answers requests both ways and carries typed errors', async () => {
    const { client, serverConnection } = await pair(
      {
        onRequest: async (kind, body) => {
          if (kind === 'bad') throw new InvalidRequestError('too hot', 'temperature');
          return { kind, body };
        },
      },
      { onRequest: async () => ({ from: 'client' }) },
    );
    expect(await client.request('sum', { a: 1 }, 1000)).toEqual({ kind: 'sum', body: { a: 1 } });
    expect(await serverConnection.request('x', null, 1000)).toEqual({ from: 'client' });
    await expect(client.request('bad', null, 1000)).rejects.toMatchObject({
      code: 'invalid_request',
      param: 'temperature',
    });
  });

  it('delivers events in order', async () => {
    const seen: unknown[] = [];
    const { client } = await pair({ onEvent: (_kind, body) => seen.push((body as { i: number }).i) });
    for (let i = 0; i < 2000; i++) client.send('event', { i });
    await client.request('fence', null, 5000);
    expect(seen).toEqual(Array.from({ length: 2000 }, (_, i) => i));
  });

  it('rejects at the deadline, and ignores the late answer', async () => {
    const { client } = await pair({
      onRequest: async (kind) => {
        if (kind === 'slow') await systemClock.sleep(80);
        return null;
      },
    });
    await expect(client.request('slow', null, 20)).rejects.toMatchObject({ code: 'deadline_exceeded' });
    await systemClock.sleep(100);
    expect(await client.request('fast', null, 1000)).toBeNull();
  });

  it('rejects what is pending when the other side goes away', async () => {
    const { client, serverConnection } = await pair({
      onRequest: (kind) => (kind === 'hello' ? Promise.resolve(null) : new Promise(() => {})),
    });
    const pending = client.request('forever', null, 60_000);
    serverConnection.close('test');
    await expect(pending).rejects.toMatchObject({ code: 'unavailable' });
    await expect(client.request('more', null, 1000)).rejects.toMatchObject({ code: 'unavailable' });
    client.send('event', null); // after the end: dropped, not thrown
    expect(await client.closed).toMatch(/hung up|ECONNRESET/);
  });

  it.each([null, {}, { code: 'no such code', message: 'x' }])(
    'an answer with the error %j ends the request, and the connection',
    async (error) => {
      const server = createServer((socket) => {
        socket.on('error', () => {});
        socket.once('data', () => socket.write(rawFrame(JSON.stringify({ t: 'x', id: 1, e: error }))));
      });
      const folder = mkdtempSync(path.join(os.tmpdir(), 'twostroke-test-'));
      const address = path.join(folder, 'bus.sock');
      await new Promise<void>((resolve) => server.listen(address, resolve));
      const client = await connectUnix(address, options, quiet);
      await expect(client.request('ask', null, 60_000)).rejects.toMatchObject({ code: 'unavailable' });
      expect(await client.closed).toContain('malformed frame');
      server.close();
      rmSync(folder, { recursive: true });
    },
  );

  it('drops a connection that sends rubbish, and only that one', async () => {
    const { server, client } = await pair({});
    for (const rubbish of [
      Buffer.from('GET / HTTP/1.1\r\n\r\n'),
      Buffer.from([0, 0, 0, 2, 0x7b, 0x7b]),
      Buffer.alloc(64, 0xff),
    ]) {
      const socket = await rawSocket(server.address);
      const ended = new Promise((resolve) => socket.once('close', resolve));
      socket.write(rubbish);
      await ended;
    }
    expect(await client.request('still', null, 1000)).toBeNull();
  });

  it('tells congestion and drops a reader that never reads', async () => {
    const limits = { frameBytesMax: 1 << 20, congestedBytes: 1 << 16, queuedBytesMax: 4 << 20 };
    const connections: (() => BusConnection)[] = [];
    const server = await listenUnix({ ...options, limits }, (connection) => {
      connections.push(connection);
      return quiet;
    });
    closers.push(() => server.close());
    const socket = await rawSocket(server.address);
    socket.pause();
    while (connections.length === 0) await systemClock.sleep(1);
    const connection = connections[0]!();
    const filler = { text: 'x'.repeat(100_000) };
    while (!connection.isCongested) connection.send('filler', filler);
    const drained = connection.drained();
    socket.resume();
    await drained;
    expect(connection.isCongested).toBe(false);
    socket.pause();
    for (let i = 0; i < 100 && !connection.isClosed; i++) connection.send('filler', filler);
    expect(await connection.closed).toMatch(/behind/);
    socket.destroy();
  });

  describe('strangers', () => {
    const large = encodeFrame({ t: 'e', k: 'large', b: 'x'.repeat(100_000) }, 1 << 20);
    const hangUp = (socket: Socket) => new Promise<void>((resolve) => socket.once('close', () => resolve()));

    async function listening(strangers?: StrangerLimits) {
      const heard: string[] = [];
      const server = await listenUnix({ ...options, ...(strangers && { strangers }) }, (connection) => ({
        onRequest: async () => {
          connection().identified();
          return null;
        },
        onEvent: (kind) => void heard.push(kind),
      }));
      closers.push(() => server.close());
      return { server, heard };
    }

    it('may send no large frame before they are known', async () => {
      const { server, heard } = await listening();
      const socket = await rawSocket(server.address);
      socket.write(large.subarray(0, 10)); // what it announces is enough
      await hangUp(socket);
      const client = await connectUnix(server.address, options, quiet);
      await client.request('hello', null, 5000);
      client.send('large', { text: 'x'.repeat(100_000) });
      await client.request('again', null, 5000);
      expect(heard).toEqual(['large']);
    });

    it('that stay silent are hung up on, and who is known is not', async () => {
      const { server } = await listening({ countMax: 10, deadlineMs: 30 });
      const client = await connectUnix(server.address, options, quiet);
      await client.request('hello', null, 5000);
      await hangUp(await rawSocket(server.address));
      expect(client.isClosed).toBe(false);
      expect(await client.request('again', null, 5000)).toBeNull();
    });

    it('are few: the newest pushes out the oldest, and nobody who is known', async () => {
      const { server } = await listening({ countMax: 10, deadlineMs: 60_000 });
      const client = await connectUnix(server.address, options, quiet);
      await client.request('hello', null, 5000);
      const sockets: Socket[] = [];
      for (let i = 0; i < 14; i++) sockets.push(await rawSocket(server.address));
      await Promise.all(sockets.slice(0, 4).map((socket) => socket.destroyed || hangUp(socket)));
      expect(await client.request('again', null, 5000)).toBeNull();
      expect(sockets.slice(4).some(({ destroyed }) => destroyed)).toBe(false);
      for (const socket of sockets) socket.destroy();
    });
  });

  it('lives in a private folder and leaves nothing behind', async () => {
    const { server } = await pair({});
    const folder = path.dirname(server.address);
    expect(statSync(folder).mode & 0o777).toBe(0o700);
    await server.close();
    expect(existsSync(folder)).toBe(false);
  });

  describe('its place', () => {
    const before = process.env.TMPDIR;
    const top = mkdtempSync(path.join(os.tmpdir(), 'twostroke-test-'));
    afterEach(() => {
      if (before === undefined) delete process.env.TMPDIR;
      else process.env.TMPDIR = before;
    });
    afterAll(() => rmSync(top, { recursive: true }));

    it.each([
      ['is too long for a socket', path.join(top, 'x'.repeat(90))],
      ['is too long by the name alone', path.join(top, 'y'.repeat(100 - top.length))],
      ['is not there', path.join(top, 'nowhere')],
    ])('when TMPDIR %s: private all the same, nothing beside it, nothing left', async (_what, folder) => {
      if (!folder.endsWith('nowhere')) mkdirSync(folder, { recursive: true });
      process.env.TMPDIR = folder;
      const servers = [(await pair({})).server, (await pair({})).server];
      for (const { address } of servers) {
        expect(statSync(path.dirname(address)).mode & 0o777).toBe(0o700);
        expect(statSync(address).isSocket()).toBe(true);
      }
      expect(servers[0]!.address).not.toBe(servers[1]!.address);
      if (existsSync(folder)) expect(readdirSync(folder)).toEqual([]);
      for (const server of servers) await server.close();
      for (const { address } of servers) expect(existsSync(path.dirname(address))).toBe(false);
    });

    it('is cleared of what killed servers left, and of nothing else', async () => {
      process.env.TMPDIR = top;
      const abandoned = path.join(top, 'twostroke-bus-killed');
      mkdirSync(abandoned);
      const script = `require('node:net').createServer().listen(process.argv[1], () => process.kill(process.pid, 'SIGKILL'))`;
      spawnSync(process.execPath, ['-e', script, path.join(abandoned, 'bus.sock')]);
      expect(readdirSync(abandoned)).toEqual(['bus.sock']);
      mkdirSync(path.join(top, 'twostroke-bus-begun'));
      const { server: living } = await pair({});
      const { server } = await pair({});
      const endMs = systemClock.nowMs() + 10_000;
      while (existsSync(abandoned) && systemClock.nowMs() < endMs) await systemClock.sleep(5);
      const folders = [living, server].map(({ address }) => path.basename(path.dirname(address)));
      expect(
        readdirSync(top)
          .filter((name) => name.startsWith('twostroke-bus-'))
          .sort(),
      ).toEqual([...folders, 'twostroke-bus-begun'].sort());
    });

    it('is never a path that would be cut off', async () => {
      const address = `/${'z'.repeat(120)}/bus.sock`;
      await expect(connectUnix(address, options, quiet)).rejects.toThrow(
        /130 bytes, a socket's path may have 103/,
      );
    });
  });

  it('names the address when nobody listens', async () => {
    await expect(connectUnix('/nowhere/bus.sock', options, quiet)).rejects.toThrow('/nowhere/bus.sock');
  });
});
