/** A matrix as a file stores it, with the codes of native/pd.h: what loaders make and `fillWeight` and
 *  `readMatrix` take. Numbers, and what gives them their values: value = (number - zero) * scale.
 *  native/stored.h has the arithmetic of every encoding. */
import type { Dtype } from './dtype.js';
import { dtypeByteCounts, dtypeCodes } from './dtype.js';
import type { Pointer } from './tensor.js';

/** ggml's blocks: numbers of `columns` elements along k with their scales, in `bytes`. */
const blockSizes = {
  q4_0: { code: 34, columns: 32, bytes: 18 },
  q4_1: { code: 35, columns: 32, bytes: 20 },
  q5_0: { code: 38, columns: 32, bytes: 22 },
  q5_1: { code: 39, columns: 32, bytes: 24 },
  q8_0: { code: 40, columns: 32, bytes: 34 },
  q2_k: { code: 42, columns: 256, bytes: 84 },
  q3_k: { code: 43, columns: 256, bytes: 110 },
  q4_k: { code: 44, columns: 256, bytes: 144 },
  q5_k: { code: 45, columns: 256, bytes: 176 },
  q6_k: { code: 46, columns: 256, bytes: 210 },
  iq4_nl: { code: 52, columns: 32, bytes: 18 },
  iq4_xs: { code: 55, columns: 256, bytes: 136 },
  mxfp4: { code: 71, columns: 32, bytes: 17 },
} as const;

/** Numbers in 32-bit words, the first lowest. */
const packedCodes = { u4: 16, u8: 17, e2m1: 18 } as const;

export type BlockEncoding = keyof typeof blockSizes;
type PackedEncoding = keyof typeof packedCodes;
export type PlainDtype = 'f32' | 'bf16' | 'f16';
export type Encoding = PlainDtype | 'i8' | 'fp8' | PackedEncoding | BlockEncoding;

export interface StoredMatrix {
  readonly pointer: Pointer;
  /** From `pointer` on: all that is read. */
  readonly byteCount: number;
  readonly encoding: Encoding;
  /** In elements; of packed numbers in words; of blocks in bytes. */
  readonly rowStride: number;
  /** Packed numbers: in words, along k. */
  readonly columnStride?: number;
  /** [rows, groupCount] f32 in host memory, as `zeros`; absent: 1 and 0. */
  readonly scales?: Pointer;
  readonly zeros?: Pointer;
  /** [k] i32: the group of each column; absent: column / groupColumns. */
  readonly groups?: Pointer;
  readonly groupColumns?: number;
  readonly groupCount?: number;
  /** Whether a packed word holds numbers along k (the default) or along the rows. */
  readonly wordsAlong?: 'columns' | 'rows';
  /** How eight numbers lie in a word: AWQ has 0 4 1 5 2 6 3 7. */
  readonly wordOrder?: 'ascending' | 'awq';
  /** Each so many rows are stored as pairs (i, i + half), as llama.cpp rotates them; 0: in order. */
  readonly pairedRows?: number;
}

function isBlockEncoding(encoding: Encoding): encoding is BlockEncoding {
  return encoding in blockSizes;
}

export function isPlainDtype(encoding: Encoding): encoding is PlainDtype {
  return encoding === 'f32' || encoding === 'bf16' || encoding === 'f16';
}

/** Elements along k that are stored together. */
export function blockColumnsOf(encoding: BlockEncoding | PlainDtype): number {
  return isBlockEncoding(encoding) ? blockSizes[encoding].columns : 1;
}

/** Of whole rows; k must be a multiple of the block. */
export function storedRowBytes(encoding: BlockEncoding | PlainDtype, k: number): number {
  if (!isBlockEncoding(encoding)) return k * dtypeByteCounts[encoding];
  const { columns, bytes } = blockSizes[encoding];
  return (k / columns) * bytes;
}

/** Rows of plain numbers, one after the other. */
export function plainMatrix(
  pointer: Pointer,
  dtype: PlainDtype,
  rowCount: number,
  rowStride: number,
): StoredMatrix {
  return { pointer, byteCount: rowCount * rowStride * dtypeByteCounts[dtype], encoding: dtype, rowStride };
}

export function encodingCode(encoding: Encoding): number {
  if (isBlockEncoding(encoding)) return blockSizes[encoding].code;
  return encoding in packedCodes ? packedCodes[encoding as PackedEncoding] : dtypeCodes[encoding as Dtype];
}
