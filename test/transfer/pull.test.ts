/** What the owner of blocks asks of whoever pulls them over tcp, and what the puller hears when it gets
 *  nothing. */
import { afterEach, describe, expect, it } from 'vitest';
import { blockId, requestId } from '../../src/base/ids.js';
import { KvLayout } from '../../src/kv/kv-layout.js';
import type { KvConnector, KvTarget } from '../../src/transfer/connector.js';
import { TcpConnector } from '../../src/transfer/tcp.js';
import { identityOf, reachable, Side } from './side.js';
import { listenOn, member, quickLimits } from './tcp-member.js';

const layout = new KvLayout({
  modelName: 'pull',
  layerCount: 2,
  kvHeadCount: 1,
  headDim: 32,
  blockTokenCount: 16,
  dtype: 'bf16',
});
const handle = {
  requestId: requestId('r'),
  epoch: 1,
  layoutHash: layout.hash,
  tokenCount: 16,
  firstTokens: [1],
};
const piece = { sourceBlocks: [blockId(1)], targetBlocks: [blockId(2)], firstLayer: 0, layerEnd: 2 };

const closers: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

/** A side that pulls from another, whose receiver serves pulls while `mayRead` says so. */
async function pair(mayRead: () => boolean): Promise<{ owner: Side; puller: Side; connector: KvConnector }> {
  const tcp = member('tcp', (source) => new TcpConnector(source, quickLimits), mayRead);
  const [owner, puller] = [await reachable(tcp, new Side(layout, 8), 'w1'), new Side(layout, 8)];
  const landed = await tcp.land!(puller);
  const connector = tcp.make({ ...puller.source(), landing: landed.landing });
  await owner.fill(1);
  closers.push(
    () => puller.close(),
    () => landed.close(),
    () => owner.close(),
    () => connector.close(),
  );
  return { owner, puller, connector };
}

const pull = async (connector: KvConnector, target: KvTarget) => {
  const transfer = (await connector.open(target)).begin(requestId('r'), 1);
  transfer.pull([piece]);
  await transfer.finish(handle);
};

describe('pull over tcp', () => {
  it('gives blocks that are held for the request, and no others', async () => {
    const held = { value: false };
    const { owner, puller, connector } = await pair(() => held.value);
    const before = await puller.bytes();
    await expect(pull(connector, owner.target())).rejects.toMatchObject({ code: 'transfer_error' });
    await expect(pull(connector, owner.target())).rejects.toThrow(/not held for it/);
    expect((await puller.bytes()).equals(before)).toBe(true);
    held.value = true;
    await pull(connector, owner.target());
    expect((await puller.bytes()).equals(before)).toBe(false);
  });

  it('names what is wrong: no receiver of its own, an owner that serves nothing', async () => {
    const { owner, puller, connector } = await pair(() => true);
    const deaf = new TcpConnector({ ...puller.source(), identity: identityOf(layout) }, quickLimits);
    closers.push(() => deaf.close());
    await expect(pull(deaf, owner.target())).rejects.toThrow(/this side does not listen for KV/);
    const mute = await listenOn(owner, 'w5');
    closers.push(() => mute.close());
    const target = { ...owner.target(), workerId: 'w5' as KvTarget['workerId'], receiver: mute.address };
    await expect(pull(connector, target)).rejects.toThrow(/nothing can be pulled from here/);
  });
});
