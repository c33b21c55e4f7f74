/** All tensors of a model folder, over one file or many shards. Used by weights.ts; the invariant: a tensor
 *  that is asked for exists with the shape the architecture needs, or a ModelError names file, tensor and
 *  both shapes. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { ModelError } from '../base/errors.js';
import { describeJson, isJsonObject, readJsonObject } from './json-file.js';
import { readSafetensorsHeader, type TensorEntry } from './safetensors.js';

export class Checkpoint {
  /** What a message about a missing tensor names: the file, or the index of the shards. */
  readonly source: string;
  readonly #entries: ReadonlyMap<string, TensorEntry>;

  private constructor(source: string, entries: ReadonlyMap<string, TensorEntry>) {
    this.source = source;
    this.#entries = entries;
  }

  /** Reads headers only. @throws ModelError */
  static open(folder: string): Checkpoint {
    const single = path.join(folder, 'model.safetensors');
    if (existsSync(single)) return new Checkpoint(single, readSafetensorsHeader(single));
    const index = path.join(folder, 'model.safetensors.index.json');
    if (existsSync(index)) return new Checkpoint(index, readShards(folder, index));
    throw new ModelError(
      `${folder}: no weights: neither model.safetensors nor model.safetensors.index.json is there. ` +
        'Download the model as safetensors, or try it with random weights: --load-format dummy',
    );
  }

  has(name: string): boolean {
    return this.#entries.has(name);
  }

  /** @throws ModelError when missing or of another shape. */
  find(name: string, shape: readonly number[]): TensorEntry {
    const entry = this.#entries.get(name);
    if (entry === undefined) throw new ModelError(`${this.source}: tensor "${name}" is missing`);
    if (entry.shape.length !== shape.length || entry.shape.some((extent, i) => extent !== shape[i])) {
      throw new ModelError(
        `${entry.file}: tensor "${name}" has shape [${entry.shape.join(', ')}], config.json asks for [${shape.join(', ')}]`,
      );
    }
    return entry;
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
