/** Pages point to what is there: links lead to files and headings, README lists every page, invariants.md
 *  names tests that exist. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';

const root = path.resolve(import.meta.dirname, '..');
const read = (file: string) => readFileSync(path.join(root, file), 'utf8');
const pagesOf = (folder: string) =>
  readdirSync(path.join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.md'))
    .map((name) => path.join(folder, name));
const pages = ['README.md', ...pagesOf('docs')];

/** GitHub's anchors of a page's headings. */
function anchorsOf(markdown: string): readonly string[] {
  return [...markdown.matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replace(/[^\p{L}\p{N} -]/gu, '')
      .replaceAll(' ', '-'),
  );
}

it.each(pages)('the links of %s lead somewhere', (page) => {
  for (const [, link = ''] of read(page).matchAll(/\]\(([^)\s]+)\)/g)) {
    if (/^https?:/.test(link)) continue;
    const [target = '', anchor] = link.split('#');
    const file = target === '' ? page : path.join(path.dirname(page), target);
    expect(existsSync(path.join(root, file)), `${page} → ${link}`).toBe(true);
    if (anchor !== undefined) expect(anchorsOf(read(file)), `${page} → ${link}`).toContain(anchor);
  }
});

it('README lists every page of architecture, decisions and experiments', () => {
  const readme = read('README.md');
  for (const folder of ['docs/architecture', 'docs/decisions', 'docs/experiments'])
    for (const page of pagesOf(folder)) expect(readme).toContain(`(${page})`);
});

it('docs/results/README.md lists every result', () => {
  const index = read('docs/results/README.md');
  for (const name of readdirSync(path.join(root, 'docs/results'))) {
    if (name !== 'README.md' && name !== 'headline.json') expect(index).toContain(name);
  }
});

it.each(['docs/architecture/request.md', 'docs/architecture/extending.md', 'docs/glossary/README.md'])(
  '%s names files that exist',
  (page) => {
    const files = [...read(page).matchAll(/`((?:[a-z]+\/)+[\w.-]+\.(?:ts|h|py|mjs))`/g)].map(
      ([, file = '']) => file,
    );
    expect(files.length).toBeGreaterThan(10);
    for (const file of files) {
      if (file.includes('NAME')) continue; // yours to choose
      const isThere = [file, `src/${file}`].some((each) => existsSync(path.join(root, each)));
      expect(isThere, file).toBe(true);
    }
  },
);

describe('docs/architecture/invariants.md', () => {
  const rows = read('docs/architecture/invariants.md').match(/^\| .*$/gm) ?? [];
  const named = rows.flatMap((row) => testsIn(row.split('|')[1] ?? ''));

  it('has tests of every invariant but the measured one', () => expect(named.length).toBeGreaterThan(30));

  it.each(named)('$file: $name', ({ file, name }) => {
    const text = read(`test/${file}`);
    for (const part of name.split('…')) expect(text).toContain(part.trim());
  });
});

/** In a cell: `file`: *name*, *name*. A file without names stands for all of its tests. */
function testsIn(cell: string): { readonly file: string; readonly name: string }[] {
  let file = '';
  return [...cell.matchAll(/`([\w/.-]+\.ts)`|\*([^*]+)\*/g)].map(([, path, name = '']) => {
    file = path ?? file;
    return { file, name };
  });
}
