/** The mask thread: masks of the demo model's vocabulary, and what becomes of the others when one grammar
 *  is too much for it. */
import path from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import type { ChoiceMasks } from '../../src/engine/mask-source.js';
import { packShape, type Shape } from '../../src/grammar/shapes.js';
import { loadTokenizer } from '../../src/model/tokenizer.js';
import { MaskThread, type MaskThreadOptions } from '../../src/worker/masks/mask-thread.js';

const folder = path.resolve(import.meta.dirname, '../../models/demo-6m');
const tokenizer = loadTokenizer(folder);
const open: MaskThread[] = [];

function start(options: Partial<MaskThreadOptions> = {}): MaskThread {
  const thread = new MaskThread({ folder, vocabCount: 4096, clock: systemClock, ...options });
  open.push(thread);
  return thread;
}
afterEach(async () => {
  for (const thread of open.splice(0)) await thread.close();
});

function follow(thread: MaskThread, shape: Shape, tokenIds: number[] = []): ChoiceMasks {
  return thread.open({ grammar: packShape(shape, 'shape'), endTokenIds: [2], tokenIds, outputLimit: 100 });
}

async function settled(thread: MaskThread, masks: ChoiceMasks): Promise<ChoiceMasks> {
  while (masks.words === null && masks.error === null) await thread.arrival();
  return masks;
}

const allowed = (masks: ChoiceMasks): number[] =>
  Array.from({ length: 4096 }, (_, id) => id).filter(
    (id) => ((masks.words?.[id >>> 5] ?? 0) & (1 << (id & 31))) !== 0,
  );
const texts = (masks: ChoiceMasks) => allowed(masks).map((id) => tokenizer.tokenText(id));

it('follows texts token by token', async () => {
  const thread = start();
  const masks = follow(thread, {
    kind: 'choice',
    items: [
      { kind: 'text', text: 'no' },
      { kind: 'text', text: 'yes' },
    ],
  });
  await settled(thread, masks);
  expect(new Set(texts(masks).map((text) => text[0]))).toEqual(new Set(['n', 'y']));
  for (const id of tokenizer.encode('yes', { addSpecialTokens: 'none' })) {
    expect(allowed(masks)).toContain(id);
    masks.accept(id);
    expect(masks.words).toBeNull();
    await settled(thread, masks);
  }
  expect(allowed(masks)).toEqual([2]);
  masks.close();
});

it('begins with the tokens there are, and tells what they are not', async () => {
  const thread = start();
  const shape: Shape = { kind: 'regex', pattern: '[a-z ]{3,}!' };
  const going = follow(thread, shape, tokenizer.encode('abc', { addSpecialTokens: 'none' }));
  const wrong = follow(thread, shape, tokenizer.encode('ABC', { addSpecialTokens: 'none' }));
  await settled(thread, going);
  expect(texts(going)).toContain('!');
  expect((await settled(thread, wrong)).error?.message).toContain('not what the grammar allows');
  expect(thread.failureCount).toBe(1);
});

it('gives up what takes too long, and goes on with the others', async () => {
  const thread = start({ silenceMsMax: 1500 });
  const good = follow(thread, { kind: 'regex', pattern: '[0-9]+x' });
  await settled(thread, good);
  good.accept(tokenizer.encode('4', { addSpecialTokens: 'none' })[0] ?? 0);
  const item: Shape = {
    kind: 'choice',
    items: Array.from({ length: 40 }, (_, i) => ({ kind: 'text', text: `${i}` })),
  };
  const copies: Shape = {
    kind: 'repeat',
    item: { kind: 'repeat', item, min: 0, max: 900 },
    min: 0,
    max: 900,
  };
  const bad = follow(thread, copies);
  await settled(thread, bad);
  expect(bad.error).not.toBeNull();
  await settled(thread, good);
  expect(good.error).toBeNull();
  expect(texts(good)).toContain('x');
}, 30_000);

it('replaces a thread that ends, from the tokens there are', async () => {
  const thread = start({ memoryLimitMb: 64 });
  const good = follow(thread, { kind: 'regex', pattern: '(?:ab)+' });
  await settled(thread, good);
  const rest: Shape = {
    kind: 'repeat',
    item: {
      kind: 'choice',
      items: [
        { kind: 'text', text: 'a' },
        { kind: 'text', text: 'aa' },
      ],
    },
    min: 0,
    max: 20_000,
  };
  const bad = follow(thread, { kind: 'sequence', items: [rest, rest, rest] });
  await settled(thread, bad);
  good.accept(tokenizer.encode('a', { addSpecialTokens: 'none' })[0] ?? 0);
  await settled(thread, good);
  expect(good.error).toBeNull();
}, 30_000);
