/** README and docs/architecture read as prose should: short sentences, few figures in one. */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { sentencesOf } from './prose.js';

const longWordCount = 35;
const wordCountMax = 50;
const longShareMax = 0.05;
const figureCountMax = 1;
/** Two figures belong together now and then. */
const crowdedShareMax = 0.05;
/** Pages whose subject is formulas and their constants: the share may shrink only. */
const crowdedShares: Readonly<Record<string, number>> = {
  'docs/architecture/router.md': 0.16,
  'docs/architecture/cost-model.md': 0.09,
};

const root = path.resolve(import.meta.dirname, '..');
const read = (file: string) => readFileSync(path.join(root, file), 'utf8');
const architecture = readdirSync(path.join(root, 'docs/architecture')).map(
  (name) => `docs/architecture/${name}`,
);

describe.each(['README.md', ...architecture])('%s', (page) => {
  const sentences = sentencesOf(read(page));

  it('has short sentences', () => {
    const long = sentences.filter(({ wordCount }) => wordCount > longWordCount);
    const listed = long.map(({ wordCount, text }) => `${wordCount} words: ${text}`).join('\n');
    expect(sentences.length).toBeGreaterThan(0);
    expect(Math.max(...sentences.map(({ wordCount }) => wordCount)), listed).toBeLessThanOrEqual(
      wordCountMax,
    );
    expect(long.length / sentences.length, listed).toBeLessThanOrEqual(longShareMax);
  });

  it('has at most one figure a sentence, outside tables and worked examples', () => {
    const plain = read(page)
      .split(/^(?=#)/m)
      .filter((section) => !/^#+ .*example/i.test(section));
    const crowded = sentencesOf(plain.join('\n')).filter(({ figureCount }) => figureCount > figureCountMax);
    expect(crowded.length / sentences.length, crowded.map(({ text }) => text).join('\n')).toBeLessThanOrEqual(
      crowdedShares[page] ?? crowdedShareMax,
    );
  });
});

describe('sentences', () => {
  it('end at full stops, leave out code, tables and headings, and count figures', () => {
    const page = [
      '# A heading of many words that is no sentence',
      'One two `three four`. It is 1.5 ms,',
      'or [2 s](there.md). See v2 of fp8 at Qwen3-8B.',
      '',
      '| a table | of 5 |',
      '```',
      'code is left out. All of it.',
      '```',
      '* An item.',
      '* Another 3 × 4',
    ].join('\n');
    expect(sentencesOf(page)).toMatchObject([
      { text: 'One two CODE.', wordCount: 3, figureCount: 0 },
      { text: 'It is 1.5 ms, or 2 s.', wordCount: 7, figureCount: 2 },
      { text: 'See v2 of fp8 at Qwen3-8B.', wordCount: 6, figureCount: 0 },
      { text: 'An item.', wordCount: 2, figureCount: 0 },
      { text: 'Another 3 × 4', wordCount: 4, figureCount: 1 },
    ]);
  });
});
