/** A GGUF file as a checkpoint: tensors under Hugging Face's names, blocks read as they are. Made by
 *  open-checkpoint.ts. Conversion to GGUF turns llama's query and key rows into pairs, and stacks experts:
 *  both are undone in reading. */
import { ModelError } from '../../base/errors.js';
import { isPlainDtype, storedRowBytes } from '../../device/stored-matrix.js';
import { type Checkpoint, findEntry, type StoredTensor, type TensorEntry } from '../checkpoint.js';
import { describeJson } from '../json-file.js';
import { readFloats } from '../safetensors.js';
import { encodingOf, supportedTypeNames } from './ggml-types.js';
import { type GgufModel, readGgufModel } from './gguf-file.js';
import { ggufName } from './tensor-names.js';

export class GgufCheckpoint implements Checkpoint {
  readonly source: string;
  readonly #model: GgufModel;
  readonly #architecture: string;
  /** Rows of a head, where query and key are stored as pairs; 0: they are not. */
  readonly #pairedRows: number;

  private constructor(source: string, model: GgufModel) {
    this.source = source;
    this.#model = model;
    const { metadata } = model;
    this.#architecture = metadata.text('general.architecture') ?? '';
    this.#pairedRows = this.#architecture === 'llama' ? headDimOf(model) : 0;
  }

  /** @throws ModelError */
  static open(file: string): GgufCheckpoint {
    return new GgufCheckpoint(file, readGgufModel(file));
  }

  has(name: string): boolean {
    const found = ggufName(name, this.#architecture);
    return found !== null && this.#model.entries.has(found.name);
  }

  check(name: string, shape: readonly number[]): void {
    this.#smallEntry(name, shape);
  }

  floats(name: string, shape: readonly number[]): Float32Array<ArrayBuffer> {
    const values = readFloats(this.#smallEntry(name, shape));
    return this.#arePairs(name) ? unpaired(values, this.#pairedRows) : values;
  }

  matrix(name: string, [rowCount, k]: readonly [number, number]): StoredTensor {
    const { entry, expert } = this.#entry(name, [rowCount, k]);
    const encoding = encodingOf(entry.fileDtype);
    if (encoding === null) {
      throw new ModelError(
        `${entry.file}: tensor ${describeJson(entry.name)} has type ${entry.fileDtype}, which is not supported (supported: ` +
          `${supportedTypeNames}): use a file quantised to one of these, such as Q4_K_M`,
      );
    }
    const byteCount = rowCount * storedRowBytes(encoding, k);
    return {
      entry: { ...entry, byteOffset: entry.byteOffset + (expert ?? 0) * byteCount, byteCount },
      layout: {
        encoding,
        rowStride: isPlainDtype(encoding) ? k : storedRowBytes(encoding, k),
        pairedRows: this.#arePairs(name) ? this.#pairedRows : 0,
      },
      readScaling: null,
    };
  }

  /** A norm or a bias: never quantised. */
  #smallEntry(name: string, shape: readonly number[]): TensorEntry {
    const { entry } = this.#entry(name, shape);
    if (['F32', 'F16', 'BF16'].includes(entry.fileDtype)) return entry;
    throw new ModelError(
      `${entry.file}: tensor ${describeJson(entry.name)} has type ${entry.fileDtype}; F32, F16 or BF16 was expected`,
    );
  }

  #entry(
    name: string,
    shape: readonly number[],
  ): { readonly entry: TensorEntry; readonly expert: number | null } {
    const found = ggufName(name, this.#architecture);
    if (found === null) throw new ModelError(`${this.source}: a GGUF file has no tensor for "${name}"`);
    const { expert } = found;
    if (expert === null)
      return { entry: findEntry(this.#model.entries, this.source, found.name, shape), expert };
    const count = this.#model.entries.get(found.name)?.shape[0] ?? 0;
    const entry = findEntry(this.#model.entries, this.source, found.name, [count, ...shape]);
    if (expert < count) return { entry, expert };
    throw new ModelError(
      `${entry.file}: tensor ${describeJson(entry.name)} has ${count} experts, number ${expert} is asked for`,
    );
  }

  #arePairs(name: string): boolean {
    return this.#pairedRows > 0 && /\.self_attn\.[qk]_proj\.(weight|bias)$/.test(name);
  }
}

function headDimOf({ metadata }: GgufModel): number {
  const headCount = metadata.count('llama.attention.head_count');
  return metadata.count(
    'llama.attention.key_length',
    Math.floor(metadata.count('llama.embedding_length') / headCount),
  );
}

/** Rows of each head from pairs (i, i + half) to halves, as native/stored.h does for matrices. */
function unpaired(values: Float32Array, size: number): Float32Array<ArrayBuffer> {
  const half = size / 2;
  return Float32Array.from(values, (_, row) => {
    const within = row % size;
    return values[row - within + (within % half) * 2 + Math.floor(within / half)] ?? 0;
  });
}
