/** ggml's tensor types by their number in a GGUF file. Used by header.ts and gguf-checkpoint.ts. */
import {
  type BlockEncoding,
  blockColumnsOf,
  type PlainDtype,
  storedRowBytes,
} from '../../device/stored-matrix.js';

interface GgmlType {
  readonly name: string;
  /** null: no kernel here reads it. */
  readonly encoding: PlainDtype | BlockEncoding | null;
}

const supported: readonly (readonly [number, PlainDtype | BlockEncoding])[] = [
  ...([
    [0, 'f32'],
    [1, 'f16'],
    [30, 'bf16'],
    [2, 'q4_0'],
    [3, 'q4_1'],
    [6, 'q5_0'],
    [7, 'q5_1'],
    [8, 'q8_0'],
  ] as const),
  ...([
    [10, 'q2_k'],
    [11, 'q3_k'],
    [12, 'q4_k'],
    [13, 'q5_k'],
    [14, 'q6_k'],
  ] as const),
  ...([
    [20, 'iq4_nl'],
    [23, 'iq4_xs'],
    [39, 'mxfp4'],
  ] as const),
];
const unsupported: readonly (readonly [number, string])[] = [
  ...([
    [9, 'Q8_1'],
    [15, 'Q8_K'],
    [16, 'IQ2_XXS'],
    [17, 'IQ2_XS'],
    [18, 'IQ3_XXS'],
    [19, 'IQ1_S'],
  ] as const),
  ...([
    [21, 'IQ3_S'],
    [22, 'IQ2_S'],
    [24, 'I8'],
    [25, 'I16'],
    [26, 'I32'],
    [27, 'I64'],
    [28, 'F64'],
  ] as const),
  ...([
    [29, 'IQ1_M'],
    [34, 'TQ1_0'],
    [35, 'TQ2_0'],
    [40, 'NVFP4'],
  ] as const),
];

const types = new Map<number, GgmlType>([
  ...supported.map(([code, encoding]) => [code, { name: encoding.toUpperCase(), encoding }] as const),
  ...unsupported.map(([code, name]) => [code, { name, encoding: null }] as const),
]);
const encodings = new Map(supported.map(([, encoding]) => [encoding.toUpperCase(), encoding]));

export const supportedTypeNames = [...encodings.keys()].join(', ');

/** undefined: no such type. */
export function ggmlType(code: number): GgmlType | undefined {
  return types.get(code);
}

/** Of a type by its name; null: not supported. */
export function encodingOf(name: string): PlainDtype | BlockEncoding | null {
  return encodings.get(name) ?? null;
}

/** Bytes of rows of k elements; null: k is no multiple of the block. */
export function bytesOf(encoding: PlainDtype | BlockEncoding, k: number, rowCount: number): number | null {
  return k % blockColumnsOf(encoding) === 0 ? rowCount * storedRowBytes(encoding, k) : null;
}
