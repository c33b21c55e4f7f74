/** The tensors that a quantised module consists of, found and checked. Used by the layouts of this folder. */
import { ModelError } from '../../base/errors.js';
import type { TensorEntry } from '../checkpoint.js';
import { readTensorBytes } from '../safetensors.js';

export interface QuantisedModule {
  /** As in the checkpoint, without ".weight". */
  readonly name: string;
  readonly source: string;
  /** The tensor of this name and suffix (".qweight"); null: there is none. */
  readonly find: (suffix: string) => TensorEntry | null;
}

/** A tensor that the layout needs, with its dtype and shape. @throws ModelError */
export function required(
  module: QuantisedModule,
  suffix: string,
  dtypes: readonly string[],
  shape: readonly number[],
): TensorEntry {
  const entry = module.find(suffix);
  if (entry === null) throw new ModelError(`${module.source}: tensor "${module.name}${suffix}" is missing`);
  checkDtype(entry, dtypes);
  if (entry.shape.length !== shape.length || entry.shape.some((extent, i) => extent !== shape[i])) {
    throw new ModelError(
      `${entry.file}: tensor "${entry.name}" has shape [${entry.shape.join(', ')}], the matrix it belongs to needs [${shape.join(', ')}]`,
    );
  }
  return entry;
}

/** @throws ModelError */
export function checkDtype(entry: TensorEntry, dtypes: readonly string[]): void {
  if (dtypes.includes(entry.fileDtype)) return;
  throw new ModelError(
    `${entry.file}: tensor "${entry.name}" has dtype ${entry.fileDtype}, which is not supported here (supported: ${dtypes.join(', ')})`,
  );
}

/** How many columns share a scale when `count` groups cover `k` of them. Kernels need a multiple of 16.
 *  @throws ModelError */
export function groupColumnsOf(entry: TensorEntry, k: number, count: number): number {
  const columns = Math.ceil(k / Math.max(1, count));
  if (
    count >= 1 &&
    Math.ceil(k / columns) === count &&
    (count === 1 || (k % columns === 0 && columns % 16 === 0))
  )
    return columns;
  throw new ModelError(
    `${entry.file}: tensor "${entry.name}": ${count} groups over ${k} columns are not supported: groups must be equal, of a multiple of 16`,
  );
}

export const floatDtypes = ['F32', 'F16', 'BF16'];

/** A number of `bits` in a word, `place` numbers from its lowest. */
export function unpacked(word: number | undefined, bits: number, place: number): number {
  return ((word ?? 0) >>> (bits * place)) & (2 ** bits - 1);
}

/** The group of each column; null: every column is in the group of its place. @throws ModelError for a
 *  group that is not there */
export function readGroups(
  entry: TensorEntry,
  groupColumns: number,
  groupCount: number,
): Int32Array<ArrayBuffer> | null {
  const groups = new Int32Array(readTensorBytes(entry).buffer);
  const wrong = groups.find((group) => group < 0 || group >= groupCount);
  if (wrong !== undefined)
    throw new ModelError(
      `${entry.file}: tensor "${entry.name}" names group ${wrong}, there are ${groupCount}`,
    );
  return groups.every((group, column) => group === Math.floor(column / groupColumns)) ? null : groups;
}
