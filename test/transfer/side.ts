/** One side of a hand-over in one process, and what a connector's test needs of it. Used by the tests of
 *  transfer/ and worker/.
 *  Invariant: everything of it is closed with it. */
import { systemClock } from '../../src/base/clock.js';
import { workerId } from '../../src/base/ids.js';
import type { EventHandle, Stream } from '../../src/device/device.js';
import { openDevice } from '../../src/device/native.js';
import { KvCache } from '../../src/kv/kv-cache.js';
import type { KvLayout } from '../../src/kv/kv-layout.js';
import type {
  KvConnector,
  KvIdentity,
  KvLanding,
  KvSource,
  KvTarget,
  ReceiverAddress,
} from '../../src/transfer/connector.js';

/** One connector of the family, and what its target side needs. */
export interface Member {
  readonly name: string;
  make(source: KvSource): KvConnector;
  /** Lets a side be written by others; null: its memory alone is enough. */
  listen?(side: Side, workerName: string): Promise<{ address: ReceiverAddress; close(): Promise<void> }>;
  /** Lets a side pull; absent: it needs nothing for that. */
  land?(side: Side): Promise<{ landing: KvLanding; close(): Promise<void> }>;
  /** The same target after its process has gone. */
  gone(target: KvTarget): KvTarget;
}

export const identityOf = (layout: KvLayout): KvIdentity => ({
  protocolVersion: 1,
  modelName: layout.shape.modelName,
  dtype: layout.shape.dtype,
  layoutHash: layout.hash,
});

/** Two workers in one process: each with a device, a stream and a cache. */
export class Side {
  readonly device = openDevice({ kind: 'cpu', index: 0, threadCount: 1 });
  readonly stream: Stream = this.device.createStream();
  readonly cache: KvCache;
  readonly listeners: { address: ReceiverAddress; workerName: string; close(): Promise<void> }[] = [];

  constructor(layout: KvLayout, count: number) {
    this.cache = new KvCache(this.device, layout, count);
  }

  async fill(seed: number): Promise<void> {
    const count = (this.cache.blockCount * this.cache.layout.blockBytes) / 4;
    this.stream.random({ pointer: this.cache.pointer, shape: [count], dtype: 'f32' }, seed, 1, 0);
    await this.stream.wait();
  }

  /** All bytes of the cache, block after block. */
  async bytes(): Promise<Buffer> {
    const byteCount = this.cache.blockCount * this.cache.layout.blockBytes;
    const host = this.device.allocateHost(byteCount);
    this.stream.copy(host.pointer, this.cache.pointer, byteCount);
    await this.stream.wait();
    const copy = Buffer.from(host.bytes);
    this.device.releaseHost(host);
    return copy;
  }

  recorded(): EventHandle {
    const event = this.device.createEvent();
    this.stream.record(event);
    return event;
  }

  target(name = 'w1'): KvTarget {
    const { cache } = this;
    return {
      workerId: workerId(name),
      incarnation: 1,
      cache: cache.export(),
      blockCount: cache.blockCount,
      kv: identityOf(cache.layout),
      receiver: this.listeners.find(({ workerName }) => workerName === name)?.address ?? null,
    };
  }

  source(): KvSource {
    return {
      device: this.device,
      cache: this.cache,
      identity: identityOf(this.cache.layout),
      clock: systemClock,
    };
  }

  async close(): Promise<void> {
    for (const { close } of this.listeners) await close();
    this.cache.close();
    this.stream.close();
    this.device.close();
  }
}

/** `side` as worker `workerName`, reachable by this member. */
export async function reachable(member: Member, side: Side, workerName: string): Promise<Side> {
  const listener = await member.listen?.(side, workerName);
  if (listener !== undefined) side.listeners.push({ ...listener, workerName });
  return side;
}
