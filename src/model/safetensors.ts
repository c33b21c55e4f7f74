/** Headers of safetensors files: which tensor lies where. Bytes are never read here (weights.ts maps the
 *  file).
 *
 *    file = u64 header length (little endian) | JSON header | data
 *    header = { name: { dtype, shape, data_offsets: [begin, end) of data }, …, "__metadata__": … }
 *
 *  The invariant: an entry handed out lies wholly within its file, its bytes are those its shape and dtype
 *  need, and no two overlap. A header is hostile until proven otherwise: a wrong one is a ModelError, never a
 *  wild read. */
import { readSync } from 'node:fs';
import { ModelError } from '../base/errors.js';
import type { PlainDtype } from '../device/stored-matrix.js';
import { elementCount } from '../device/tensor.js';
import type { TensorEntry } from './checkpoint.js';
import { bf16ToNumber, f16ToNumber } from './half-floats.js';
import { describeJson, isJsonObject, type JsonValue, parseJson, withFile } from './json-file.js';

/** The format's own limit: a header is at most 100 MB. Seven values a tensor: 150,000 tensors, more than the
 *  largest known model has. */
const headerLimits = { byteCount: 100_000_000, valueCount: 2 ** 20 };
/** No tensor's name is longer, no shape has more dimensions. */
const nameLengthMax = 1024;
const dimensionCountMax = 8;
const supportedDtypes = new Map<string, PlainDtype>(Object.entries({ F32: 'f32', BF16: 'bf16', F16: 'f16' }));
const knownDtypeBytes = new Map<string, number>(
  Object.entries({
    BOOL: 1,
    U8: 1,
    I8: 1,
    F8_E4M3: 1,
    F8_E5M2: 1,
    F8_E8M0: 1,
    U16: 2,
    I16: 2,
    F16: 2,
    BF16: 2,
    U32: 4,
    I32: 4,
    F32: 4,
    U64: 8,
    I64: 8,
    F64: 8,
    C64: 8,
  }),
);

/** The entries of one file by name. Opens, reads the header, closes. @throws ModelError naming file and
 *  tensor. */
export function readSafetensorsHeader(file: string): ReadonlyMap<string, TensorEntry> {
  const { header, dataStart, fileByteCount } = readHeader(file);
  const entries = Object.entries(header)
    .filter(([name]) => name !== '__metadata__')
    .map(([name, value]) => readEntry(file, name, value ?? null, dataStart));
  checkPlaces(file, entries, dataStart, fileByteCount);
  return new Map(entries.map((entry) => [entry.name, entry]));
}

/** The dtype kernels can convert from. @throws ModelError for one that cannot be a weight here. */
export function weightDtype(entry: TensorEntry): PlainDtype {
  const dtype = supportedDtypes.get(entry.fileDtype);
  if (dtype !== undefined) return dtype;
  throw new ModelError(
    `${entry.file}: tensor "${entry.name}" has dtype ${entry.fileDtype}, which is not supported (supported: F32, BF16, F16)`,
  );
}

/** Values of a small tensor (a norm, a bias, scales) as float32. @throws ModelError */
export function readFloats(entry: TensorEntry): Float32Array<ArrayBuffer> {
  const dtype = weightDtype(entry);
  const bytes = readTensorBytes(entry);
  if (dtype === 'f32') return new Float32Array(bytes.buffer);
  const halves = new Uint16Array(bytes.buffer);
  return Float32Array.from(halves, dtype === 'bf16' ? bf16ToNumber : f16ToNumber);
}

/** The bytes of a small tensor. @throws ModelError */
export function readTensorBytes(entry: TensorEntry): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(entry.byteCount);
  withFile(entry.file, (descriptor) => readExactly(descriptor, entry.file, bytes, entry.byteOffset));
  return bytes;
}

interface Header {
  readonly header: { readonly [name: string]: JsonValue | undefined };
  readonly dataStart: number;
  readonly fileByteCount: number;
}

function readHeader(file: string): Header {
  return withFile(file, (descriptor, fileByteCount) => {
    if (fileByteCount < 8)
      throw new ModelError(`${file}: truncated: ${fileByteCount} bytes are too few for a safetensors file`);
    const prefix = new Uint8Array(8);
    readExactly(descriptor, file, prefix, 0);
    const headerByteCount = new DataView(prefix.buffer).getBigUint64(0, true);
    if (headerByteCount > BigInt(headerLimits.byteCount)) {
      throw new ModelError(
        `${file}: not a safetensors file: its header would be ${headerByteCount} bytes (most: ${headerLimits.byteCount})`,
      );
    }
    const dataStart = 8 + Number(headerByteCount);
    if (dataStart > fileByteCount) {
      throw new ModelError(
        `${file}: truncated: the header needs ${dataStart} bytes, the file has ${fileByteCount}; download it again`,
      );
    }
    const text = Buffer.alloc(Number(headerByteCount));
    readExactly(descriptor, file, text, 8);
    const header = parseJson(text, `${file} (header)`, headerLimits);
    if (!isJsonObject(header))
      throw new ModelError(`${file}: header: expected a JSON object, got ${describeJson(header)}`);
    return { header, dataStart, fileByteCount };
  });
}

function readEntry(file: string, name: string, value: JsonValue, dataStart: number): TensorEntry {
  const fail = (problem: string): never => {
    throw new ModelError(`${file}: tensor ${describeJson(name)}: ${problem}`);
  };
  if (name.length > nameLengthMax)
    return fail(`its name has ${name.length} characters (at most ${nameLengthMax})`);
  if (!isJsonObject(value)) return fail(`its header entry must be an object, got ${describeJson(value)}`);
  const { dtype, shape, data_offsets: offsets } = value;
  const elementBytes = typeof dtype === 'string' ? knownDtypeBytes.get(dtype) : undefined;
  if (typeof dtype !== 'string' || elementBytes === undefined)
    return fail(`unknown dtype ${describeJson(dtype)}`);
  if (!isCountList(shape))
    return fail(`shape must be a list of non-negative integers, got ${describeJson(shape)}`);
  if (shape.length > dimensionCountMax)
    return fail(`its shape has ${shape.length} dimensions (at most ${dimensionCountMax})`);
  if (!isCountList(offsets) || offsets.length !== 2)
    return fail(`data_offsets must be two byte counts, got ${describeJson(offsets)}`);
  const [begin = 0, end = 0] = offsets;
  const needed = elementCount(shape) * elementBytes;
  if (end - begin !== needed)
    return fail(
      `shape [${shape.join(', ')}] of ${dtype} needs ${needed} bytes, data_offsets give ${end - begin}`,
    );
  return { name, file, fileDtype: dtype, shape, byteOffset: dataStart + begin, byteCount: needed };
}

/** Whole file present, entries back to back without overlap. */
function checkPlaces(
  file: string,
  entries: readonly TensorEntry[],
  dataStart: number,
  fileByteCount: number,
): void {
  const ordered = [...entries].sort((a, b) => a.byteOffset - b.byteOffset || a.byteCount - b.byteCount);
  let previous: TensorEntry | null = null;
  for (const entry of ordered) {
    const end = entry.byteOffset + entry.byteCount;
    if (end > fileByteCount) {
      throw new ModelError(
        `${file}: truncated: tensor "${entry.name}" ends at byte ${end}, the file has ${fileByteCount} bytes; download it again`,
      );
    }
    if (entry.byteOffset < (previous === null ? dataStart : previous.byteOffset + previous.byteCount)) {
      throw new ModelError(`${file}: tensors "${previous?.name}" and "${entry.name}" overlap`);
    }
    previous = entry;
  }
}

function isCountList(value: JsonValue | undefined): value is readonly number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && (item as number) >= 0);
}

function readExactly(descriptor: number, file: string, target: Uint8Array, position: number): void {
  let done = 0;
  while (done < target.length) {
    const count = readSync(descriptor, target, done, target.length - done, position + done);
    if (count === 0) throw new ModelError(`${file}: truncated at byte ${position + done}; download it again`);
    done += count;
  }
}
