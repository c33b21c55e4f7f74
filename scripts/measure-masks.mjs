/** Times of masks: how long a grammar takes to compile, and a mask at the places that texts of it come to, first and again.
 *    node scripts/measure-masks.mjs [--ranks FILE] [--json FILE]
 *  FILE: an object { tokens: ["base64", …] } of a vocabulary, one entry an id; without it the demo model's 4,096 tokens. Needs a build. */
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { GrammarMasks } from '#built/grammar/grammar-masks.js';
import { packShape } from '#built/grammar/shapes.js';
import { Vocabulary } from '#built/grammar/vocabulary.js';
import { loadTokenizer } from '#built/model/tokenizer.js';

const root = path.resolve(import.meta.dirname, '..');
const { values } = parseArgs({ options: { ranks: { type: 'string' }, json: { type: 'string' } } });

const string = { type: 'string' };
const schemas = {
  object: { type: 'object' },
  person: {
    type: 'object',
    properties: { name: string, age: { type: 'integer' }, tags: { type: 'array', items: string } },
    required: ['name', 'age', 'tags'],
  },
  bounded: {
    type: 'object',
    properties: {
      title: { type: 'string', maxLength: 60 },
      score: { type: 'number', minimum: 0, maximum: 10 },
    },
    required: ['title', 'score'],
  },
  patterns: {
    type: 'object',
    properties: {
      id: { type: 'string', format: 'uuid' },
      when: { type: 'string', format: 'date-time' },
      code: { type: 'string', pattern: '^[A-Z]{2,4}-[0-9]+$' },
    },
    required: ['id', 'when', 'code'],
  },
};
const texts = {
  object: '{"name": "Ada Lovelace, née Byron", "list": [1, 2.5, {"deep": null}], "quote": "a \\"word\\""}',
  person:
    '{"name": "Ada Lovelace, née Byron 💡", "age": 36, "tags": ["maths", "analytical engines and more"]}',
  bounded: '{"title": "Notes by the translator, upon the memoir", "score": 9.75}',
  patterns:
    '{"id": "123e4567-e89b-12d3-a456-426614174000", "when": "1843-09-05T12:00:00Z", "code": "AB-1843"}',
};

function vocabulary() {
  if (values.ranks === undefined) {
    const { table } = loadTokenizer(path.join(root, 'models/demo-6m'));
    return { vocabCount: 4096, bytes: (id) => table.bytes(id), isSpecial: (id) => table.isSpecial(id) };
  }
  const tokens = JSON.parse(readFileSync(values.ranks, 'utf8')).tokens.map((text) =>
    Uint8Array.from(Buffer.from(text, 'base64')),
  );
  return { vocabCount: tokens.length, bytes: (id) => tokens[id], isSpecial: () => false };
}

const at = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
const summary = (times) => {
  const sorted = [...times].sort((a, b) => a - b);
  return {
    count: sorted.length,
    p50Us: at(sorted, 0.5),
    p99Us: at(sorted, 0.99),
    meanUs: sorted.reduce((a, b) => a + b, 0) / sorted.length,
  };
};

/** The longest token first, as most tokenizers nearly do. */
function encode(text, byText) {
  const bytes = Buffer.from(text);
  const ids = [];
  for (let start = 0; start < bytes.length; ) {
    let length = Math.min(24, bytes.length - start);
    while (length > 1 && !byText.has(bytes.toString('latin1', start, start + length))) length--;
    ids.push(byText.get(bytes.toString('latin1', start, start + length)));
    start += length;
  }
  return ids;
}

const source = vocabulary();
const byText = new Map();
for (let id = 0; id < source.vocabCount; id++) {
  const bytes = source.bytes(id);
  if (bytes.length > 0 && !source.isSpecial(id)) byText.set(Buffer.from(bytes).toString('latin1'), id);
}
const clock = () => performance.now() * 1000;
let start = clock();
const made = new Vocabulary(source);
const result = { vocabularyMs: (clock() - start) / 1000, grammars: {} };
for (const [name, schema] of Object.entries(schemas)) {
  const compileMs = [];
  const first = [];
  const again = [];
  for (let round = 0; round < 5; round++) {
    start = clock();
    const masks = new GrammarMasks(packShape({ kind: 'schema', schema }, 'schema'), made);
    compileMs.push((clock() - start) / 1000);
    const words = new Uint32Array(made.wordCount);
    const ids = encode(texts[name], byText);
    for (let pass = 0; pass < 10; pass++) {
      const text = masks.open([]);
      for (const id of ids) {
        start = clock();
        text.fill({ leftCount: 1e6, endTokenIds: [] }, words);
        (pass === 0 ? first : again).push(clock() - start);
        text.accept(id);
      }
    }
  }
  result.grammars[name] = {
    compileMs: at(
      compileMs.sort((a, b) => a - b),
      0.5,
    ),
    firstText: summary(first),
    laterTexts: summary(again),
  };
}
const report = {
  command: `node scripts/measure-masks.mjs${values.ranks === undefined ? '' : ` --ranks ${path.basename(values.ranks)}`}`,
  commit: execFileSync('git', ['rev-parse', '--short', 'HEAD'], { cwd: root, encoding: 'utf8' }).trim(),
  machine: {
    cpu: os.cpus()[0]?.model,
    cores: os.cpus().length,
    loadAverage: os.loadavg()[0],
    node: process.version,
  },
  vocabCount: source.vocabCount,
  ...result,
};
console.log(JSON.stringify(report, null, 1));
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(report, null, 1)}\n`);
