/** A tensor is a place on a device, a shape and a dtype; it owns nothing. */
import type { Dtype } from './dtype.js';
import { dtypeByteCounts } from './dtype.js';

declare const pointerBrand: unique symbol;
/** An address on the device (or in pinned or mapped host memory). Below 2^53, so a plain number is exact. */
export type Pointer = number & { readonly [pointerBrand]: true };

export interface Tensor {
  readonly pointer: Pointer;
  readonly shape: readonly number[];
  readonly dtype: Dtype;
}

export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, extent) => product * extent, 1);
}

export function byteCount(tensor: Pick<Tensor, 'shape' | 'dtype'>): number {
  return elementCount(tensor.shape) * dtypeByteCounts[tensor.dtype];
}

/** The address `bytes` behind `pointer`. */
export function offsetPointer(pointer: Pointer, bytes: number): Pointer {
  return (pointer + bytes) as Pointer;
}

/** The length of its last dimension. */
export function columns(tensor: Tensor): number {
  return tensor.shape[tensor.shape.length - 1] ?? 0;
}

/** How many rows of `columns` it has. */
export function rowsOf(tensor: Tensor): number {
  return elementCount(tensor.shape) / columns(tensor);
}
