/** A source process that is killed in the middle of its copies: once it has been reaped and the receiver has
 *  been fenced, its target's blocks may be given to someone else. Needs the built JavaScript (npm test
 *  builds). */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { Prng } from '../../src/base/prng.js';
import { KvLayout, type KvShape } from '../../src/kv/kv-layout.js';
import type { KvTarget } from '../../src/transfer/connector.js';
import { slotBytes } from '../../src/transfer/wire.js';
import { Side } from './side.js';
import { listenOn } from './tcp-member.js';

const shape: KvShape = {
  modelName: 'killed',
  layerCount: 4,
  kvHeadCount: 2,
  headDim: 64,
  blockTokenCount: 16,
  dtype: 'bf16',
};
const layout = new KvLayout(shape);
const blockCount = 256;
const dist = path.resolve(import.meta.dirname, '../../dist/src');

/** Pushes every block again and again, from one half of its cache and then from the other; says so when the
 *  first round has landed. */
const script = (connector: string, target: KvTarget, seed: number) => `
  import { systemClock as clock } from '${dist}/base/clock.js';
  import { openDevice } from '${dist}/device/native.js';
  import { KvCache } from '${dist}/kv/kv-cache.js';
  import { KvLayout } from '${dist}/kv/kv-layout.js';
  import { PeerConnector } from '${dist}/transfer/peer.js';
  import { HostRelayConnector } from '${dist}/transfer/host-relay.js';
  import { TcpConnector } from '${dist}/transfer/tcp.js';
  const makers = { peer: PeerConnector, 'host-relay': HostRelayConnector, tcp: TcpConnector };
  const target = ${JSON.stringify(target)};
  const layout = new KvLayout(${JSON.stringify(shape)});
  const device = openDevice({ kind: 'cpu', index: 0, threadCount: 1 });
  const cache = new KvCache(device, layout, ${2 * blockCount});
  const stream = device.createStream();
  stream.random({ pointer: cache.pointer, shape: [${(2 * blockCount * layout.blockBytes) / 4}], dtype: 'f32' }, ${seed}, 1, 0);
  const event = device.createEvent();
  stream.record(event);
  const channel = await new makers['${connector}']({ device, cache, identity: target.kv, clock }).open(target);
  const targetBlocks = Array.from({ length: ${blockCount} }, (_, i) => i);
  const halves = [targetBlocks, targetBlocks.map((block) => block + ${blockCount})];
  for (let round = 0; ; round++) {
    const transfer = channel.begin('r', 1);
    for (let layer = 0; layer < ${shape.layerCount}; layer++) {
      transfer.push([{ sourceBlocks: halves[round % 2], targetBlocks, firstLayer: layer, layerEnd: layer + 1 }], event);
    }
    await transfer.finish({ requestId: 'r', epoch: 1, layoutHash: layout.hash, tokenCount: 1, firstTokens: [1] });
    if (round === 0) console.log('pushing');
  }
`;

/** Blocks this process, so that nothing is received. */
const doNothing = (durationMs: number) =>
  void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, durationMs);

/** Bytes that the kernel holds for sockets of that port and nobody has read; its table of sockets has
 *  hexadecimal numbers. */
function unreadBytes(port: number): number {
  const local = `:${port.toString(16).toUpperCase().padStart(4, '0')}`;
  const rows = readFileSync('/proc/net/tcp', 'utf8')
    .split('\n')
    .map((line) => line.trim().split(/\s+/));
  const own = rows.filter((row) => row[1]?.endsWith(local) && row[3] === '01'); // 01: connected
  return own.reduce((sum, row) => sum + Number.parseInt(row[4]?.split(':')[1] ?? '0', 16), 0);
}

/** Until at least a frame waits on each of both lanes; a busy machine may not get that far. */
function fillSockets(port: number, carries: 'payload' | 'words'): void {
  for (let i = 0; i < 100 && unreadBytes(port) < (carries === 'payload' ? 3 * slotBytes : 1); i++)
    doNothing(3);
}

/** Kills and waits without receiving anything meanwhile: a zombie runs and maps nothing any more. */
function killAtOnce(pid: number): void {
  process.kill(pid, 'SIGKILL');
  while (readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.[0] !== 'Z') doNothing(1);
}

describe.each(['peer', 'host-relay', 'tcp'])('a source killed mid-copy, %s', (connector) => {
  let target: Side;
  beforeEach(async () => {
    target = new Side(layout, blockCount);
    await target.fill(1);
  });
  afterEach(() => target.close());

  it('writes nothing once it has been reaped and its blocks have been fenced', async () => {
    const reserved = { value: true };
    const receiver = await listenOn(target, 'w1', { accepts: () => reserved.value });
    target.listeners.push({ workerName: 'w1', address: receiver.address, close: () => receiver.close() });
    for (let seed = 1; seed <= 4; seed++) {
      const prng = new Prng(seed);
      reserved.value = true;
      const before = await target.bytes();
      const child = spawn(
        process.execPath,
        ['--input-type=module', '-e', script(connector, target.target(), seed + 9)],
        {
          stdio: ['ignore', 'pipe', 'inherit'],
        },
      );
      const exited = once(child, 'exit');
      await once(child.stdout, 'data');
      await systemClock.sleep(prng.exponential(8));
      doNothing(15);
      if (connector !== 'peer') fillSockets(receiver.address.port, connector === 'tcp' ? 'payload' : 'words');
      killAtOnce(child.pid!);
      reserved.value = false; // what a release does at the decode side
      await receiver.passed();
      const fenced = await target.bytes();
      expect(fenced.equals(before), 'something had been written').toBe(false);
      await exited;
      await systemClock.sleep(30);
      expect((await target.bytes()).equals(fenced), 'what was left on the way has been refused').toBe(true);
      await target.fill(100 + seed); // the blocks' next owner
      const owned = await target.bytes();
      await systemClock.sleep(30);
      expect((await target.bytes()).equals(owned)).toBe(true);
    }
    if (connector !== 'peer')
      expect(receiver.refusedFrameCount, 'something was left on the way').toBeGreaterThan(0);
  });
});
