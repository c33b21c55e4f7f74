/** Headers of GGUF files, versions 2 and 3: keys, and which tensor lies where. Bytes of tensors are never
 *  read here.
 *
 *     file = "GGUF" | u32 version | u64 tensors | u64 keys | keys | tensor infos | padding | data
 *
 *  The invariant: an entry handed out lies wholly within its file, its bytes are those its shape and type
 *  need, and no two overlap. A header is hostile until proven otherwise: its size, counts and lengths are
 *  bounded, and a wrong one is a ModelError, never a wild read. */
import { ModelError } from '../../base/errors.js';
import { elementCount } from '../../device/tensor.js';
import type { TensorEntry } from '../checkpoint.js';
import { describeJson, withFile } from '../json-file.js';
import { ByteCursor } from './byte-cursor.js';
import { bytesOf, ggmlType } from './ggml-types.js';
import { Metadata, type MetadataArray, type MetadataValue } from './metadata.js';

/** Largest known: 262,000 tokens with scores and types, 515,000 merges, 30 MB. */
const limits = { headerBytes: 2 ** 27, keyCount: 2 ** 14, itemCount: 2 ** 22, tensorCount: 2 ** 17 };
const nameBytesMax = 1024;
const dimensionCountMax = 4;
const defaultAlignment = 32;

interface GgufHeader {
  readonly metadata: Metadata;
  readonly entries: readonly TensorEntry[];
}

/** Opens, reads the header, closes. @throws ModelError naming file, key or tensor. */
export function readGgufHeader(file: string): GgufHeader {
  return withFile(file, (descriptor, fileByteCount) => {
    const reader = new HeaderReader(
      file,
      new ByteCursor(file, descriptor, fileByteCount, limits.headerBytes),
    );
    return reader.read(fileByteCount);
  });
}

const stringType = 8;
const arrayType = 9;
const boolType = 7;

interface NumberType {
  readonly bytes: number;
  readonly read: (view: DataView, at: number) => number;
}

/** Above 2^53 a number is not exact, and too large for anything counted. */
const numberTypes = new Map<number, NumberType>([
  [0, { bytes: 1, read: (view, at) => view.getUint8(at) }],
  [1, { bytes: 1, read: (view, at) => view.getInt8(at) }],
  [2, { bytes: 2, read: (view, at) => view.getUint16(at, true) }],
  [3, { bytes: 2, read: (view, at) => view.getInt16(at, true) }],
  [4, { bytes: 4, read: (view, at) => view.getUint32(at, true) }],
  [5, { bytes: 4, read: (view, at) => view.getInt32(at, true) }],
  [6, { bytes: 4, read: (view, at) => view.getFloat32(at, true) }],
  [boolType, { bytes: 1, read: (view, at) => view.getUint8(at) }],
  [10, { bytes: 8, read: (view, at) => Number(view.getBigUint64(at, true)) }],
  [11, { bytes: 8, read: (view, at) => Number(view.getBigInt64(at, true)) }],
  [12, { bytes: 8, read: (view, at) => view.getFloat64(at, true) }],
]);

class HeaderReader {
  readonly #file: string;
  readonly #cursor: ByteCursor;
  #itemCount = 0;

  constructor(file: string, cursor: ByteCursor) {
    this.#file = file;
    this.#cursor = cursor;
  }

  read(fileByteCount: number): GgufHeader {
    this.#readMagic();
    const tensorCount = this.#count('tensors', limits.tensorCount);
    const keyCount = this.#count('keys', limits.keyCount);
    const values = new Map<string, MetadataValue>();
    for (let i = 0; i < keyCount; i++) {
      const key = this.#name('a key');
      if (values.has(key)) this.#fail(`key ${describeJson(key)} is there twice`);
      values.set(key, this.#value(key, this.#cursor.u32()));
    }
    const metadata = new Metadata(this.#file, values);
    const alignment = metadata.count('general.alignment', defaultAlignment);
    if (alignment % 8 !== 0 || alignment > 2 ** 16)
      metadata.fail('general.alignment', 'a multiple of 8, at most 65536');
    const infos = Array.from({ length: tensorCount }, () => this.#tensorInfo(alignment));
    const dataStart = Math.ceil(this.#cursor.position / alignment) * alignment;
    const entries = infos.map((info) => ({ ...info, byteOffset: info.byteOffset + dataStart }));
    checkPlaces(this.#file, entries, fileByteCount);
    return { metadata, entries };
  }

  #readMagic(): void {
    const magic = this.#cursor.text(4);
    if (magic !== 'GGUF') this.#fail(`not a GGUF file: it begins with ${describeJson(magic)}`);
    const version = this.#cursor.u32();
    if (version === 2 || version === 3) return;
    const isBigEndian = version % 2 ** 24 === 0 && version !== 0;
    this.#fail(
      isBigEndian
        ? 'a GGUF file for big-endian machines: use the little-endian one'
        : `GGUF version ${version} is not supported (supported: 2, 3): convert it again`,
    );
  }

  #count(what: string, most: number): number {
    const count = this.#cursor.u64();
    if (count > most) this.#fail(`${count} ${what} are too many (at most ${most})`);
    return count;
  }

  #name(what: string): string {
    const byteCount = this.#cursor.u64();
    if (byteCount > nameBytesMax)
      this.#fail(`${what} has a name of ${byteCount} bytes (at most ${nameBytesMax})`);
    return this.#cursor.text(byteCount);
  }

  #value(key: string, code: number): MetadataValue {
    if (code === stringType) return this.#cursor.text(this.#cursor.u64());
    if (code === arrayType) return this.#array(key);
    const type = numberTypes.get(code);
    if (type === undefined) return this.#fail(`key ${describeJson(key)} has the unknown type ${code}`);
    const [value = 0] = numbersOf(this.#cursor.bytes(type.bytes), type, 1);
    return code === boolType ? value !== 0 : value;
  }

  /** Walked over now, decoded when asked for. */
  #array(key: string): MetadataArray {
    const code = this.#cursor.u32();
    const count = this.#cursor.u64();
    this.#itemCount += count;
    if (this.#itemCount > limits.itemCount)
      this.#fail(`key ${describeJson(key)}: the lists hold more than ${limits.itemCount} items`);
    if (code === stringType) return this.#strings(count);
    const type = numberTypes.get(code);
    if (type === undefined)
      return this.#fail(`key ${describeJson(key)} is a list of the unsupported type ${code}`);
    const bytes = this.#cursor.bytes(count * type.bytes);
    return { kind: 'numbers', count, read: () => numbersOf(bytes, type, count) };
  }

  #strings(count: number): MetadataArray {
    const start = this.#cursor.position;
    for (let i = 0; i < count; i++) this.#cursor.bytes(this.#cursor.u64());
    const bytes = this.#cursor.since(start);
    return { kind: 'strings', count, read: () => stringsOf(bytes, count) };
  }

  #tensorInfo(alignment: number): TensorEntry {
    const name = this.#name('a tensor');
    const fail = (problem: string): never => this.#fail(`tensor ${describeJson(name)}: ${problem}`);
    const dimensionCount = this.#cursor.u32();
    if (dimensionCount < 1 || dimensionCount > dimensionCountMax)
      fail(`its shape has ${dimensionCount} dimensions (1 to ${dimensionCountMax})`);
    const dimensions = Array.from({ length: dimensionCount }, () => this.#cursor.u64());
    const code = this.#cursor.u32();
    const byteOffset = this.#cursor.u64();
    const count = elementCount(dimensions);
    if (!dimensions.every((extent) => extent >= 1) || !Number.isSafeInteger(count)) {
      fail(`its shape [${dimensions.join(', ')}] is impossible`);
    }
    const type = ggmlType(code) ?? fail(`unknown type ${code}`);
    if (byteOffset % alignment !== 0) fail(`its offset ${byteOffset} is no multiple of ${alignment}`);
    const [k = 1] = dimensions;
    const byteCount = type.encoding === null ? 0 : bytesOf(type.encoding, k, count / k);
    if (byteCount === null || !Number.isSafeInteger(byteCount + byteOffset)) {
      return fail(`rows of ${k} elements cannot be stored as ${type.name}`);
    }
    return {
      name,
      file: this.#file,
      fileDtype: type.name,
      shape: dimensions.reverse(),
      byteOffset,
      byteCount,
    };
  }

  #fail(problem: string): never {
    throw new ModelError(`${this.#file}: ${problem}`);
  }
}

/** Whole file present, no two tensors of one name or place. */
function checkPlaces(file: string, entries: readonly TensorEntry[], fileByteCount: number): void {
  const names = new Set<string>();
  for (const { name } of entries) {
    if (names.has(name)) throw new ModelError(`${file}: tensor ${describeJson(name)} is there twice`);
    names.add(name);
  }
  const ordered = [...entries].sort((a, b) => a.byteOffset - b.byteOffset || a.byteCount - b.byteCount);
  let previous: TensorEntry | null = null;
  for (const entry of ordered) {
    const end = entry.byteOffset + entry.byteCount;
    if (end > fileByteCount) {
      throw new ModelError(
        `${file}: truncated: tensor ${describeJson(entry.name)} ends at byte ${end}, the file has ${fileByteCount} bytes; download it again`,
      );
    }
    if (previous !== null && entry.byteOffset < previous.byteOffset + previous.byteCount) {
      throw new ModelError(
        `${file}: tensors ${describeJson(previous.name)} and ${describeJson(entry.name)} overlap`,
      );
    }
    previous = entry;
  }
}

function stringsOf(bytes: Buffer, count: number): readonly string[] {
  let at = 0;
  return Array.from({ length: count }, () => {
    const start = at + 8;
    at = start + Number(bytes.readBigUInt64LE(at));
    return bytes.toString('utf8', start, at);
  });
}

function numbersOf(bytes: Buffer, type: NumberType, count: number): readonly number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return Array.from({ length: count }, (_, i) => type.read(view, i * type.bytes));
}
