/** Whoever reaches a KV receiver's port without its token: costs next to nothing, learns nothing, and keeps
 *  nobody out. */
import { once } from 'node:events';
import { type AddressInfo, createConnection, createServer, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { Prng } from '../../src/base/prng.js';
import { KvLayout } from '../../src/kv/kv-layout.js';
import { ReceiverHandshake, SourceHandshake } from '../../src/transfer/handshake.js';
import { TcpConnector } from '../../src/transfer/tcp.js';
import type { KvReceiver, ReceiverOptions } from '../../src/transfer/tcp-receiver.js';
import { encodeMessage } from '../../src/transfer/wire.js';
import { Side } from './side.js';
import { listenOn, quickLimits } from './tcp-member.js';

const layout = new KvLayout({
  modelName: 'tcp',
  layerCount: 2,
  kvHeadCount: 1,
  headDim: 32,
  blockTokenCount: 16,
  dtype: 'bf16',
});

describe('a receiver', () => {
  let source: Side;
  let target: Side;
  const sockets: Socket[] = [];
  beforeEach(() => {
    source = new Side(layout, 8);
    target = new Side(layout, 8);
  });
  afterEach(async () => {
    for (const socket of sockets.splice(0)) socket.destroy();
    await source.close();
    await target.close();
  });

  async function listening(more: Partial<ReceiverOptions> = {}): Promise<KvReceiver> {
    const receiver = await listenOn(target, 'w1', more);
    target.listeners.push({ workerName: 'w1', address: receiver.address, close: () => receiver.close() });
    return receiver;
  }

  async function stranger(port: number, text: Buffer): Promise<Socket> {
    const socket = createConnection(port, '127.0.0.1');
    socket.on('error', () => {});
    socket.resume();
    sockets.push(socket);
    await once(socket, 'connect');
    socket.write(text);
    return socket;
  }

  const open = () => sockets.filter((socket) => !socket.destroyed).length;
  async function until(condition: () => boolean): Promise<void> {
    const endMs = systemClock.nowMs() + 10_000;
    while (!condition()) {
      if (systemClock.nowMs() > endMs) throw new Error(`not within 10 s: ${open()} connections are open`);
      await systemClock.sleep(5);
    }
  }

  it('keeps few of those that say nothing, and no memory for what they announce; a source gets in all the same', async () => {
    const { address } = await listening();
    const announced = Buffer.alloc(16);
    announced.writeUInt32LE(1 << 20, 4); // a hello of 1 MiB
    const before = process.memoryUsage().arrayBuffers;
    for (let i = 0; i < 300; i++) await stranger(address.port, announced);
    await until(() => open() <= 64);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(64 * 2 ** 20);
    const connector = new TcpConnector(source.source(), quickLimits);
    const channel = await connector.open(target.target());
    expect(await channel.probe(1024)).toBeGreaterThan(0);
    for (let i = 0; i < 100; i++) await stranger(address.port, announced);
    await until(() => open() <= 64);
    // the newest strangers push out the oldest, never a source
    expect(await channel.probe(1024)).toBeGreaterThan(0);
    await connector.close();
  });

  it('hangs up on whoever has not said hello in time: in the handshake or after it', async () => {
    const { address } = await listening({ strangers: { countMax: 64, deadlineMs: 30 } });
    for (const byteCount of [0, 1, 63]) await stranger(address.port, Buffer.alloc(byteCount));
    const proven = await stranger(address.port, Buffer.alloc(0));
    const handshake = new SourceHandshake(address.token, (bytes) => proven.write(bytes));
    proven.on('data', (bytes) => void handshake.push(bytes));
    await until(() => open() === 0);
    expect(handshake.isDone).toBe(true);
  });

  it('takes no recorded handshake twice, and none that is its own', async () => {
    const { address } = await listening();
    const said: Buffer[] = [];
    const honest = await stranger(address.port, Buffer.alloc(0));
    const handshake = new SourceHandshake(address.token, (bytes) => {
      said.push(bytes);
      honest.write(bytes);
    });
    honest.on('data', (bytes) => void handshake.push(bytes));
    await until(() => handshake.isDone);
    const replay = await stranger(address.port, Buffer.concat([...said, encodeMessage('bye', {})]));
    const mirror = await stranger(address.port, Buffer.alloc(0));
    mirror.on('data', (bytes) => mirror.write(Buffer.concat([bytes, bytes])));
    await until(() => replay.destroyed && mirror.destroyed);
  });

  it('that does not know the token itself is told nothing', async () => {
    const heard: Buffer[] = [];
    const server = createServer((socket) => {
      socket.on('error', () => {});
      socket.on('data', (bytes) => {
        heard.push(bytes);
        socket.write(Buffer.alloc(32)); // no proof
      });
      socket.write(Buffer.alloc(32)); // a nonce
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const connector = new TcpConnector(source.source(), quickLimits);
    const { address } = await listening();
    const impostor = { ...target.target(), receiver: { ...address, port } };
    await expect(connector.open(impostor)).rejects.toThrow(/token is wrong/);
    const text = Buffer.concat(heard);
    expect(text.length).toBe(64 * Math.round(text.length / 64)); // nonce and proof of each lane, and no hello
    expect(text.includes(address.token)).toBe(false);
    expect(text.includes(layout.hash)).toBe(false);
    await connector.close();
    server.close();
  });
});

describe('the handshake', () => {
  it('works however the bytes are cut up, and gives what comes after them', () => {
    for (let seed = 1; seed <= 50; seed++) {
      const prng = new Prng(seed);
      const [toSource, toReceiver]: [Buffer[], Buffer[]] = [[], []];
      const receiver = new ReceiverHandshake('token', (bytes) => toSource.push(bytes));
      const source = new SourceHandshake('token', (bytes) => toReceiver.push(bytes));
      const rests = { source: '', receiver: '' };
      const deliver = (end: ReceiverHandshake | SourceHandshake, line: Buffer[], after: string): string => {
        let rest = '';
        let bytes = Buffer.concat(line.splice(0));
        if (end.isDone || bytes.length > 0) bytes = Buffer.concat([bytes, Buffer.from(after)]);
        while (bytes.length > 0) {
          const count = prng.integer(1, bytes.length);
          rest += end.push(bytes.subarray(0, count)).toString();
          bytes = bytes.subarray(count);
        }
        return rest;
      };
      deliver(source, toSource, '');
      rests.receiver = deliver(receiver, toReceiver, 'hello');
      rests.source = deliver(source, toSource, 'accepted');
      expect([source.isDone, receiver.isDone, rests]).toEqual([
        true,
        true,
        { source: 'accepted', receiver: 'hello' },
      ]);
    }
  });

  it.each(['', 'token ', 'kv-000000000000000000000000'])('refuses the token %o', (token) => {
    const toSource: Buffer[] = [];
    const receiver = new ReceiverHandshake('token', (bytes) => toSource.push(bytes));
    const source = new SourceHandshake(token, (bytes) => {
      expect(() => receiver.push(bytes)).toThrow(/token is wrong/);
    });
    source.push(Buffer.concat(toSource));
    expect(toSource).toHaveLength(1); // its nonce, no proof
  });
});
