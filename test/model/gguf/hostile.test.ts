/** GGUF files from strangers: whatever a file says, it gives a model that runs or one typed error, in
 *  bounded memory and time. Seeded mutations of small good files; more of them with TWOSTROKE_TEST=full. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { at } from '../../../src/base/assert.js';
import { messageOf, TwostrokeError } from '../../../src/base/errors.js';
import { Prng } from '../../../src/base/prng.js';
import { openDevice } from '../../../src/device/native.js';
import { findChatTemplate } from '../../../src/model/chat-template.js';
import { readModelConfig } from '../../../src/model/config.js';
import { readGenerationConfig } from '../../../src/model/generation-config.js';
import { openCheckpoint } from '../../../src/model/open-checkpoint.js';
import { byteLevelCharacters } from '../../../src/model/text/pre-tokenizers.js';
import { loadTokenizer } from '../../../src/model/tokenizer.js';
import { fixtureFolder, Harness } from '../harness.js';
import { convertedFolder, type GgufParts, ggufBytes, type Pair } from './writer.js';

const mutantCount = process.env.TWOSTROKE_TEST === 'full' ? 4000 : 250;
const deviceFreeBytes = 2 ** 28;
const growthMax = 2 ** 30;

const temporary = mkdtempSync(path.join(tmpdir(), 'twostroke-gguf-hostile-'));
afterAll(() => rmSync(temporary, { recursive: true }));
const file = path.join(temporary, 'mutant.gguf');

const byteLevel: readonly Pair[] = [
  ['tokenizer.ggml.model', 'string', 'gpt2'],
  ['tokenizer.ggml.pre', 'string', 'llama-bpe'],
  ['tokenizer.ggml.tokens', 'string[]', [...byteLevelCharacters, 'he', '<|x|>']],
  ['tokenizer.ggml.token_type', 'i32[]', [...new Array(257).fill(1), 3]],
  ['tokenizer.ggml.merges', 'string[]', ['h e']],
  ['tokenizer.ggml.bos_token_id', 'u32', 257],
  ['tokenizer.chat_template', 'string', '{% for m in messages %}{{ m.content }}{% endfor %}'],
];
const byteTokens = Array.from(
  { length: 256 },
  (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, '0')}>`,
);
const sentencePiece: readonly Pair[] = [
  ['tokenizer.ggml.model', 'string', 'llama'],
  ['tokenizer.ggml.tokens', 'string[]', ['<unk>', '<s>', '</s>', ...byteTokens, '▁', 'h', 'e', 'he', '▁he']],
  ['tokenizer.ggml.scores', 'f32[]', [0, 0, 0, ...new Array(256).fill(0), -1, -2, -3, -0.5, -0.25]],
  ['tokenizer.ggml.token_type', 'i32[]', [2, 3, 3, ...new Array(256).fill(6), 1, 1, 1, 1, 1]],
  ['tokenizer.ggml.bos_token_id', 'u32', 1],
];

const bases = (['qwen3', 'llama', 'qwen3-moe'] as const).map((name, i): GgufParts => {
  const parts = convertedFolder(fixtureFolder(name), () => (i === 0 ? 'q8_0' : 'f32'));
  return { ...parts, pairs: [...parts.pairs, ...(i === 1 ? sentencePiece : byteLevel)] };
});

/** Everything a server does with a file, one short forward pass included. */
async function use(): Promise<void> {
  const config = readModelConfig(file);
  const tokenizer = loadTokenizer(file);
  readGenerationConfig(file, tokenizer.endTokenId);
  findChatTemplate(file);
  const ids = tokenizer.encode('Hello ½ <|x|> 日本', { addSpecialTokens: 'auto' });
  tokenizer.decode(ids, { special: 'skip' });
  const device = openDevice({ kind: 'cpu', index: 0, threadCount: 1 });
  vi.spyOn(device, 'readFreeBytes').mockReturnValue(deviceFreeBytes);
  const maxTokenCount = Math.min(config.maxPositionCount, 64);
  const harness = await Harness.open({ folder: file, device, maxTokenCount }).catch((error: unknown) => {
    device.close();
    throw error;
  });
  try {
    await harness.prefill(harness.start(3), [0, 0, 0], 3, 'last');
  } finally {
    await harness.close();
  }
}

const hostileNumbers = [
  0n,
  1n,
  2n,
  3n,
  255n,
  2n ** 16n,
  2n ** 20n,
  2n ** 31n - 1n,
  2n ** 31n,
  2n ** 32n - 1n,
  2n ** 40n,
  2n ** 53n,
  2n ** 63n,
  2n ** 64n - 1n,
];

/** A change to a good file, and its name. */
function mutant(prng: Prng): readonly [string, Buffer] {
  const base = prng.pick(bases);
  const bytes = ggufBytes(base);
  const headerBytes = ggufBytes({
    ...base,
    tensors: base.tensors.map((tensor) => ({ ...tensor, bytes: new Uint8Array(0) })),
  }).length;
  const place = prng.integer(0, headerBytes - 8);
  switch (prng.integer(0, 5)) {
    case 0:
      bytes[place] = prng.integer(0, 255);
      return [`byte ${place}`, bytes];
    case 1: {
      const value = prng.pick(hostileNumbers);
      bytes.writeBigUInt64LE(value, place);
      return [`u64 ${value} at ${place}`, bytes];
    }
    case 2: {
      const value = Number(prng.pick(hostileNumbers) % 2n ** 32n);
      bytes.writeUInt32LE(value, place);
      return [`u32 ${value} at ${place}`, bytes];
    }
    case 3:
      return [
        `cut at ${place}`,
        bytes.subarray(0, prng.integer(0, 1) === 0 ? place : prng.integer(place, bytes.length)),
      ];
    case 4: {
      const index = prng.integer(0, base.pairs.length - 1);
      const pairs = base.pairs.map((pair, i) => (i === index ? changedPair(prng, pair) : pair));
      return [`key ${at(pairs, index)[0]}`, ggufBytes({ ...base, pairs })];
    }
    default: {
      const index = prng.integer(0, base.tensors.length - 1);
      const tensors = base.tensors.map((tensor, i) =>
        i === index ? { ...tensor, ...changedTensor(prng, tensor.dimensions) } : tensor,
      );
      return [`tensor ${at(base.tensors, index).name}`, ggufBytes({ ...base, tensors })];
    }
  }
}

function changedPair(prng: Prng, [key]: Pair): Pair {
  const number = Number(prng.pick(hostileNumbers) % 2n ** 32n);
  return prng.pick<Pair>([
    [key, 'u32', number],
    [key, 'u64', prng.pick([2 ** 40, 2 ** 53, 7])],
    [key, 'f32', prng.pick([Number.NaN, Number.POSITIVE_INFINITY, -1, 0, 1e30, 0.5])],
    [key, 'string', prng.pick(['', 'x', '__proto__', '{%', 'long'.repeat(5000)])],
    [key, 'u32[]', [1, 2, 3]],
    [key, 'string[]', prng.pick([[], ['a', 'a', ''], new Array(3000).fill('▁')])],
    [`${key}.other`, 'u8', 1],
    ['general.alignment', 'u32', prng.pick([0, 1, 8, 7, 2 ** 31])],
  ]);
}

function changedTensor(prng: Prng, dimensions: readonly number[]): object {
  return prng.pick<object>([
    { dimensions: [...dimensions].reverse() },
    { dimensions: dimensions.map((extent) => extent * prng.pick([0, 2, 2 ** 20, 2 ** 32])) },
    { dimensions: [1] },
    { type: prng.integer(0, 50) },
    { name: prng.pick(['token_embd.weight', 'rope_freqs.weight', 'output.weight', '']) },
    { bytes: new Uint8Array(prng.integer(0, 64)) },
  ]);
}

describe('absurd', () => {
  const header = (...counts: readonly bigint[]) => {
    const bytes = Buffer.alloc(8 + 8 * counts.length);
    bytes.write('GGUF');
    bytes.writeUInt32LE(3, 4);
    for (const [i, count] of counts.entries()) bytes.writeBigUInt64LE(count, 8 + 8 * i);
    return bytes;
  };
  it.each([
    ['no GGUF', () => Buffer.from('PK\u0003\u0004 and so on'), /not a GGUF file: it begins with "PK/],
    ['nothing', () => Buffer.alloc(0), /truncated or no GGUF/],
    ['tensors', () => header(2n ** 40n, 0n), /1099511627776 tensors are too many/],
    ['keys', () => header(0n, 2n ** 63n), /keys are too many/],
    ['a key’s name', () => header(0n, 1n, 2n ** 62n), /a key has a name of \d+ bytes/],
    [
      'a list',
      () =>
        Buffer.concat([
          header(0n, 1n, 1n),
          Buffer.from('a\u0009\0\0\0\u0008\0\0\0\u00ff\u00ff\u00ff\u00ff\u00ff\0\0\0', 'latin1'),
        ]),
      /lists hold more than/,
    ],
    [
      'one tensor twice',
      () =>
        ggufBytes({ ...at(bases, 0), tensors: [at(at(bases, 0).tensors, 0), at(at(bases, 0).tensors, 0)] }),
      /is there twice/,
    ],
    [
      'context',
      () =>
        ggufBytes({
          ...at(bases, 0),
          pairs: at(bases, 0).pairs.map((pair) =>
            pair[0] === 'qwen3.context_length' ? ['qwen3.context_length', 'u32', 2 ** 31 - 1] : pair,
          ),
        }),
      /"max_position_embeddings" must be at most/,
    ],
  ] as const)('%s', (_, bytes, message) => {
    writeFileSync(file, bytes());
    expect(() => {
      readModelConfig(file);
      openCheckpoint(file);
    }).toThrow(message);
  });

  it('tensors that overlap', () => {
    const base = at(bases, 1);
    const bytes = ggufBytes(base);
    const second = Buffer.from(at(base.tensors, 1).name);
    const offset = bytes.indexOf(second) + second.length + 4 + 8 * at(base.tensors, 1).dimensions.length + 4;
    bytes.writeBigUInt64LE(0n, offset);
    writeFileSync(file, bytes);
    expect(() => openCheckpoint(file)).toThrow(/overlap/);
  });
});

describe('mutants', () => {
  it(`${mutantCount} of them run or are refused`, async () => {
    const before = process.memoryUsage().rss;
    let refusedCount = 0;
    for (let seed = 0; seed < mutantCount; seed++) {
      const [how, bytes] = mutant(new Prng(seed));
      writeFileSync(file, bytes);
      try {
        await use();
      } catch (error) {
        expect(error, `${seed}: ${how}: ${error instanceof Error ? error.stack : ''}`).toBeInstanceOf(
          TwostrokeError,
        );
        expect(messageOf(error).length, `${seed}: ${how}`).toBeLessThan(2000);
        refusedCount++;
      }
    }
    expect(refusedCount).toBeGreaterThan(mutantCount / 4);
    expect(process.memoryUsage().rss - before).toBeLessThan(growthMax);
  }, 600_000);
});
