/** Random Unicode texts to ids and back, against recordings of Hugging Face's Rust library: small tokenizers of
 *  each kind, and well-known vocabularies where TWOSTROKE_TOKENIZERS names a folder of their folders. A thousand
 *  texts for each tokenizer; ten thousand with TWOSTROKE_TEST=full. */
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { JsonObject } from '../../src/model/json-file.js';
import { TextStream } from '../../src/model/text-stream.js';
import { loadTokenizer, type Tokenizer } from '../../src/model/tokenizer.js';
import { fixtureFolder } from './harness.js';

interface Golden {
  readonly tokenizers: readonly {
    readonly name: string;
    readonly tokenizer: JsonObject;
    readonly hashes: readonly string[];
  }[];
  readonly folders: Readonly<Record<string, readonly string[]>>;
}

const recorded = path.join(fixtureFolder('random-text'), 'golden.json');
const golden = JSON.parse(readFileSync(recorded, 'utf8')) as Golden;
const blockTextCount = 1000;
const blockCount = process.env.TWOSTROKE_TEST === 'full' ? 10 : 1;
const streamedTextCount = 100;

const temporary = mkdtempSync(path.join(tmpdir(), 'twostroke-random-'));
afterAll(() => rmSync(temporary, { recursive: true }));

/** The same generator as in record.py. */
const ranges = [
  ...[
    [0x20, 0x7e],
    [0xa0, 0x24f],
    [0x3b1, 0x3c9],
    [0x400, 0x4ff],
    [0x905, 0x939],
    [0x93e, 0x94c],
  ],
  ...[
    [0xe01, 0xe3a],
    [0x621, 0x652],
    [0x5d0, 0x5ea],
    [0x3041, 0x3096],
    [0x30a1, 0x30fa],
  ],
  ...[
    [0x4e00, 0x9fa5],
    [0xac00, 0xd7a3],
    [0x1f300, 0x1f579],
    [0, 0x1f],
    [0x300, 0x344],
  ],
  ...[
    [0x2000, 0x200f],
    [0x2028, 0x202f],
    [0x30, 0x39],
    [0x2070, 0x2071],
    [0x2160, 0x2188],
  ],
  ...[
    [0x2100, 0x213a],
    [0xff01, 0xff5e],
    [0x20000, 0x2a6d6],
    [0x10000, 0x1000b],
  ],
  ...[
    [0xe000, 0xe0ff],
    [0x1e00, 0x1eff],
    [0x41, 0x5a],
  ],
] as const;
const words = [
  ...['the ', 'and', ' model', 'token ', '  ', '\n', '\n\n', '\t', ' it', "It's", "don't", "WE'LL", 'é'],
  ...['▁', '▁▁', ' ▁', '\ufeff', '\u3000', '\u0085', 'ΑΣ ', 'İ', 'ſt', '<s>', '</s>', ' <|x|> '],
  ...['<|im_end|>', '<|endoftext|>', '<0x0A>', 'Foo', ' foo', 'Bar ', '12,345.67', '//', '👨‍👩‍👧'],
  'e\u0301\u0323',
];

function texts(seed: number, count: number): string[] {
  let state = seed;
  const below = (limit: number) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state % limit;
  };
  const part = () => {
    if (below(3) === 0) return words[below(words.length)];
    const [first, last] = ranges[below(ranges.length)] ?? [0, 0];
    return String.fromCodePoint(first + below(last - first + 1));
  };
  return Array.from({ length: count }, () => Array.from({ length: below(40) }, part).join(''));
}

/** As record.py writes a row. */
function hashOf(tokenizer: Tokenizer, block: number): string {
  const digest = createHash('sha256');
  for (const text of texts(block + 1, blockTextCount)) {
    const bare = tokenizer.encode(text, { addSpecialTokens: 'none' });
    const whole = tokenizer.encode(text, { addSpecialTokens: 'auto' });
    const decoded = (['keep', 'skip'] as const).map((special) => tokenizer.decode(bare, { special }));
    digest.update(`${JSON.stringify([whole, bare, ...decoded])}\n`);
  }
  return digest.digest('hex');
}

function expectRecorded(tokenizer: Tokenizer, hashes: readonly string[]): void {
  for (let block = 0; block < blockCount; block++)
    expect(hashOf(tokenizer, block), `block ${block}`).toBe(hashes[block]);
  for (const text of texts(1, streamedTextCount)) {
    const ids = tokenizer.encode(text, { addSpecialTokens: 'auto' });
    const stream = new TextStream(tokenizer, { stopStrings: [], includeStopString: false, special: 'skip' });
    const streamed = ids.map((id) => stream.push(id).text).join('') + stream.flush();
    expect(streamed).toBe(tokenizer.decode(ids, { special: 'skip' }));
  }
}

describe('random texts', () => {
  it.each(golden.tokenizers)('$name', ({ tokenizer, hashes }) => {
    writeFileSync(path.join(temporary, 'tokenizer.json'), JSON.stringify(tokenizer));
    expectRecorded(loadTokenizer(temporary), hashes);
  });

  const known = process.env.TWOSTROKE_TOKENIZERS ?? '';
  it.each(Object.entries(golden.folders).filter(([name]) => existsSync(path.join(known, name))))(
    '%s',
    (name, hashes) => expectRecorded(loadTokenizer(path.join(known, name)), hashes),
  );
});
