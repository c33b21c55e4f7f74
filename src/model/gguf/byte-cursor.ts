/** Reads the head of a file value by value, a stretch at a time, never past a bound. Used by header.ts. */
import { readSync } from 'node:fs';
import { ModelError } from '../../base/errors.js';

const firstStretchBytes = 2 ** 20;

export class ByteCursor {
  readonly #file: string;
  readonly #descriptor: number;
  readonly #end: number;
  #bytes: Buffer<ArrayBuffer> = Buffer.alloc(0);
  #position = 0;

  /** `byteCountMax`: the most of the file that may be read. */
  constructor(file: string, descriptor: number, fileByteCount: number, byteCountMax: number) {
    this.#file = file;
    this.#descriptor = descriptor;
    this.#end = Math.min(fileByteCount, byteCountMax);
  }

  /** From the start of the file. */
  get position(): number {
    return this.#position;
  }

  u32(): number {
    return this.#take(4, (at) => this.#bytes.readUInt32LE(at));
  }

  /** Above 2^53 it is not exact, and too large for any count. */
  u64(): number {
    return this.#take(8, (at) => this.#bytes.readUInt32LE(at) + this.#bytes.readUInt32LE(at + 4) * 2 ** 32);
  }

  bytes(byteCount: number): Buffer<ArrayBuffer> {
    return this.#take(byteCount, (at) => this.#bytes.subarray(at, at + byteCount));
  }

  text(byteCount: number): string {
    return this.bytes(byteCount).toString('utf8');
  }

  /** What was read from `start` on. */
  since(start: number): Buffer<ArrayBuffer> {
    return this.#bytes.subarray(start, this.#position);
  }

  #take<T>(byteCount: number, read: (at: number) => T): T {
    const at = this.#position;
    if (!(at + byteCount <= this.#end)) {
      throw new ModelError(
        `${this.#file}: its header ends past byte ${this.#end}: truncated or no GGUF; download it again`,
      );
    }
    if (at + byteCount > this.#bytes.length) this.#readTo(at + byteCount);
    this.#position = at + byteCount;
    return read(at);
  }

  #readTo(needed: number): void {
    const length = Math.min(this.#end, Math.max(needed, firstStretchBytes, 2 * this.#bytes.length));
    const longer = Buffer.alloc(length);
    this.#bytes.copy(longer);
    for (let done = this.#bytes.length; done < length; ) {
      const count = readSync(this.#descriptor, longer, done, length - done, done);
      if (count === 0) throw new ModelError(`${this.#file}: truncated at byte ${done}; download it again`);
      done += count;
    }
    this.#bytes = longer;
  }
}
