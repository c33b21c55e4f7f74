/** The bytes of one worker's KV blocks: memory on the device, laid out by KvLayout. Who owns which block is
 *  block-manager's matter. */
import type { BlockId } from '../base/ids.js';
import type { CacheExport, CacheHandle, Device, KvLayerView, Stream } from '../device/device.js';
import type { Pointer } from '../device/tensor.js';
import type { KvLayout } from './kv-layout.js';

export class KvCache {
  readonly layout: KvLayout;
  readonly blockCount: number;
  readonly pointer: Pointer;
  readonly layers: readonly KvLayerView[];
  readonly #device: Device;
  readonly #handle: CacheHandle;

  constructor(device: Device, layout: KvLayout, blockCount: number) {
    this.layout = layout;
    this.blockCount = blockCount;
    this.#device = device;
    this.#handle = device.createCache(blockCount * layout.blockBytes);
    this.pointer = device.cachePointer(this.#handle);
    this.layers = Array.from({ length: layout.shape.layerCount }, (_, layer) =>
      layout.layerView(this.pointer, layer, blockCount),
    );
  }

  /** For another process on this host, to map these very bytes. */
  export(): CacheExport {
    return this.#device.exportCache(this.#handle);
  }

  /** Copy-on-write: enqueues whole-block copies behind what the stream already has. */
  copyBlocks(stream: Stream, pairs: readonly { target: BlockId; source: BlockId }[]): void {
    const place = { base: this.pointer, blockBytes: this.layout.blockBytes };
    if (pairs.length > 0) stream.copySlices(place, place, pairs, [this.layout.wholeBlock()]);
  }

  close(): void {
    this.#device.closeCache(this.#handle);
  }
}
