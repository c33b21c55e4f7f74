/** The tcp connector, and host-relay which shares its lanes: the contract of the family, and what only a
 *  network has: dropped connections, deaf and false peers, stale bytes. */
import { type AddressInfo, createConnection, createServer, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { blockId, requestId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import type { KvHandle } from '../../src/kv/kv-handle.js';
import { KvLayout } from '../../src/kv/kv-layout.js';
import type { KvPiece } from '../../src/transfer/connector.js';
import { ReceiverHandshake, SourceHandshake } from '../../src/transfer/handshake.js';
import { HostRelayConnector } from '../../src/transfer/host-relay.js';
import { TcpConnector } from '../../src/transfer/tcp.js';
import type { KvReceiver, ReceiverOptions } from '../../src/transfer/tcp-receiver.js';
import { encodeMessage, type FrameMeta, slotBytes } from '../../src/transfer/wire.js';
import { connectorContract } from './contract.js';
import { Side } from './side.js';
import { listenOn, quickLimits, tcpMember } from './tcp-member.js';

connectorContract(tcpMember);

const layout = new KvLayout({
  modelName: 'tcp',
  layerCount: 4,
  kvHeadCount: 2,
  headDim: 64,
  blockTokenCount: 16,
  dtype: 'bf16',
});
const blockCount = 64;
const pieces = (prng: Prng): KvPiece[] => {
  const order = () =>
    Array.from({ length: blockCount }, (_, i) => blockId(i)).sort(() => prng.uniform() - 0.5);
  const count = prng.integer(1, blockCount);
  const [sourceBlocks, targetBlocks] = [order().slice(0, count), order().slice(0, count)];
  return Array.from({ length: 4 }, (_, layer) => ({
    sourceBlocks,
    targetBlocks,
    firstLayer: layer,
    layerEnd: layer + 1,
  }));
};
const handle = (id: string): KvHandle => ({
  requestId: requestId(id),
  epoch: 1,
  layoutHash: layout.hash,
  tokenCount: 1,
  firstTokens: [1],
});

describe.each([
  ['tcp', TcpConnector],
  ['host-relay', HostRelayConnector],
] as const)('connector %s', (_name, Connector) => {
  let source: Side;
  let target: Side;
  let connector: TcpConnector;
  beforeEach(async () => {
    source = new Side(layout, blockCount);
    target = new Side(layout, blockCount);
    connector = new Connector(source.source(), quickLimits);
    await source.fill(1);
    await target.fill(2);
  });
  afterEach(async () => {
    await connector.close();
    await source.close();
    await target.close();
  });

  async function listening(more: Partial<ReceiverOptions> = {}): Promise<KvReceiver> {
    const receiver = await listenOn(target, 'w1', more);
    target.listeners.push({ workerName: 'w1', address: receiver.address, close: () => receiver.close() });
    return receiver;
  }

  async function expectArrived(moved: readonly KvPiece[], before: Buffer): Promise<void> {
    const [from, expected] = [await source.bytes(), Buffer.from(before)];
    const { sourceBlocks, targetBlocks } = moved[0]!;
    for (const [i, block] of sourceBlocks.entries()) {
      from.copy(
        expected,
        targetBlocks[i]! * layout.blockBytes,
        block * layout.blockBytes,
        (block + 1) * layout.blockBytes,
      );
    }
    expect((await target.bytes()).equals(expected)).toBe(true);
  }

  it('goes on where it was after dropped connections, at seeded moments', async () => {
    await listening();
    const channel = await connector.open(target.target());
    for (let seed = 1; seed <= 20; seed++) {
      const prng = new Prng(seed);
      const before = await target.bytes();
      const transfer = channel.begin(requestId(`r${seed}`), 1);
      const moved = pieces(prng);
      for (let round = 0; round < 6; round++) {
        for (const piece of moved) transfer.push([piece], source.recorded());
        for (let turn = prng.integer(0, 4); turn > 0; turn--) await systemClock.yield();
        if (prng.uniform() < 0.5) channel.dropLane(prng.integer(0, 1));
      }
      await transfer.finish(handle(`r${seed}`));
      await expectArrived(moved, before);
    }
    expect(channel.reconnectCount).toBeGreaterThan(5);
    expect(channel.isBroken).toBe(false);
  });

  it('moves blocks larger than a staging slot, and more of them than there are slots', async () => {
    const big = new KvLayout({
      modelName: 'big',
      layerCount: 2,
      kvHeadCount: 8,
      headDim: 128,
      blockTokenCount: 128,
      dtype: 'f32',
    });
    const [from, to] = [new Side(big, 10), new Side(big, 10)];
    await from.fill(3);
    const receiver = await listenOn(to, 'w1');
    to.listeners.push({ workerName: 'w1', address: receiver.address, close: () => receiver.close() });
    const other = new Connector(from.source(), quickLimits);
    const all = Array.from({ length: 10 }, (_, i) => blockId(i));
    const transfer = (await other.open(to.target())).begin(requestId('r'), 1);
    transfer.push([{ sourceBlocks: all, targetBlocks: all, firstLayer: 0, layerEnd: 2 }], from.recorded());
    await transfer.finish({ ...handle('r'), layoutHash: big.hash });
    expect((await to.bytes()).equals(await from.bytes())).toBe(true);
    expect(big.layerBytes).toBeGreaterThan(slotBytes);
    await other.close();
    await from.close();
    await to.close();
  });

  it('writes only what is reserved for the request, in that epoch', async () => {
    const asked: FrameMeta[] = [];
    const receiver = await listening({
      accepts: (frame) => {
        asked.push(frame);
        return frame.epoch === 7;
      },
    });
    const before = await target.bytes();
    const channel = await connector.open(target.target());
    const stale = channel.begin(requestId('r'), 6);
    const moved = pieces(new Prng(1));
    stale.push(moved, source.recorded());
    await expect(stale.finish(handle('r'))).rejects.toMatchObject({ code: 'transfer_error' });
    await expect(stale.finish(handle('r'))).rejects.toThrow(/not reserved/);
    expect((await target.bytes()).equals(before)).toBe(true);
    expect(receiver.refusedFrameCount).toBe(asked.length);
    const good = channel.begin(requestId('r'), 7);
    good.push(moved, source.recorded());
    await good.finish(handle('r'));
    await expectArrived(moved, before);
    const named = new Set(asked.flatMap(({ blocks }) => blocks));
    expect(named).toEqual(new Set(moved[0]!.targetBlocks));
    expect(channel.isBroken).toBe(false);
  });

  it('a fence at the receiver holds against what a dead source has left on the network', async () => {
    const open = { value: true };
    const receiver = await listening({ accepts: () => open.value });
    const channel = await connector.open(target.target());
    const transfer = channel.begin(requestId('r'), 1);
    for (let round = 0; round < 20; round++) transfer.push(pieces(new Prng(round)), source.recorded());
    await systemClock.sleep(1);
    open.value = false;
    await receiver.passed();
    const fenced = await target.bytes();
    await transfer.finish(handle('r')).catch(() => {});
    expect(receiver.refusedFrameCount).toBeGreaterThan(0);
    expect((await target.bytes()).equals(fenced)).toBe(true);
  });

  it('a receiver that goes away for good fails what runs and breaks the channel; an abort still ends', async () => {
    const receiver = await listening();
    const channel = await connector.open(target.target());
    const [lost, aborted] = [channel.begin(requestId('a'), 1), channel.begin(requestId('b'), 1)];
    await receiver.close();
    lost.push(pieces(new Prng(1)), source.recorded());
    aborted.push(pieces(new Prng(2)), source.recorded());
    const finishing = lost.finish(handle('a'));
    await aborted.abort();
    await expect(finishing).rejects.toMatchObject({ code: 'transfer_error' });
    expect(channel.isBroken).toBe(true);
    const late = channel.begin(requestId('c'), 1);
    late.push(pieces(new Prng(3)), source.recorded());
    await expect(late.finish(handle('c'))).rejects.toMatchObject({ code: 'transfer_error' });
  });

  it('a receiver that stops reading breaks the channel in bounded time', async () => {
    const { port, close } = await deafReceiver('x');
    const address = { host: '127.0.0.1', port, token: 'x' };
    const channel = await connector.open({ ...target.target(), receiver: address });
    const transfer = channel.begin(requestId('r'), 1);
    transfer.push(pieces(new Prng(1)), source.recorded());
    await expect(transfer.finish(handle('r'))).rejects.toThrow(/nothing landed/);
    expect(channel.isBroken).toBe(true);
    await close();
  });

  it.each([
    ['a wrong token', { token: 'kv-000000000000000000000000' }, /token is wrong/],
    ['a shorter token', { token: '' }, /token is wrong/],
  ])('refuses %s and says so', async (_what, change, message) => {
    const receiver = await listening();
    const opening = connector.open({ ...target.target(), receiver: { ...receiver.address, ...change } });
    await expect(opening).rejects.toThrow(message);
    await expect(opening).rejects.toMatchObject({ code: 'transfer_error' });
  });

  it('drops whoever does not speak the protocol, takes no payload from strangers, and serves the others', async () => {
    const receiver = await listening();
    const before = await target.bytes();
    const channel = await connector.open(target.target());
    const prng = new Prng(3);
    const garbage = (count: number) => Buffer.from(Array.from({ length: count }, () => prng.integer(0, 255)));
    const stranger = {
      requestId: requestId('r'),
      epoch: 1,
      blocks: [blockId(0)],
      offset: 0,
      bytes: layout.blockBytes,
    };
    const texts = [
      garbage(3000),
      Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n'),
      encodeMessage('frame', stranger, 1, layout.blockBytes),
      encodeMessage('bye', {}),
      encodeMessage('hello', { workerId: 5 }),
      Buffer.concat([Buffer.from('0100000000001000', 'hex'), garbage(100)]), // announces 1 MiB
    ];
    for (const text of texts) {
      // what is shorter is waited for
      const padded = Buffer.concat([text, Buffer.alloc(Math.max(0, 64 - text.length))]);
      await expectDropped(receiver.address.port, padded);
      await expectDropped(receiver.address.port, text, receiver.address.token);
    }
    const moved = pieces(prng);
    const transfer = channel.begin(requestId('r'), 1);
    transfer.push(moved, source.recorded());
    await transfer.finish(handle('r'));
    await expectArrived(moved, before);
  });
});

/** Resolves when the other side has hung up. With a token the text comes after an honest handshake. */
function expectDropped(port: number, text: Buffer, token?: string): Promise<void> {
  return new Promise((resolve) => {
    const socket = createConnection(port, '127.0.0.1', () => {
      if (token === undefined) socket.write(text);
    });
    const handshake = new SourceHandshake(token ?? '', (bytes) => socket.write(bytes));
    socket.on('error', () => {});
    socket.on('close', () => resolve());
    socket.on('data', (bytes) => {
      if (token === undefined || handshake.isDone) return;
      handshake.push(bytes);
      if (handshake.isDone) socket.write(text);
    });
  });
}

/** Welcomes everyone who knows the token and then takes nothing. */
async function deafReceiver(token: string) {
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on('error', () => {});
    const handshake = new ReceiverHandshake(token, (bytes) => socket.write(bytes));
    socket.on('data', (bytes) => {
      if (!handshake.isDone) return void handshake.push(bytes);
      socket.write(encodeMessage('accepted', { receivedThrough: 0 }));
      socket.pause();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const close = () => {
    for (const socket of sockets) socket.destroy();
    return new Promise<void>((resolve) => server.close(() => resolve()));
  };
  return { port, close };
}
