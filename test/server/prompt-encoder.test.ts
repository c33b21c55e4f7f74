/** The tokenizer thread (from the build, since threads run JavaScript): same ids, in parallel, and a free event loop meanwhile. */
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { ThreadEncoder } from '../../src/server/prompt-encoder.js';
import { demoFolder, tokenizer } from './demo-server.js';

const entry = pathToFileURL(path.resolve(import.meta.dirname, '../../dist/src/server/encoder-thread.js'));
const encoder = new ThreadEncoder(tokenizer, demoFolder, entry);
afterAll(() => encoder.close());

const options = { addSpecialTokens: 'auto' } as const;
const longText = 'The quick brown fox 😀 jumps over the lazy dog. '.repeat(4000);

it('gives the same ids for short and long texts, asked in any order', async () => {
  const texts = ['short', longText, 'x'.repeat(5000), '', longText.slice(7), 'end'];
  const ids = await Promise.all(texts.map((text) => encoder.encode(text, options)));
  expect(ids).toEqual(texts.map((text) => tokenizer.encode(text, options)));
});

it('leaves the event loop free while a long text is encoded', async () => {
  let turnCount = 0;
  let isDone = false;
  const done = encoder.encode(longText, options).then(() => {
    isDone = true;
  });
  while (!isDone) {
    await systemClock.yield();
    turnCount += 1;
  }
  await done;
  expect(turnCount).toBeGreaterThan(10);
});

it('fails what is waiting when the thread dies, and starts another', async () => {
  const waiting = encoder.encode(longText, options);
  await encoder.close();
  await expect(waiting).rejects.toThrow('the tokenizer thread ended');
  expect(await encoder.encode(longText, options)).toEqual(tokenizer.encode(longText, options));
});
