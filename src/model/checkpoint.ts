/** The tensors of a model by their names in a Hugging Face checkpoint, whatever files they come from. Used
 *  by weights.ts; made by open-checkpoint.ts. The invariant: a tensor that is asked for exists with the
 *  shape the architecture needs, or a ModelError names file, tensor and both shapes. */
import { ModelError } from '../base/errors.js';
import type { StoredMatrix } from '../device/stored-matrix.js';

/** Bytes of a file. */
export interface TensorEntry {
  readonly name: string;
  readonly file: string;
  /** As in the file: 'BF16', 'Q4_K'. */
  readonly fileDtype: string;
  readonly shape: readonly number[];
  /** From the start of the file. */
  readonly byteOffset: number;
  readonly byteCount: number;
}

/** What turns numbers into values, on the host: value = (number - zero) * scale. */
export interface Scaling {
  readonly scales: Float32Array<ArrayBuffer>; // [rows, groupCount]
  readonly zeros: Float32Array<ArrayBuffer> | null; // [rows, groupCount]; null: 0
  readonly groups: Int32Array<ArrayBuffer> | null; // [k] each column's group; null: column / groupColumns
}

/** How a matrix [rows, k] lies in the bytes of one entry: a StoredMatrix without addresses. */
export interface StoredTensor {
  readonly entry: TensorEntry;
  readonly layout: Omit<StoredMatrix, 'pointer' | 'byteCount' | 'scales' | 'zeros' | 'groups'>;
  /** Of packed numbers: all lie around half their range. */
  readonly isSymmetric?: boolean;
  /** Of packed numbers: groups of columns follow each other. False after GPTQ's act-order. */
  readonly isInOrder?: boolean;
  /** Read when the matrix is filled; null: the numbers are the values, or blocks have their scales inside. */
  readonly readScaling: (() => Scaling) | null;
}

export interface Checkpoint {
  /** What a message about a missing tensor names. */
  readonly source: string;
  has(name: string): boolean;
  /** @throws ModelError when missing, of another shape, or stored in a way that is not supported. */
  matrix(name: string, shape: readonly [rowCount: number, k: number]): StoredTensor;
  /** Values of a small tensor: a norm, a bias. @throws ModelError as above. */
  floats(name: string, shape: readonly number[]): Float32Array<ArrayBuffer>;
  /** Whether it would be found: errors of `floats`, without reading. @throws ModelError */
  check(name: string, shape: readonly number[]): void;
}

/** The entry of a checkpoint, with the shape that the architecture needs. @throws ModelError */
export function findEntry(
  entries: ReadonlyMap<string, TensorEntry>,
  source: string,
  name: string,
  shape: readonly number[],
): TensorEntry {
  const entry = entries.get(name);
  if (entry === undefined) throw new ModelError(`${source}: tensor "${name}" is missing`);
  if (entry.shape.length !== shape.length || entry.shape.some((extent, i) => extent !== shape[i])) {
    throw new ModelError(
      `${entry.file}: tensor "${name}" has shape [${entry.shape.join(', ')}], config.json asks for [${shape.join(', ')}]`,
    );
  }
  return entry;
}
