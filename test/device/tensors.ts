/** Device memory for the device tests: tensors from arrays, poisoned outputs, and the instruction sets this
 *  machine has. */
import { Prng } from '../../src/base/prng.js';
import type { Device, DeviceOptions, HostBuffer, Isa } from '../../src/device/device.js';
import { openDevice } from '../../src/device/native.js';
import type { Pointer, Tensor } from '../../src/device/tensor.js';

export const cpu: DeviceOptions = { kind: 'cpu', index: 0 };

export function availableIsas(): Isa[] {
  return (['scalar', 'avx2', 'avx512'] as const).filter((isa) => {
    try {
      openDevice({ ...cpu, isa, threadCount: 1 }).close();
      return true;
    } catch {
      return false;
    }
  });
}

/** A device with memory that can be read and written from TypeScript. */
export class Bench {
  readonly device: Device;
  readonly stream;
  readonly #buffers = new Map<Pointer, HostBuffer>();

  constructor(options: Partial<DeviceOptions> = {}) {
    this.device = openDevice({ ...cpu, ...options });
    this.stream = this.device.createStream();
  }

  f32(values: ArrayLike<number>, shape: readonly number[] = [values.length]): Tensor {
    const tensor = this.#tensor(shape, 'f32');
    this.floats(tensor).set(Float32Array.from(values));
    return tensor;
  }

  i32(values: ArrayLike<number>, shape: readonly number[] = [values.length]): Tensor {
    const tensor = this.#tensor(shape, 'i32');
    this.integers(tensor).set(Int32Array.from(values));
    return tensor;
  }

  u16(values: ArrayLike<number>, dtype: 'bf16' | 'f16', shape: readonly number[] = [values.length]): Tensor {
    const tensor = this.#tensor(shape, dtype);
    this.halves(tensor).set(Uint16Array.from(values));
    return tensor;
  }

  /** An output full of NaN (0xffff for halves), so that what an op forgets to write shows. */
  poisoned(shape: readonly number[], dtype: 'f32' | 'i32' | 'bf16' | 'f16' = 'f32'): Tensor {
    const tensor = this.#tensor(shape, dtype);
    this.#bytes(tensor).fill(0xff);
    return tensor;
  }

  normal(shape: readonly number[], seed: number, scale = 1): Tensor {
    const prng = new Prng(seed);
    const count = shape.reduce((product, extent) => product * extent, 1);
    return this.f32(
      Array.from({ length: count }, () => prng.normal() * scale),
      shape,
    );
  }

  floats(tensor: Tensor): Float32Array {
    const bytes = this.#bytes(tensor);
    return new Float32Array(bytes.buffer, 0, Math.floor(bytes.byteLength / 4));
  }

  integers(tensor: Tensor): Int32Array {
    const bytes = this.#bytes(tensor);
    return new Int32Array(bytes.buffer, 0, Math.floor(bytes.byteLength / 4));
  }

  halves(tensor: Tensor): Uint16Array {
    const bytes = this.#bytes(tensor);
    return new Uint16Array(bytes.buffer, 0, Math.floor(bytes.byteLength / 2));
  }

  close(): void {
    this.device.close();
    this.#buffers.clear();
  }

  #tensor(shape: readonly number[], dtype: Tensor['dtype']): Tensor {
    const count = shape.reduce((product, extent) => product * extent, 1);
    const buffer = this.device.allocateHost(
      Math.max(8, count * (dtype === 'f32' || dtype === 'i32' ? 4 : 2)),
    );
    this.#buffers.set(buffer.pointer, buffer);
    return { pointer: buffer.pointer, shape, dtype };
  }

  #bytes(tensor: Tensor): Uint8Array {
    const buffer = this.#buffers.get(tensor.pointer);
    if (buffer === undefined) throw new Error('not a tensor of this bench');
    return buffer.bytes;
  }
}

/** Float64 reference of a sum of many products may differ from f32 by a few units in the last place per
 *  term. */
export function expectClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  relative: number,
  absolute: number,
): void {
  if (actual.length !== expected.length)
    throw new Error(`${actual.length} values, expected ${expected.length}`);
  for (let i = 0; i < expected.length; i++) {
    const [a, e] = [actual[i] as number, expected[i] as number];
    const isClose = Object.is(a, e) || Math.abs(a - e) <= absolute + relative * Math.abs(e);
    if (!isClose) throw new Error(`[${i}]: ${a}, expected ${e}`);
  }
}
