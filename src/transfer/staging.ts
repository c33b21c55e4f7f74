/** Pinned host memory in slots of equal size, through which KV passes between a cache and a socket or another mapping. Used by the tcp
 *  connector, one pool on each side. Invariant: a slot has one holder; what finds none free waits, and that is the back-pressure. */
import { assert } from '../base/assert.js';
import type { Device, HostBuffer } from '../device/device.js';
import { offsetPointer, type Pointer } from '../device/tensor.js';

export interface Slot {
  readonly pointer: Pointer;
  readonly bytes: Buffer;
}

export class StagingPool {
  readonly #device: Device;
  readonly #slotBytes: number;
  readonly #slotCount: number;
  #memory: HostBuffer | null = null;
  #free: Slot[] = [];
  #isClosed = false;

  /** Memory is taken at the first use: most channels of a big cluster never carry anything. */
  constructor(device: Device, slotBytes: number, slotCount: number) {
    this.#device = device;
    this.#slotBytes = slotBytes;
    this.#slotCount = slotCount;
  }

  /** Null: none is free now. */
  acquire(): Slot | null {
    assert(!this.#isClosed, 'a closed staging pool is not used');
    if (this.#memory === null) this.#allocate();
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
    assert(this.#free.length === this.#slotCount, `${this.#slotCount - this.#free.length} staging slots are still held`);
    this.#device.releaseHost(this.#memory);
  }

  #allocate(): void {
    const memory = this.#device.allocateHost(this.#slotBytes * this.#slotCount);
    this.#memory = memory;
    this.#free = Array.from({ length: this.#slotCount }, (_, index) => {
      const offset = index * this.#slotBytes;
      const { buffer, byteOffset } = memory.bytes;
      return {
        pointer: offsetPointer(memory.pointer, offset),
        bytes: Buffer.from(buffer, byteOffset + offset, this.#slotBytes),
      };
    });
  }
}
