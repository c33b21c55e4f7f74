/** Model folders from strangers: whatever a file says, the folder gives a model that runs or one typed error,
 *  in bounded memory. A seeded mutation of a small good folder; more mutants with TWOSTROKE_TEST=full. */
import {
  cpSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it, vi } from 'vitest';
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
const jsonFiles = [
  'config.json',
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
] as const;
const bases = ['llama', 'qwen3-moe', 'qwen3-yarn', 'gemma2'] as const;
for (const base of bases) {
  const folder = path.join(good, base);
  mkdirSync(folder, { recursive: true });
  for (const name of ['config.json', 'generation_config.json', weights])
    cpSync(path.join(fixtureFolder(base), name), path.join(folder, name));
  for (const name of ['tokenizer.json', 'tokenizer_config.json'])
    cpSync(path.join(demoFolder, name), path.join(folder, name));
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
  ...[
    JSON.stringify('long'.repeat(50_000)),
    `[${new Array(5000).fill('1').join()}]`,
    `${'['.repeat(3000)}${']'.repeat(3000)}`,
  ],
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
    for (
      let value = document;
      typeof value === 'object' && value !== null && Object.keys(value).length > 0;
    ) {
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
    const insertion = Buffer.from(
      this.pick(['[', '{"a":', '"', ',', '\0', '[],']).repeat(this.pick([1, 100, 100_000])),
    );
    return this.pick([
      ['a byte', flipped] as const,
      [`cut at ${offset}`, bytes.subarray(0, offset)] as const,
      [
        `inserted at ${offset}`,
        Buffer.concat([bytes.subarray(0, offset), insertion, bytes.subarray(offset)]),
      ] as const,
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
    const stated = this.pick([
      header.length,
      header.length,
      header.length,
      0,
      1,
      2 ** 40,
      header.length + 1,
      99_999_999,
    ]);
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
  const harness = await Harness.open({
    folder,
    device,
    loadFormat,
    maxTokenCount: Math.min(config.maxPositionCount, 64),
  }).catch((error: unknown) => {
    device.close();
    throw error;
  });
  try {
    await harness.prefill(harness.start(3), [0, 0, 0], 3, 'last');
  } finally {
    await harness.close();
  }
}

/** A copy of the good llama folder with one file replaced; null: removed. */
function folderWith(
  name: string,
  content: string | Buffer | null,
  base: (typeof bases)[number] = 'llama',
): string {
  const folder = mkdtempSync(path.join(temporary, 'case-'));
  for (const each of [...jsonFiles, weights])
    if (each !== name) linkSync(path.join(good, base, each), path.join(folder, each));
  if (content !== null) writeFileSync(path.join(folder, name), content);
  return folder;
}

const goodJson = (name: string, base: (typeof bases)[number] = 'llama') =>
  JSON.parse(readFileSync(path.join(good, base, name), 'utf8')) as Record<string, unknown>;
const withConfig = (changes: object, base: (typeof bases)[number] = 'llama') =>
  folderWith('config.json', JSON.stringify({ ...goodJson('config.json', base), ...changes }), base);
const withTokenizer = (changes: object) =>
  folderWith('tokenizer.json', JSON.stringify({ ...goodJson('tokenizer.json'), ...changes }));
const model = goodJson('tokenizer.json').model as { readonly vocab: object };

function header(text: string): Buffer {
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(Buffer.byteLength(text)));
  return Buffer.concat([prefix, Buffer.from(text)]);
}

const manyTensors = () =>
  `{${Array.from({ length: 170_000 }, (_, i) => `"${i}":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}`)}}`;
const doubling = {
  type: 'Sequence',
  normalizers: new Array(40).fill({ type: 'Replace', pattern: { String: 'H' }, content: 'HH' }),
};
const template = (count: number) => ({
  type: 'TemplateProcessing',
  pair: [],
  special_tokens: {},
  single: new Array(count).fill({ Sequence: { id: 'A', type_id: 0 } }),
});

describe('absurd', () => {
  it.each<[string, () => string, RegExp]>([
    [
      'layers',
      () => withConfig({ num_hidden_layers: 1e9 }),
      /"num_hidden_layers" must be at most 1024, got 1000000000/,
    ],
    ['experts', () => withConfig({ num_experts: 1e8 }, 'qwen3-moe'), /"num_experts" must be at most 4096/],
    ['vocabulary', () => withConfig({ vocab_size: 4e9 }), /"vocab_size" must be at most 16777216/],
    ['width', () => withConfig({ hidden_size: 2 ** 30 }), /"hidden_size" must be at most/],
    [
      'context',
      () => withConfig({ max_position_embeddings: 1e9 }),
      /"max_position_embeddings" must be at most/,
    ],
    [
      'scaled context',
      () => withConfig({ rope_scaling: { rope_type: 'yarn', factor: 1e300 } }),
      /rope scaling makes .* positions: must be from 1 to/,
    ],
    [
      'rope numbers',
      () => withConfig({ rope_scaling: { rope_type: 'linear', factor: 1e-300 } }),
      /rope scaling makes 0 positions/,
    ],
    ['frequencies', () => withConfig({ rope_theta: 1e-300 }), /give no finite angles/],
    [
      'window',
      () => withConfig({ sliding_window: -5 }, 'gemma2'),
      /"sliding_window" must be an integer from 0 on, got -5/,
    ],
    [
      'softcap',
      () => withConfig({ attn_logit_softcapping: -1 }, 'gemma2'),
      /"attn_logit_softcapping" must be a number from 0/,
    ],
    [
      'architecture',
      () => withConfig({ architectures: ['constructor'] }),
      /architecture "constructor" is not supported/,
    ],
    [
      'long name',
      () => withConfig({ architectures: ['x'.repeat(1e6)] }),
      /architecture "x+\.\.\. is not supported/,
    ],
    [
      'nesting',
      () => folderWith('config.json', `{"deep":${'['.repeat(1e6)}${']'.repeat(1e6)}}`),
      /nested deeper than 64/,
    ],
    [
      'values',
      () => withConfig({ many: new Array(600_000).fill([]) }),
      /config.json: more than 524288 JSON values/,
    ],
    [
      'size',
      () => folderWith('config.json', Buffer.alloc(2 ** 25 + 1, ' ')),
      /config.json: 33554433 bytes are too many/,
    ],
    ['a folder for a file', () => directoryFor('config.json'), /config.json: not a regular file/],
    ['a device for a file', () => linkedTo('config.json', '/dev/zero'), /config.json: not a regular file/],
    ['a device for weights', () => linkedTo(weights, '/dev/zero'), /model.safetensors: not a regular file/],
    ['a folder for a shard', () => shardNamed('..'), /must name a file of this folder, got ".."/],
    ['header', () => folderWith(weights, header(manyTensors())), /\(header\): more than 1048576 JSON values/],
    ['header nesting', () => folderWith(weights, header('['.repeat(1e6))), /\(header\): JSON nested deeper/],
    [
      'dimensions',
      () =>
        folderWith(
          weights,
          header(`{"a":{"dtype":"F32","shape":[${new Array(1e5).fill(1)}],"data_offsets":[0,4]}}`),
        ),
      /its shape has 100000 dimensions/,
    ],
    [
      'shape whose product is no safe integer',
      () =>
        folderWith(
          weights,
          header('{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'),
        ),
      /needs 73786976294838210000 bytes/,
    ],
    ['tensor name', () => folderWith(weights, header(`{"${'n'.repeat(1e6)}":7}`)), /tensor "n+\.\.\.: /],
    [
      'token id',
      () => withTokenizer({ model: { ...model, vocab: { ...model.vocab, zz: 4e9 } } }),
      /token "zz" has the id 4000000000/,
    ],
    [
      'steps',
      () =>
        withTokenizer({
          normalizer: { type: 'Sequence', normalizers: new Array(1e5).fill({ type: 'NFC' }) },
        }),
      /at most 64/,
    ],
    ['growth', () => withTokenizer({ normalizer: doubling }), /"normalizer" makes \d+ characters of \d+/],
    [
      'decoder growth',
      () =>
        withTokenizer({
          decoder: {
            type: 'Sequence',
            decoders: new Array(40).fill({ type: 'Replace', pattern: { String: 'a' }, content: 'aa' }),
          },
        }),
      /"decoder" can make 1099511627776 characters of one/,
    ],
    [
      'post-processor',
      () =>
        withTokenizer({ post_processor: { type: 'Sequence', processors: new Array(60).fill(template(2)) } }),
      /"post_processor.processors\[0\].single" must be a template with one text/,
    ],
    [
      'regular expression',
      () =>
        withTokenizer({
          pre_tokenizer: { type: 'Split', pattern: { Regex: 'a'.repeat(1e6) }, behavior: 'Isolated' },
        }),
      /a regular expression of at most 8192/,
    ],
    [
      'added tokens',
      () => withTokenizer({ added_tokens: [{ id: 5000, content: 'x'.repeat(1e6) }] }),
      /its added tokens have 10000\d\d characters/,
    ],
  ])('%s', async (_, make, message) => {
    const folder = make();
    await expect(use(folder, 'auto')).rejects.toThrow(TwostrokeError);
    await expect(use(folder, 'auto')).rejects.toThrow(message);
  });

  it('random weights are bounded by the device', async () => {
    const wide = {
      hidden_size: 2 ** 16,
      intermediate_size: 2 ** 18,
      num_hidden_layers: 200,
      head_dim: 128,
      num_attention_heads: 512,
    };
    await expect(use(withConfig(wide), 'dummy')).rejects.toThrow(
      /config.json need at least \S+ GiB .* the device has 0.3 GiB free/,
    );
    const padded = {
      moe_intermediate_size: 1,
      num_experts: 4096,
      num_hidden_layers: 200,
      hidden_size: 8,
      num_experts_per_tok: 1,
    };
    await expect(use(withConfig(padded, 'qwen3-moe'), 'dummy')).rejects.toThrow(/need at least/);
  });
});

function directoryFor(name: string): string {
  const folder = folderWith(name, null);
  mkdirSync(path.join(folder, name));
  return folder;
}

function linkedTo(name: string, target: string): string {
  const folder = folderWith(name, null);
  symlinkSync(target, path.join(folder, name));
  return folder;
}

function shardNamed(name: string): string {
  const folder = folderWith(weights, null);
  writeFileSync(
    path.join(folder, 'model.safetensors.index.json'),
    JSON.stringify({ weight_map: { a: name } }),
  );
  return folder;
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
    for (const name of [...jsonFiles, weights])
      linkSync(path.join(good, base, name), path.join(folder, name));
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
