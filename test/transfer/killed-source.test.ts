/** A source process that is killed in the middle of its copies: once it has been reaped and the receiver has been fenced, its target's blocks
 *  may be given to someone else. Needs the built JavaScript (npm test builds). */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { Prng } from '../../src/base/prng.js';
import { KvLayout, type KvShape } from '../../src/kv/kv-layout.js';
import type { KvTarget } from '../../src/transfer/connector.js';
import { Side } from './contract.js';
import { listenOn } from './tcp-member.js';

const shape: KvShape = { modelName: 'killed', layerCount: 4, kvHeadCount: 2, headDim: 64, blockTokenCount: 16, dtype: 'bf16' };
const layout = new KvLayout(shape);
const blockCount = 256;
const dist = path.resolve(import.meta.dirname, '../../dist/src');

/** Pushes every block again and again, with other bytes each time; says so when the first round has landed. */
const script = (connector: string, target: KvTarget) => `
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
  const cache = new KvCache(device, layout, ${blockCount});
  const stream = device.createStream();
  const channel = await new makers['${connector}']({ device, cache, identity: target.kv, clock }).open(target);
  const blocks = Array.from({ length: ${blockCount} }, (_, i) => i);
  for (let round = 0; ; round++) {
    stream.random({ pointer: cache.pointer, shape: [${(blockCount * layout.blockBytes) / 4}], dtype: 'f32' }, round + 9, 1, 0);
    const event = device.createEvent();
    stream.record(event);
    const transfer = channel.begin('r', 1);
    for (let layer = 0; layer < ${shape.layerCount}; layer++) {
      transfer.push([{ sourceBlocks: blocks, targetBlocks: blocks, firstLayer: layer, layerEnd: layer + 1 }], event);
    }
    await transfer.finish({ requestId: 'r', epoch: 1, layoutHash: layout.hash, tokenCount: 1, firstTokens: [1] });
    device.destroyEvent(event);
    if (round === 0) console.log('pushing');
  }
`;

/** Blocks this process, so that nothing is received. */
const doNothing = () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 15);

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
      const child = spawn(process.execPath, ['--input-type=module', '-e', script(connector, target.target())], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      await once(child.stdout, 'data');
      await systemClock.sleep(prng.exponential(8));
      const exited = once(child, 'exit');
      doNothing(); // meanwhile the sockets fill
      child.kill('SIGKILL');
      doNothing();
      await exited;
      reserved.value = false; // what a release does at the decode side
      await receiver.passed();
      const fenced = await target.bytes();
      expect(fenced.equals(before), 'something had been written').toBe(false);
      await systemClock.sleep(30);
      expect((await target.bytes()).equals(fenced), 'what was left on the way has been refused').toBe(true);
      await target.fill(100 + seed); // the blocks' next owner
      const owned = await target.bytes();
      await systemClock.sleep(30);
      expect((await target.bytes()).equals(owned)).toBe(true);
    }
  });
});
