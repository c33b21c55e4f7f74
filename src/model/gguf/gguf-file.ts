/** A GGUF model: one file, or the parts of a split one (NAME-00001-of-00003.gguf) as one. Used by
 *  gguf-checkpoint.ts and model-files.ts. */
import { existsSync, readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import { ModelError } from '../../base/errors.js';
import type { TensorEntry } from '../checkpoint.js';
import { describeJson } from '../json-file.js';
import { readGgufHeader } from './header.js';
import type { Metadata } from './metadata.js';

export interface GgufModel {
  /** Of the first part. */
  readonly metadata: Metadata;
  readonly entries: ReadonlyMap<string, TensorEntry>;
}

const partName = /-(\d{5})-of-(\d{5})\.gguf$/;
const partCountMax = 1024;

/** The GGUF file that `model` is or holds; null: it is a folder of safetensors, or nothing yet. A folder
 *  with several is ambiguous. @throws ModelError */
export function ggufFileOf(model: string): string | null {
  if (model.endsWith('.gguf')) return model;
  const hasWeights = ['model.safetensors', 'model.safetensors.index.json'].some((name) =>
    existsSync(path.join(model, name)),
  );
  if (hasWeights || !statSync(model, { throwIfNoEntry: false })?.isDirectory()) return null;
  const names = readdirSync(model).filter(
    (name) => name.endsWith('.gguf') && Number(partName.exec(name)?.[1] ?? 1) === 1,
  );
  if (names.length > 1) {
    const some = names.slice(0, 8).join(', ');
    throw new ModelError(
      `${model} has ${names.length} GGUF files: name the one to use (${some}${names.length > 8 ? ', …' : ''})`,
    );
  }
  return names[0] === undefined ? null : path.join(model, names[0]);
}

/** Reads headers only. @throws ModelError */
export function readGgufModel(file: string): GgufModel {
  const first = readGgufHeader(file);
  const { metadata } = first;
  const partCount = metadata.count('split.count', 1, 0);
  if (partCount > partCountMax) metadata.fail('split.count', `at most ${partCountMax}`);
  const parts = partCount <= 1 ? [first.entries] : [first.entries, ...otherParts(file, metadata, partCount)];
  const entries = new Map<string, TensorEntry>();
  for (const entry of parts.flat()) {
    const other = entries.get(entry.name);
    if (other !== undefined)
      throw new ModelError(`${entry.file}: tensor ${describeJson(entry.name)} is in ${other.file} too`);
    entries.set(entry.name, entry);
  }
  const tensorCount = metadata.count('split.tensors.count', entries.size, 0);
  if (tensorCount === entries.size) return { metadata, entries };
  throw new ModelError(
    `${file}: its ${partCount} parts have ${entries.size} tensors, key "split.tensors.count" says ${tensorCount}`,
  );
}

function otherParts(
  file: string,
  metadata: Metadata,
  partCount: number,
): readonly (readonly TensorEntry[])[] {
  const [ending, number, total] = partName.exec(file) ?? [];
  if (ending === undefined || Number(total) !== partCount) {
    throw new ModelError(
      `${file}: it is part of ${partCount} files and must be called NAME-00001-of-${digits(partCount)}.gguf`,
    );
  }
  if (Number(number) !== 1 || metadata.count('split.no', 0, 0) !== 0) {
    throw new ModelError(`${file}: it is part ${Number(number)} of ${partCount}: give the first one`);
  }
  return Array.from({ length: partCount - 1 }, (_, i) => {
    const part = `${file.slice(0, -ending.length)}-${digits(i + 2)}-of-${digits(partCount)}.gguf`;
    if (!existsSync(part)) throw new ModelError(`${part}: this part of ${partCount} is missing; download it`);
    const header = readGgufHeader(part);
    if (header.metadata.count('split.no', 0, 0) === i + 1) return header.entries;
    return header.metadata.fail('split.no', `${i + 1}, as its name says`);
  });
}

function digits(number: number): string {
  return String(number).padStart(5, '0');
}
