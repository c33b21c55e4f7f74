/** Copies of a fixture with some weights changed, for tests of models that compute NaN or infinity. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { readSafetensorsHeader } from '../../src/model/safetensors.js';

/** The values of a float32 tensor, row-major, to be changed in place. */
export type Plant = Readonly<Record<string, (values: Float32Array, columnCount: number) => void>>;

/** A folder of its own, like `original` but for the plant; removed by `dropPlanted`. */
export function plantedFolder(original: string, plant: Plant): string {
  const folder = mkdtempSync(path.join(tmpdir(), 'twostroke-planted-'));
  folders.push(folder);
  for (const name of ['config.json', 'generation_config.json', 'golden.json']) {
    cpSync(path.join(original, name), path.join(folder, name));
  }
  const source = path.join(original, 'model.safetensors');
  const bytes = readFileSync(source);
  const entries = readSafetensorsHeader(source);
  for (const [name, change] of Object.entries(plant)) {
    const { byteOffset, byteCount, shape } = entries.get(name)!;
    const values = new Float32Array(
      Uint8Array.from(bytes.subarray(byteOffset, byteOffset + byteCount)).buffer,
    );
    change(values, shape.at(-1)!);
    bytes.set(new Uint8Array(values.buffer), byteOffset);
  }
  writeFileSync(path.join(folder, 'model.safetensors'), bytes);
  return folder;
}

const folders: string[] = [];
export function dropPlanted(): void {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
}

/** Row `row` becomes `value`. */
export const rowOf =
  (row: number, value = Number.NaN): Plant[string] =>
  (values, columnCount) => {
    values.fill(value, row * columnCount, (row + 1) * columnCount);
  };

export const everything =
  (value = Number.NaN): Plant[string] =>
  (values) => {
    values.fill(value);
  };
