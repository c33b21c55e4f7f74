/** Cuts, normal forms and ids against Hugging Face's Rust library: every pre-tokenizer and normalizer over
 *  characters on which JavaScript and Rust disagree, and whole tokenizers with added tokens, unknown
 *  characters and byte fallback. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { ConfigFields } from '../../src/model/config-fields.js';
import type { JsonObject } from '../../src/model/json-file.js';
import { readNormalizer } from '../../src/model/text/normalizers.js';
import { readPreTokenizer } from '../../src/model/text/pre-tokenizers.js';
import { loadTokenizer } from '../../src/model/tokenizer.js';
import { fixtureFolder } from './harness.js';

interface RustGolden {
  readonly parts: readonly {
    readonly kind: 'pre_tokenizer' | 'normalizer';
    readonly config: JsonObject;
    readonly cases: readonly (readonly [string, readonly string[]])[];
  }[];
  readonly wholes: readonly {
    readonly tokenizer: { readonly model: JsonObject; readonly added_tokens: readonly JsonObject[] };
    readonly cases: readonly (readonly [string, boolean, readonly number[]])[];
  }[];
}

const golden = JSON.parse(
  readFileSync(path.join(fixtureFolder('rust-tokenizer'), 'golden.json'), 'utf8'),
) as RustGolden;
const temporary = mkdtempSync(path.join(tmpdir(), 'twostroke-rust-'));
afterAll(() => rmSync(temporary, { recursive: true }));

const named = golden.parts.map((part) => ({ ...part, name: JSON.stringify(part.config).slice(0, 120) }));

describe('as the Rust library', () => {
  it.each(named)('$kind $name', ({ kind, config, cases }) => {
    const fields = new ConfigFields('tokenizer.json', config);
    const preTokenize = readPreTokenizer(kind === 'pre_tokenizer' ? fields : null);
    const normalize = readNormalizer(kind === 'normalizer' ? fields : null);
    for (const [text, pieces] of cases) {
      const found = preTokenize({ text: normalize(text), isFirst: true }).filter(
        (piece) => piece.text !== '',
      );
      expect(found.map((piece) => piece.text)).toEqual(pieces);
    }
  });

  it.each(golden.wholes.map((whole, index) => ({ ...whole, index })))(
    'whole tokenizer $index',
    ({ tokenizer, cases }) => {
      writeFileSync(path.join(temporary, 'tokenizer.json'), JSON.stringify(tokenizer));
      const loaded = loadTokenizer(temporary);
      for (const [text, special, ids] of cases) {
        expect(loaded.encode(text, { addSpecialTokens: special ? 'auto' : 'none' })).toEqual(ids);
      }
    },
  );
});
