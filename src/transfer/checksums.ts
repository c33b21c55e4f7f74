/** Checksums of the blocks of one cache, off the event loop, on a stream of their own. Used by both sides of
 *  a hand-over: the sender puts them into the handle, the receiver compares before it decodes. Whatever moved
 *  the bytes, this is about the bytes that are there.
 *  Invariant: it may only be asked about blocks that nobody writes meanwhile. */
import type { BlockId } from '../base/ids.js';
import type { Device, Stream } from '../device/device.js';
import type { KvCache } from '../kv/kv-cache.js';

export class BlockChecksums {
  readonly #device: Device;
  readonly #cache: KvCache;
  readonly #stream: Stream;

  constructor(device: Device, cache: KvCache) {
    this.#device = device;
    this.#cache = cache;
    this.#stream = device.createStream();
  }

  /** One per block, in order. */
  async of(blocks: readonly BlockId[]): Promise<readonly number[]> {
    if (blocks.length === 0) return [];
    const out = this.#device.allocateHost(blocks.length * Uint32Array.BYTES_PER_ELEMENT);
    try {
      const { pointer, layout } = this.#cache;
      this.#stream.checksumBlocks(out.pointer, { base: pointer, blockBytes: layout.blockBytes }, blocks);
      await this.#stream.wait();
      return Array.from(new Uint32Array(out.bytes.buffer, out.bytes.byteOffset, blocks.length));
    } finally {
      this.#device.releaseHost(out);
    }
  }

  close(): void {
    this.#stream.close();
  }
}
