/** Model folders from strangers: whatever a file says, the folder gives a model that runs or one typed error, in bounded memory. A seeded mutation of
 *  a small good folder; more mutants with TWOSTROKE_TEST=full. */
import { cpSync, linkSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, expect, it, vi } from 'vitest';
import { at } from '../../src/base/assert.js';
import { messageOf, TwostrokeError } from '../../src/base/errors.js';
import { Prng } from '../../src/base/prng.js';
import { openDevice } from '../../src/device/native.js';
import { readModelConfig } from '../../src/model/config.js';
import { readGenerationConfig } from '../../src/model/generation-config.js';
import { loadTokenizer } from '../../src/model/tokenizer.js';
import { demoFolder, fixtureFolder, Harness } from './harness.js';

const mutantCount = process.env.TWOSTROKE_TEST === 'full' ? 5000 : 300;
/** What the device says it has free: a mutant may not take more. */
const deviceFreeBytes = 2 ** 28;
const growthMax = 2 ** 30;

const temporary = mkdtempSync(path.join(tmpdir(), 'twostroke-hostile-'));
afterAll(() => rmSync(temporary, { recursive: true }));

const good = path.join(temporary, 'good');
const weights = 'model.safetensors';
const jsonFiles = ['config.json', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json'] as const;
const bases = ['llama', 'qwen3-moe', 'qwen3-yarn', 'gemma2'] as const;
for (const base of bases) {
  const folder = path.join(good, base);
  mkdirSync(folder, { recursive: true });
  for (const name of ['config.json', 'generation_config.json', weights])
    cpSync(path.join(fixtureFolder(base), name), path.join(folder, name));
  for (const name of ['tokenizer.json', 'tokenizer_config.json']) cpSync(path.join(demoFolder, name), path.join(folder, name));
}

/** JSON texts, so that 1e999 and repeated keys are among them. */
const hostileTexts = [
  ...[
    '0',
    '-1',
    '1',
    '2',
    '7',
    '1.5',
    '255',
    '1e9',
    '2147483647',
    '2147483648',
    '4e9',
    '9007199254740993',
    '1e308',
    '1e999',
    '-1e999',
    '1e-300',
  ],
  ...[
    'null',
    'true',
    'false',
    '"x"',
    '""',
    '"__proto__"',
    '"constructor"',
    '"../../etc/passwd"',
    '[]',
    '{}',
    '[1e9]',
    '[[[[]]]]',
    '{"a":{}}',
  ],
  ...[JSON.stringify('long'.repeat(50_000)), `[${new Array(5000).fill('1').join()}]`, `${'['.repeat(3000)}${']'.repeat(3000)}`],
];
const ropeTexts = ['yarn', 'linear', 'dynamic', 'llama3', 'longrope', 'default', 'su'].map(
  (type) => (value: string) =>
    `{"rope_type":"${type}","factor":${value},"original_max_position_embeddings":${value},"low_freq_factor":1,"high_freq_factor":${value},"short_factor":[${value}],"long_factor":[1]}`,
);

class Mutator {
  readonly #prng: Prng;

  constructor(seed: number) {
    this.#prng = new Prng(seed);
  }

  pick<T>(items: readonly T[]): T {
    return at(items, this.#prng.integer(0, items.length - 1));
  }

  /** One change to one file of `folder`; says which. */
  change(folder: string): string {
    const name = this.pick([...jsonFiles, 'config.json', 'config.json', weights]);
    const file = path.join(folder, name);
    const bytes = readFileSync(file);
    rmSync(file); // a link to the good one
    const [how, changed] = name === weights ? this.#weights(bytes) : this.#json(name, bytes);
    writeFileSync(file, changed);
    return `${name}: ${how}`;
  }

  #json(name: string, bytes: Buffer): readonly [string, Buffer] {
    if (this.#prng.integer(0, 5) === 0) return this.#bytes(bytes);
    const document = JSON.parse(bytes.toString()) as Record<string, unknown>;
    const value = this.pick(hostileTexts);
    if (name === 'config.json' && this.#prng.integer(0, 3) === 0) {
      return ['rope', withText(document, ['rope_scaling'], this.pick(ropeTexts)(value))];
    }
    const place = this.#place(document);
    return [`${place.join('.').slice(0, 60)} = ${value.slice(0, 40)}`, withText(document, place, value)];
  }

  /** A random path into the document, deeper with even chances. */
  #place(document: unknown): string[] {
    const place: string[] = [];
    for (let value = document; typeof value === 'object' && value !== null && Object.keys(value).length > 0; ) {
      const key = this.pick(Object.keys(value));
      place.push(key);
      value = (value as Record<string, unknown>)[key];
      if (this.#prng.integer(0, 2) === 0) break;
    }
    return place;
  }

  #bytes(bytes: Buffer): readonly [string, Buffer] {
    const offset = this.#prng.integer(0, Math.max(0, bytes.length - 1));
    const flipped = Buffer.from(bytes);
    flipped[offset] = this.#prng.integer(0, 255);
    const insertion = Buffer.from(this.pick(['[', '{"a":', '"', ',', '\0', '[],']).repeat(this.pick([1, 100, 100_000])));
    return this.pick([
      ['a byte', flipped] as const,
      [`cut at ${offset}`, bytes.subarray(0, offset)] as const,
      [`inserted at ${offset}`, Buffer.concat([bytes.subarray(0, offset), insertion, bytes.subarray(offset)])] as const,
    ]);
  }

  #weights(bytes: Buffer): readonly [string, Buffer] {
    const length = Number(bytes.readBigUInt64LE(0));
    const rest = bytes.subarray(8 + length);
    const [how, header] = this.pick([
      () => this.#json('header', bytes.subarray(8, 8 + length)),
      () => this.#bytes(bytes.subarray(8, 8 + length)),
    ])();
    const prefix = Buffer.alloc(8);
    const stated = this.pick([header.length, header.length, header.length, 0, 1, 2 ** 40, header.length + 1, 99_999_999]);
    prefix.writeBigUInt64LE(BigInt(stated));
    return [
      `${how}, length ${stated}`,
      Buffer.concat([prefix, header, this.pick([rest, rest, rest.subarray(0, rest.length >> 1)])]),
    ];
  }
}

/** The document with the JSON text `value` at `place`. */
function withText(document: object, place: readonly string[], value: string): Buffer {
  const mark = 'the place of the hostile value';
  const copy = structuredClone(document) as Record<string, unknown>;
  let parent = copy;
  for (const key of place.slice(0, -1)) parent = parent[key] as Record<string, unknown>;
  parent[place.at(-1) ?? ''] = mark;
  return Buffer.from(JSON.stringify(copy).replace(`"${mark}"`, () => value));
}

/** Everything a server does with a folder, one short forward pass included. */
async function use(folder: string, loadFormat: 'auto' | 'dummy'): Promise<void> {
  const config = readModelConfig(folder);
  const tokenizer = loadTokenizer(folder);
  readGenerationConfig(folder, tokenizer.endTokenId);
  const ids = tokenizer.encode('Hello ½ <|user|> 日本', { addSpecialTokens: 'auto' });
  tokenizer.decode(ids, { special: 'skip' });
  const device = openDevice({ kind: 'cpu', index: 0, threadCount: 1 });
  vi.spyOn(device, 'readFreeBytes').mockReturnValue(deviceFreeBytes);
  const harness = await Harness.open({ folder, device, loadFormat, maxTokenCount: Math.min(config.maxPositionCount, 64) }).catch(
    (error: unknown) => {
      device.close();
      throw error;
    },
  );
  try {
    await harness.prefill(harness.start(3), [0, 0, 0], 3, 'last');
  } finally {
    await harness.close();
  }
}

it('the good folders work', async () => {
  for (const base of bases) await use(path.join(good, base), 'auto');
});

it(`${mutantCount} mutants work or fail with one typed error`, { timeout: 600_000 }, async () => {
  const before = process.resourceUsage().maxRSS * 1024;
  const outcomes = { works: 0, refused: 0 };
  for (let seed = 0; seed < mutantCount; seed++) {
    const mutator = new Mutator(seed);
    const folder = path.join(temporary, `mutant-${seed}`);
    mkdirSync(folder);
    const base = mutator.pick(bases);
    for (const name of [...jsonFiles, weights]) linkSync(path.join(good, base, name), path.join(folder, name));
    const what = `mutant ${seed} of ${base}: ${mutator.change(folder)}`;
    try {
      await use(folder, mutator.pick(['auto', 'auto', 'dummy']));
      outcomes.works++;
    } catch (error) {
      expect(error, `${what}: ${messageOf(error)}`).toBeInstanceOf(TwostrokeError);
      expect(messageOf(error).length, what).toBeLessThan(1000);
      outcomes.refused++;
    }
    rmSync(folder, { recursive: true });
  }
  expect(process.resourceUsage().maxRSS * 1024 - before).toBeLessThan(growthMax);
  expect(outcomes.works).toBeGreaterThan(mutantCount / 10);
  expect(outcomes.refused).toBeGreaterThan(mutantCount / 3);
});
