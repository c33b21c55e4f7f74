/** The architecture as data: which folder may import which, and who alone may touch time, randomness, FFI and
 *  the environment. */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';

const layers = [
  ['base'],
  ['device', 'bus', 'router', 'grammar'],
  ['kv'],
  ['model'],
  ['engine', 'transfer', 'hub'],
  ['worker'],
  ['control', 'bench'],
  ['profile'],
  ['server', 'sim'],
  ['library'],
  ['cli'],
];
const onlyBase = ['router', 'bench', 'grammar'];

/** [what, the one file or folder that may have it] */
const bans: readonly [RegExp, string][] = [
  [/\bDate\.now\(|\bnew Date\(/, 'base/clock.ts'],
  [/\bperformance\.now\(/, 'base/clock.ts'],
  [/\bset(Timeout|Interval|Immediate)\(|node:timers/, 'base/clock.ts'],
  [/\bMath\.random\(|\brandom(Bytes|UUID|Int)\(/, 'base/prng.ts'],
  [/\bprocess\.(env|argv|exit\()/, 'cli/'],
  [/from 'koffi'/, 'device/native.ts'],
];
const bannedFolderNames = ['utils', 'common', 'helpers', 'misc', 'shared', 'lib'];

const root = path.resolve(import.meta.dirname, '../src');
const files = readdirSync(root, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .map((file) => ({
    file,
    folder: file.split('/')[0] ?? '',
    text: readFileSync(path.join(root, file), 'utf8'),
  }));

const layerOf = (folder: string) => layers.findIndex((names) => names.includes(folder));
const importsOf = (file: string, text: string) =>
  [...text.matchAll(/(?:from|import\()\s*'(\.[^']+)'/g)].map((match) =>
    path.relative(root, path.resolve(root, path.dirname(file), (match[1] ?? '').replace(/\.js$/, '.ts'))),
  );
const withoutComments = (text: string) =>
  text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/(^|\s)\/\/.*$/gm, '');

describe('tidy', () => {
  it('finds the source', () => expect(files.length).toBeGreaterThan(10));

  it.each(files.map(({ file }) => file))('%s keeps its layer', (name) => {
    const { file, folder, text } = files.find((entry) => entry.file === name)!;
    expect(layerOf(folder), `${folder}/ is not a layer`).toBeGreaterThanOrEqual(0);
    expect(bannedFolderNames).not.toContain(folder);
    expect(path.basename(file), 'no barrels').not.toBe('index.ts');
    for (const target of importsOf(file, text)) {
      const other = target.split('/')[0] ?? '';
      if (other === folder) continue;
      expect(layerOf(other), `${file} imports ${target}`).toBeLessThan(layerOf(folder));
      expect(layerOf(other), `${file} imports ${target}`).toBeGreaterThanOrEqual(0);
      if (onlyBase.includes(folder)) expect(other, `${file} may import base only`).toBe('base');
    }
    for (const [pattern, owner] of bans) {
      if (!file.startsWith(owner))
        expect(withoutComments(text), `${file}: only ${owner}`).not.toMatch(pattern);
    }
  });

  it('has the layers it says', () => {
    expect(layers.flat().filter((name) => !files.some(({ folder }) => folder === name))).toEqual([]);
  });

  it('has no import cycles, nor cycles of types', () => {
    const graph = new Map(files.map(({ file, text }) => [file, importsOf(file, text)]));
    const done = new Set<string>();
    const visit = (file: string, trail: readonly string[]): void => {
      expect(trail, `cycle: ${[...trail, file].join(' → ')}`).not.toContain(file);
      if (done.has(file)) return;
      for (const next of graph.get(file) ?? []) visit(next, [...trail, file]);
      done.add(file);
    };
    for (const { file } of files) visit(file, []);
  });
});
