/** One word for one thing: what docs/glossary lists as not used occurs neither in the source (names,
 *  comments, texts) nor in README and docs/architecture, and a type that is exported has a name of its
 *  own. */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';

const root = path.resolve(import.meta.dirname, '..');
const read = (file: string) => readFileSync(path.join(root, file), 'utf8');
const filesOf = (folder: string, ending: string) =>
  readdirSync(path.join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith(ending))
    .map((name) => path.join(folder, name));
const sources = filesOf('src', '.ts').map((file) => ({ file, text: read(file) }));
const pages = ['README.md', ...filesOf('docs/architecture', '.md')].map((file) => ({
  file,
  text: read(file),
}));

/** Where a rejected word is another's: property names of Vega-Lite. */
const exceptions = /\bmark: \{|\bstroke: '|'stroke'|\b(stroke|symbolStroke)(Width|Dash)\b/g;
/** Latencies have SLOs; a queue or a file may have limits. */
const latencyGoal = /(ttft|tpot|e2el|latency|slo)s? ?(limit|target)s?\b/i;

interface Rejected {
  readonly word: string;
  /** Under src/; null: everywhere. */
  readonly folders: readonly string[] | null;
}

const rejected = rejectedWords(read('docs/glossary/README.md'));

/** From the columns "not": groups of words, each perhaps with a remark. One that names no folder is for
 *  readers. */
function rejectedWords(glossary: string): readonly Rejected[] {
  let column = -1;
  return glossary.split('\n').flatMap((line) => {
    const cells = line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim());
    if (cells.includes('not')) column = cells.indexOf('not');
    else if (cells.length === 0) column = -1;
    const cell = cells[column] ?? '';
    if (/^(not|-*)$/.test(cell)) return [];
    return cell.split(';').flatMap((group): Rejected[] => {
      const [, words = '', remark] = /^([^(]*)(?:\((.*)\))?/.exec(group.trim()) ?? [];
      const folders = [...(remark ?? '').matchAll(/`([^`]+)`/g)].map(([, folder = '']) => `src/${folder}`);
      if (remark !== undefined && folders.length === 0) return [];
      return words
        .split(',')
        .map((word) => ({ word: word.trim(), folders: remark === undefined ? null : folders }));
    });
  });
}

/** Names become words: `freeBatchSlotCount` → free batch slot count. */
const asWords = (text: string) =>
  text
    .replace(exceptions, '')
    .replace(/([a-z\d])([A-Z])/g, '$1 $2')
    .replace(/[_#*\s]+/g, ' ')
    .toLowerCase();

function findings({ file, text }: { readonly file: string; readonly text: string }): readonly string[] {
  const words = asWords(text);
  const found = rejected
    .filter(({ folders }) => folders === null || folders.some((folder) => file.startsWith(folder)))
    .filter(({ word }) => new RegExp(`(?<![\\p{L}])${word}s?(?![\\p{L}])`, 'u').test(words))
    .map(({ word }) => `${file}: ${word}`)
    .filter((each, index, all) => all.indexOf(each) === index);
  const goal = latencyGoal.exec(words);
  return goal === null ? found : [...found, `${file}: ${goal[0]}`];
}

describe('words', () => {
  it('reads the glossary', () => {
    const words = rejected.map(({ word }) => word);
    expect(words).toEqual(
      expect.arrayContaining(['traveller', 'told', 'felt', 'seat', 'leaning', 'within limits', 'in hand']),
    );
    expect(words).not.toContain('whole'); // it has other meanings
    expect(rejected).toContainEqual({ word: 'page', folders: ['src/kv/', 'src/engine/', 'src/transfer/'] });
  });

  it('finds a rejected word in a name, a comment and a text', () => {
    const of = (text: string, file = 'src/x/y.ts') => findings({ file, text });
    expect(of('const freeSeatCount = 1;')).toEqual(['src/x/y.ts: seat']);
    expect(of('// whoever is\n * told')).toEqual(['src/x/y.ts: told']);
    expect(of("log('two TTFT limits')")).toEqual(['src/x/y.ts: ttft limits']);
    expect(of('the page', 'src/kv/y.ts')).toEqual(['src/kv/y.ts: page']);
    expect(of("the page, arrivals, { mark: { type: 'line', strokeWidth: 2 } }")).toEqual([]);
  });

  it('are those of the glossary in the source', () => expect(sources.flatMap(findings)).toEqual([]));
  it('are those of the glossary in README and docs/architecture', () =>
    expect(pages.flatMap(findings)).toEqual([]));
});

it('an exported type has a name of its own', () => {
  const filesOfName = new Map<string, string[]>();
  for (const { file, text } of sources) {
    for (const [, name = ''] of text.matchAll(/^export (?:abstract )?(?:interface|class|type|enum) (\w+)/gm))
      filesOfName.set(name, [...(filesOfName.get(name) ?? []), file]);
  }
  const twice = [...filesOfName]
    .filter(([, files]) => files.length > 1)
    .map(([name, files]) => `${name}: ${files.join(', ')}`);
  expect(twice).toEqual([]);
});
