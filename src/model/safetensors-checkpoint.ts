/** All tensors of a model folder of safetensors, over one file or many shards; quantised ones by what lies
 *  beside them (quantised/). Made by open-checkpoint.ts. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { ModelError } from '../base/errors.js';
import { type Checkpoint, findEntry, type StoredTensor, type TensorEntry } from './checkpoint.js';
import { describeJson, isJsonObject, readJsonObject } from './json-file.js';
import { quantisedModule } from './quantised/module.js';
import type { QuantisedModule } from './quantised/module-tensors.js';
import type { QuantisationScheme } from './quantised/scheme.js';
import { readFloats, readSafetensorsHeader, weightDtype } from './safetensors.js';

export class SafetensorsCheckpoint implements Checkpoint {
  /** The file, or the index of the shards. */
  readonly source: string;
  readonly #entries: ReadonlyMap<string, TensorEntry>;
  readonly #scheme: QuantisationScheme | null;

  private constructor(
    source: string,
    entries: ReadonlyMap<string, TensorEntry>,
    scheme: QuantisationScheme | null,
  ) {
    this.source = source;
    this.#entries = entries;
    this.#scheme = scheme;
  }

  /** Reads headers only. `scheme`: how its modules may be quantised; null: none is. @throws ModelError */
  static open(folder: string, scheme: QuantisationScheme | null): SafetensorsCheckpoint {
    const single = path.join(folder, 'model.safetensors');
    if (existsSync(single)) return new SafetensorsCheckpoint(single, readSafetensorsHeader(single), scheme);
    const index = path.join(folder, 'model.safetensors.index.json');
    if (existsSync(index)) return new SafetensorsCheckpoint(index, readShards(folder, index), scheme);
    throw new ModelError(
      `${folder}: no weights: neither model.safetensors nor model.safetensors.index.json nor a GGUF file is there. ` +
        'Download the model as safetensors or GGUF, or try it with random weights: --load-format dummy',
    );
  }

  has(name: string): boolean {
    return this.#entries.has(name);
  }

  check(name: string, shape: readonly number[]): void {
    weightDtype(findEntry(this.#entries, this.source, name, shape));
  }

  floats(name: string, shape: readonly number[]): Float32Array<ArrayBuffer> {
    return readFloats(findEntry(this.#entries, this.source, name, shape));
  }

  matrix(name: string, shape: readonly [number, number]): StoredTensor {
    const module = this.#moduleOf(name);
    const quantised = module === null ? null : quantisedModule(module, this.#scheme, shape);
    if (quantised !== null) return quantised;
    const entry = findEntry(this.#entries, this.source, name, shape);
    return { entry, layout: { encoding: weightDtype(entry), rowStride: shape[1] }, readScaling: null };
  }

  /** The tensors "module.*" of "module.weight" (of "module" itself where tensors are named so: experts of
   *  MXFP4). */
  #moduleOf(name: string): QuantisedModule | null {
    if (this.#scheme === null) return null;
    const prefix = name.replace(/\.weight$/, '');
    const find = (suffix: string) => this.#entries.get(`${prefix}${suffix}`) ?? null;
    return { name: prefix, source: this.source, find };
  }
}

function readShards(folder: string, index: string): ReadonlyMap<string, TensorEntry> {
  const weightMap = readJsonObject(index).weight_map;
  if (!isJsonObject(weightMap))
    throw new ModelError(`${index}: "weight_map" must be an object, got ${describeJson(weightMap)}`);
  const headers = new Map<string, ReadonlyMap<string, TensorEntry>>();
  const entries = new Map<string, TensorEntry>();
  for (const [name, shard] of Object.entries(weightMap)) {
    if (typeof shard !== 'string' || path.basename(shard) !== shard || ['', '.', '..'].includes(shard)) {
      throw new ModelError(
        `${index}: tensor ${describeJson(name)} must name a file of this folder, got ${describeJson(shard)}`,
      );
    }
    const header = headers.get(shard) ?? openShard(path.join(folder, shard), index, name);
    headers.set(shard, header);
    const entry = header.get(name);
    if (entry === undefined)
      throw new ModelError(
        `${path.join(folder, shard)}: tensor ${describeJson(name)} is missing (${index} says it is here)`,
      );
    entries.set(name, entry);
  }
  return entries;
}

function openShard(file: string, index: string, name: string): ReadonlyMap<string, TensorEntry> {
  if (!existsSync(file))
    throw new ModelError(
      `${file}: this shard is missing (${index} has tensor ${describeJson(name)} in it); download it again`,
    );
  return readSafetensorsHeader(file);
}
