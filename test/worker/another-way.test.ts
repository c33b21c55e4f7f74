/** A way that breaks under hand-overs: the same blocks go over another connector, and only when there is none
 *  is the hand-over given up. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { blockId, requestId } from '../../src/base/ids.js';
import { greedy } from '../../src/engine/sampling-params.js';
import { KvLayout } from '../../src/kv/kv-layout.js';
import { BestConnector } from '../../src/transfer/best-connector.js';
import type { KvConnector, OpenOptions } from '../../src/transfer/connector.js';
import { PeerConnector } from '../../src/transfer/peer.js';
import { TcpConnector } from '../../src/transfer/tcp.js';
import { HandOverSource } from '../../src/worker/hand-over-source.js';
import type { HandOverFailedBody, LandedBody } from '../../src/worker/messages.js';
import { packTokens } from '../../src/worker/token-list.js';
import { Side } from '../transfer/side.js';
import { listenOn, quickLimits } from '../transfer/tcp-member.js';

const layout = new KvLayout({
  modelName: 'm',
  layerCount: 3,
  kvHeadCount: 2,
  headDim: 32,
  blockTokenCount: 16,
  dtype: 'bf16',
});
const blockCount = 32;

let from: Side;
let to: Side;
let tcp: TcpConnector;
let peer: PeerConnector;
let landed: LandedBody[];
let failed: HandOverFailedBody[];
beforeEach(async () => {
  from = new Side(layout, blockCount);
  to = new Side(layout, blockCount);
  await from.fill(1);
  await to.fill(2);
  tcp = new TcpConnector(from.source(), quickLimits);
  peer = new PeerConnector(from.source());
  landed = [];
  failed = [];
});
afterEach(async () => {
  await from.close();
  await to.close();
});

/** Tcp first; peer for whoever avoids it, if there is a peer. */
function sourceWith(other: KvConnector | null): HandOverSource {
  const connector: KvConnector = {
    name: 'both',
    open: (target, { avoid = [] }: OpenOptions = {}) =>
      avoid.includes('tcp')
        ? new BestConnector(other === null ? [] : [other]).open(target)
        : tcp.open(target),
    close: async () => {
      await tcp.close();
      await peer.close();
    },
  };
  return new HandOverSource({
    connector,
    layout,
    device: from.device,
    clock: systemClock,
    events: {
      prefillStarted: () => {},
      landed: (body) => landed.push(body),
      handOverFailed: (body) => failed.push(body),
    },
  });
}

const ids = ['a', 'b', 'c'].map(requestId);
/** Three prompts of ten blocks each; block i of the source goes to block 31 - i. */
const table = (index: number) => Array.from({ length: 10 }, (_, i) => index * 10 + i);

async function handOverThree(source: HandOverSource, afterOpening: () => Promise<void>): Promise<void> {
  const promptIds = packTokens(new Array<number>(160).fill(1));
  for (const id of ids)
    source.add({ id, promptIds, sampling: greedy, outputs: [], priority: 0, endedChoices: [] });
  const target = to.target();
  for (const [i, id] of ids.entries()) {
    const blockIds = table(i).map((block) => blockId(31 - block));
    await source.pushTo({ id, target, reservation: { blockIds, cachedTokenCount: 0, epoch: 1 } });
  }
  await afterOpening();
  for (let layer = 0; layer < 3; layer++) {
    const chunks = ids.map((id, i) => {
      const blockIds = table(i).map(blockId);
      return { requestId: id, firstToken: 0, endToken: 160, blockIds, isLast: true };
    });
    source.onLayer(layer, chunks, from.stream);
  }
  source.onTokens(
    ids.map((id) => ({ kind: 'tokens', requestId: id, choiceIndex: 0, tokens: [{ tokenId: 5 }] })),
  );
  while (landed.length + failed.length < 3) await systemClock.sleep(5);
}

async function listening() {
  const receiver = await listenOn(to, 'w1');
  to.listeners.push({ workerName: 'w1', address: receiver.address, close: () => receiver.close() });
  return receiver;
}

describe('a way that breaks', () => {
  it('is left for another one, once for all who were on it: every byte arrives', async () => {
    const receiver = await listening();
    const source = sourceWith(peer);
    await handOverThree(source, () => receiver.close());
    expect(failed).toEqual([]);
    expect(landed.map(({ handle }) => handle.requestId).sort()).toEqual(['a', 'b', 'c']);
    const [sent, received] = [await from.bytes(), await to.bytes()];
    const of = (bytes: Buffer, block: number) =>
      bytes.subarray(block * layout.blockBytes, (block + 1) * layout.blockBytes);
    for (let block = 0; block < 30; block++)
      expect(of(received, 31 - block).equals(of(sent, block))).toBe(true);
    expect(source.status()).toMatchObject([
      { name: 'peer', transferCount: 3, retryCount: 3, failureCount: 0 },
    ]);
    for (const id of ids) await source.release(id);
    await source.close();
  });

  it('without another one the hand-overs fail, and nothing is on its way', async () => {
    const receiver = await listening();
    const source = sourceWith(null);
    await handOverThree(source, () => receiver.close());
    expect(landed).toEqual([]);
    expect(failed.map(({ error }) => error.code)).toEqual([
      'transfer_error',
      'transfer_error',
      'transfer_error',
    ]);
    for (const id of ids) await source.release(id);
    await source.close();
  });

  it('a release in the middle of it ends it: nothing is pushed another way', async () => {
    const receiver = await listening();
    const source = sourceWith(peer);
    const done = handOverThree(source, async () => {
      await receiver.close();
      void systemClock.sleep(100).then(async () => {
        await source.release(requestId('b'));
        landed.push({} as LandedBody); // what handOverThree counts
      });
    });
    await done;
    expect(failed).toEqual([]);
    expect(landed.flatMap(({ handle }) => (handle === undefined ? [] : [handle.requestId])).sort()).toEqual([
      'a',
      'c',
    ]);
    for (const id of ids) await source.release(id);
    await source.close();
  });
});
