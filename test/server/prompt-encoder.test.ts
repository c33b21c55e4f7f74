/** The tokenizer thread (from the build, since threads run JavaScript): same ids, in parallel, and a free event loop meanwhile. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
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

it('is not confused by a thread that ends after it has failed', async () => {
  const once = path.join(mkdtempSync(path.join(os.tmpdir(), 'twostroke-encoder-')), 'once.mjs');
  writeFileSync(
    once,
    `import { parentPort } from 'node:worker_threads'; parentPort.on('message', () => { throw new Error('bad luck') });`,
  );
  const unlucky = new ThreadEncoder(tokenizer, demoFolder, pathToFileURL(once));
  await expect(unlucky.encode(longText, options)).rejects.toThrow('bad luck');
  writeFileSync(once, `import ${JSON.stringify(entry.href)};`);
  expect(await unlucky.encode(longText, options)).toEqual(tokenizer.encode(longText, options)); // before the first one's exit is told
  await unlucky.close();
  rmSync(path.dirname(once), { recursive: true });
});

it('takes no more waiting text than it can encode in half a minute, and any text when nothing waits', async () => {
  const deaf = path.join(mkdtempSync(path.join(os.tmpdir(), 'twostroke-encoder-')), 'deaf.mjs');
  writeFileSync(deaf, `import { parentPort } from 'node:worker_threads'; parentPort.on('message', () => {});`);
  const stuck = new ThreadEncoder(tokenizer, demoFolder, pathToFileURL(deaf));
  const large = 'x'.repeat(2 ** 25 - 10_000);
  const waiting = [large, 'x'.repeat(5000)].map((text) => stuck.encode(text, options).catch((error: Error) => error.message));
  await expect(stuck.encode('x'.repeat(5001), options)).rejects.toMatchObject({
    code: 'overloaded',
    retryAfterMs: expect.closeTo(33_550, -2),
  });
  expect(await stuck.encode('short', options)).toEqual(tokenizer.encode('short', options));
  await stuck.close();
  expect(await Promise.all(waiting)).toEqual(new Array(2).fill('the tokenizer thread ended'));
  rmSync(path.dirname(deaf), { recursive: true });
});
