/** Which weight format multiplies the numbers of a stored matrix as they are. Used by weights.ts. */
import type { WeightPart } from '../device/device.js';
import type { Encoding } from '../device/stored-matrix.js';
import type { GroupedFormat } from '../device/weight-format.js';
import type { StoredTensor } from './checkpoint.js';

const blockFormats: Partial<Record<Encoding, GroupedFormat>> = {
  q4_0: 'q4',
  q4_1: 'q4_min',
  q5_0: 'q5',
  q5_1: 'q5_min',
  q8_0: 'q8',
  q2_k: 'q4_16_min',
  q3_k: 'q4_16',
  q4_k: 'q4_min',
  q5_k: 'q5_min',
  q6_k: 'q6_16',
  iq4_nl: 'iq4',
  iq4_xs: 'iq4',
  mxfp4: 'fp4',
};

/** Rows of a packed panel: a part of another format begins at a multiple of them. */
const panelRows = 32;

/** null: none does; its values are rounded to a plain dtype. */
function packedFormat(tensor: StoredTensor): GroupedFormat | null {
  const { encoding, groupColumns = 0, groupCount = 0 } = tensor.layout;
  const ofBlocks = blockFormats[encoding];
  if (ofBlocks !== undefined) return ofBlocks;
  if (tensor.isInOrder === false) return null;
  const is32 = groupCount === 1 || groupColumns % 32 === 0;
  switch (encoding) {
    case 'u4':
      if (is32) return tensor.isSymmetric ? 'q4' : 'q4_min';
      return tensor.isSymmetric ? 'q4_16' : 'q4_16_min';
    case 'u8':
      if (!is32) return null;
      return tensor.isSymmetric ? 'q8' : 'q8_min';
    case 'i8':
      return is32 && tensor.isSymmetric ? 'q8' : null;
    case 'e2m1':
      return is32 ? 'fp4' : null;
    default:
      return null;
  }
}

/** The formats of a matrix made of several tensors, alike in every matrix of a stack; null: they cannot be
 *  multiplied as they are together. `tensors`: [matrix][part] */
export function packedParts(
  tensors: readonly (readonly (StoredTensor | null)[])[],
  rowCounts: readonly number[],
): readonly WeightPart[] | null {
  const parts: WeightPart[] = [];
  for (const [i, rowCount] of rowCounts.entries()) {
    const formats = new Set(
      tensors.map((matrix) => matrix[i] ?? null).map((tensor) => tensor && packedFormat(tensor)),
    );
    const [format] = formats;
    if (formats.size !== 1 || format === null || format === undefined) return null;
    const last = parts.at(-1);
    if (last?.format === format) parts[parts.length - 1] = { rowCount: last.rowCount + rowCount, format };
    else parts.push({ rowCount, format });
  }
  return parts.slice(0, -1).every((part) => part.rowCount % panelRows === 0) ? parts : null;
}
