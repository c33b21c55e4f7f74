/** Host memory in slots of equal size, through which KV passes: pinned, for sockets to read and write, or
 *  shared, for another process to map. Used by the tcp and host-relay connectors, one pool on each side.
 *  Invariant: a slot has one holder; what finds none free waits, and that is the back-pressure. */
import { assert } from '../base/assert.js';
import type { CacheExport, Device } from '../device/device.js';
import { offsetPointer, type Pointer } from '../device/tensor.js';

export interface Slot {
  readonly pointer: Pointer;
  /** From the start of the pool's memory. */
  readonly offset: number;
  /** Empty in shared memory: nobody here reads it. */
  readonly bytes: Buffer;
}

/** A pool's memory. */
interface Memory {
  readonly pointer: Pointer;
  readonly bytes: Uint8Array | null;
  readonly exported: CacheExport | null;
  release(): void;
}

export class StagingPool {
  readonly #device: Device;
  readonly slotBytes: number;
  readonly #slotCount: number;
  readonly #kind: 'pinned' | 'shared';
  #memory: Memory | null = null;
  #free: Slot[] = [];
  #isClosed = false;

  /** Memory is taken at the first use: most channels of a big cluster never carry anything. */
  constructor(device: Device, slotBytes: number, slotCount: number, kind: 'pinned' | 'shared' = 'pinned') {
    this.#device = device;
    this.#kind = kind;
    this.slotBytes = slotBytes;
    this.#slotCount = slotCount;
  }

  /** Null: none is free now. */
  acquire(): Slot | null {
    assert(!this.#isClosed, 'a closed staging pool is not used');
    this.#allocate();
    return this.#free.pop() ?? null;
  }

  release(slot: Slot): void {
    this.#free.push(slot);
    assert(this.#free.length <= this.#slotCount, 'a staging slot was released twice');
  }

  /** Nothing may hold a slot any more. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    if (this.#memory === null) return;
    assert(
      this.#free.length === this.#slotCount,
      `${this.#slotCount - this.#free.length} staging slots are still held`,
    );
    this.#memory.release();
  }

  /** For the other process; null unless shared. */
  export(): CacheExport | null {
    return this.#allocate().exported;
  }

  #allocate(): Memory {
    if (this.#memory !== null) return this.#memory;
    const memory = this.#kind === 'pinned' ? this.#allocatePinned() : this.#allocateShared();
    this.#memory = memory;
    this.#free = Array.from({ length: this.#slotCount }, (_, index) => {
      const offset = index * this.slotBytes;
      const pointer = offsetPointer(memory.pointer, offset);
      const { bytes } = memory;
      const view =
        bytes === null
          ? Buffer.alloc(0)
          : Buffer.from(bytes.buffer, bytes.byteOffset + offset, this.slotBytes);
      return { pointer, offset, bytes: view };
    });
    return memory;
  }

  #allocatePinned(): Memory {
    const buffer = this.#device.allocateHost(this.slotBytes * this.#slotCount);
    const { pointer, bytes } = buffer;
    return { pointer, bytes, exported: null, release: () => this.#device.releaseHost(buffer) };
  }

  #allocateShared(): Memory {
    const cache = this.#device.createHostCache(this.slotBytes * this.#slotCount);
    try {
      const [pointer, exported] = [this.#device.cachePointer(cache), this.#device.exportCache(cache)];
      return { pointer, bytes: null, exported, release: () => this.#device.closeCache(cache) };
    } catch (error) {
      this.#device.closeCache(cache);
      throw error;
    }
  }
}
