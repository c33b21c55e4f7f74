/** README's table of results shows what the JSON under docs/results says, and the check of it sees a figure
 *  that does not. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';

interface Row {
  readonly what: string;
  readonly measured: string;
  readonly against: string;
  readonly ratio: string;
  readonly commit: string;
  readonly command: string;
}
type Read = (file: string) => object | null;
interface Script {
  readResult: Read;
  tableOf(rows: readonly Row[]): string;
  staleLines(readme: string, table: string): readonly string[];
}

const root = path.resolve(import.meta.dirname, '..');
const load = (file: string) => import(pathToFileURL(path.join(root, 'scripts', file)).href);
const readme = readFileSync(path.join(root, 'README.md'), 'utf8');
let script: Script;
let rowsOf: (read: Read) => readonly Row[];

beforeAll(async () => {
  script = (await load('readme-results.mjs')) as Script;
  ({ rowsOf } = (await load('readme-results/rows.mjs')) as { rowsOf: typeof rowsOf });
});

describe('README’s results', () => {
  it('are those of docs/results (npm run readme:results writes them)', () => {
    expect(script.staleLines(readme, script.tableOf(rowsOf(script.readResult)))).toEqual([]);
  });

  it('name the commit and the command of every row', () => {
    for (const row of rowsOf(script.readResult)) {
      expect(row.commit, row.what).toMatch(/^[0-9a-f]{7}$/);
      expect(row.command, row.what).not.toBe('');
    }
  });

  it('are not true when a figure of the README has been changed, or one of the JSON', () => {
    const table = script.tableOf(rowsOf(script.readResult));
    expect(script.staleLines(readme.replace('| 4.31 ms |', '| 4.13 ms |'), table)).toHaveLength(2);
    const read: Read = (file) => {
      const json = script.readResult(file) as { peer?: { whole: { median: number } } } | null;
      if (file.includes('transfer-gpu') && json?.peer !== undefined) json.peer.whole.median *= 1.1;
      return json;
    };
    expect(script.staleLines(readme, script.tableOf(rowsOf(read))).join()).toContain('blocks in one run');
  });

  it('have a row of the router once docs/results/headline.json names its point', () => {
    const headline = { sweep: '2026-11-22-router/gpu-mixed', rateFraction: 0.5 };
    const [row] = rowsOf((file) => (file === 'headline.json' ? headline : script.readResult(file)));
    expect(row).toMatchObject({
      measured: '28.8 requests/s',
      against: 'collocated 23.3 requests/s',
      ratio: '1.22 × (1.10–1.40)',
      commit: '09da372',
    });
    const lost = () =>
      rowsOf((file) =>
        file === 'headline.json' ? { ...headline, rateFraction: 0.6 } : script.readResult(file),
      );
    expect(lost).toThrow('no point at 0.6');
  });
});
