/** The text threads (from the build, since threads run JavaScript): same ids as on the caller's thread;
 *  hostile templates and tokenizers end by their limits, take nobody with them and never hold up the event
 *  loop. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { pathToFileURL } from 'node:url';
import { afterAll, afterEach, expect, it, vi } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { loadText, runJob, unitCountOf } from '../../src/server/text-jobs.js';
import { DirectText, type TextServiceOptions, ThreadedText } from '../../src/server/text-service.js';
import { demoFolder, demoModel, say, startTestServer, type TestServer, tokenizer } from './demo-server.js';

const entry = pathToFileURL(path.resolve(import.meta.dirname, '../../dist/src/server/text-thread-entry.js'));
const temporary = mkdtempSync(path.join(os.tmpdir(), 'twostroke-text-'));
afterAll(() => rmSync(temporary, { recursive: true }));

const closing: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

async function startText(options: Partial<TextServiceOptions> = {}): Promise<ThreadedText> {
  const text = await ThreadedText.start({ folder: demoFolder, entry, ...options });
  closing.push(() => text.close());
  return text;
}

async function serve(options: Partial<TextServiceOptions>): Promise<TestServer> {
  const text = await startText(options);
  const server = await startTestServer(say('yes'), { model: { text, tokenizer: text.detokenizer } });
  closing.push(() => server.close());
  return server;
}

/** The demo model with another chat template or pre-tokenizer. */
function folderWith(changes: { template?: string; pattern?: string }): string {
  const folder = mkdtempSync(path.join(temporary, 'model-'));
  for (const name of ['tokenizer.json', 'tokenizer_config.json'])
    cpSync(path.join(demoFolder, name), path.join(folder, name));
  if (changes.template !== undefined)
    writeFileSync(path.join(folder, 'chat_template.jinja'), changes.template);
  if (changes.pattern !== undefined) {
    const file = path.join(folder, 'tokenizer.json');
    const json = JSON.parse(readFileSync(file, 'utf8'));
    json.pre_tokenizer.pretokenizers[0].pattern.Regex = changes.pattern;
    writeFileSync(file, JSON.stringify(json));
  }
  return folder;
}

function entryOf(source: string): URL {
  const file = path.join(mkdtempSync(path.join(temporary, 'entry-')), 'entry.mjs');
  writeFileSync(file, source);
  return pathToFileURL(file);
}

const lists = (answers: readonly Int32Array[]) => answers.map((ids) => [...ids]);
const auto = { addSpecialTokens: 'auto' } as const;
const none = { addSpecialTokens: 'none' } as const;
const longText = 'The quick brown fox 😀 jumps over the lazy dog. '.repeat(4000);
const hi = { messages: [{ role: 'user', content: 'Hi' }] };
const endlessLoop =
  '{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}{{ messages[0].content }}';

it('gives the same ids and texts as the caller’s own tokenizer, asked in any order', async () => {
  const text = await startText();
  const texts = ['short', longText, 'x'.repeat(5000), '', longText.slice(7), 'end'];
  const ids = texts.map((one) => tokenizer.encode(one, auto));
  const asked = texts.map(async (one) => lists(await text.encode([one], auto)));
  expect(await Promise.all(asked)).toEqual(ids.map((list) => [list]));
  expect(lists(await text.encode(texts, auto))).toEqual(ids);
  expect(await text.decode(ids)).toEqual(texts);
  const direct = new DirectText(loadText(demoFolder));
  const chat = { messages: hi.messages, options: { addGenerationPrompt: true } };
  expect(await text.encodeChat(chat, none, 1000)).toEqual(await direct.encodeChat(chat, none, 1000));
  await expect(text.encodeChat(chat, none, 3)).rejects.toMatchObject({
    code: 'context_length_exceeded',
    param: 'messages',
  });
});

it('brings the whole vocabulary over, without the tokenizer', async () => {
  const { detokenizer } = await startText();
  expect(detokenizer.vocabCount).toBe(tokenizer.vocabCount);
  expect(detokenizer.leadingSpaceCount).toBe(tokenizer.leadingSpaceCount);
  for (let id = -1; id <= tokenizer.vocabCount; id++) {
    expect(Buffer.compare(detokenizer.tokenBytes(id), tokenizer.tokenBytes(id))).toBe(0);
    expect(detokenizer.isSpecial(id)).toBe(tokenizer.isSpecial(id));
  }
});

it('leaves the event loop free while a long text is encoded, and short ones overtake it', async () => {
  const text = await startText();
  let isDone = false;
  const done = text.encode([longText.repeat(4)], auto).then(() => {
    isDone = true;
  });
  let answerCount = 0;
  while (!isDone) {
    await text.encode(['short'], auto);
    if (!isDone) answerCount++;
  }
  await done;
  expect(answerCount).toBeGreaterThan(10);
});

it.each([
  [
    'a template that loops for ever',
    { template: endlessLoop },
    '/v1/chat/completions',
    { model: 'demo', ...hi },
  ],
  ['a template that nests large ranges', { template: '{{ range(1000000000) | list }}' }, null, null],
  [
    'a pre-tokenizer that backtracks',
    { pattern: '(a+)+$' },
    '/v1/completions',
    { model: 'demo', prompt: `${'a'.repeat(60)}!` },
  ],
  ['the same by /tokenize', { pattern: '(a+)+$' }, '/tokenize', { prompt: `${'a'.repeat(60)}!` }],
] as const)('%s is stopped, while /health and others are served', async (_, changes, route, body) => {
  const runLimitMs = 1500;
  const { post, url } = await serve({ folder: folderWith(changes), runLimitMs });
  if (route === null) {
    const refused = await post('/v1/chat/completions', { model: 'demo', ...hi });
    expect(refused.status).toBe(400);
    expect(await refused.text()).toContain('Range too big');
    return;
  }
  let isDone = false;
  const delay = monitorEventLoopDelay({ resolution: 5 });
  delay.enable();
  const hostile = post(route, body).finally(() => {
    isDone = true;
  });
  let healthCount = 0;
  while (!isDone) {
    expect((await fetch(`${url}/health`)).status).toBe(200);
    healthCount++;
  }
  delay.disable();
  const refused = await hostile;
  expect(refused.status).toBe(504);
  expect(await refused.text()).toMatch(/did not finish within 1.5 s and was stopped/);
  expect(healthCount).toBeGreaterThan(10);
  expect(delay.max / 1e6).toBeLessThan(runLimitMs / 2);
  // The thread has been replaced.
  const next = await post('/v1/completions', { model: 'demo', prompt: 'b', max_tokens: 2 });
  expect(next.status).toBe(200);
});

it('keeps a kind of job that was stopped away from the others', async () => {
  const text = await startText({ folder: folderWith({ template: endlessLoop }), runLimitMs: 1500 });
  const chat = { messages: hi.messages, options: { addGenerationPrompt: true } };
  await expect(text.encodeChat(chat, none, 1000)).rejects.toMatchObject({ code: 'deadline_exceeded' });
  let stoppedCount = 0;
  const hostile = [1, 2].map(() => text.encodeChat(chat, none, 1000).catch(() => stoppedCount++));
  for (let index = 0; index < 20; index++)
    expect(lists(await text.encode(['b'], none))).toEqual([tokenizer.encode('b', none)]);
  expect(stoppedCount).toBe(0);
  await Promise.all(hostile);
  expect(stoppedCount).toBe(2);
});

it('keeps jobs of that kind away that waited when the first was stopped', async () => {
  const text = await startText({ folder: folderWith({ template: endlessLoop }), runLimitMs: 1500 });
  const chat = { messages: hi.messages, options: { addGenerationPrompt: true } };
  let stoppedCount = 0;
  const hostile = [1, 2, 3, 4].map(() => text.encodeChat(chat, none, 1000).catch(() => stoppedCount++));
  expect(lists(await text.encode(['b'], none))).toEqual([tokenizer.encode('b', none)]);
  expect(stoppedCount).toBe(1);
  await Promise.all(hostile);
});

it.each([
  [
    'a field of a message',
    { messages: [{ ...hi.messages[0], role: 'user', name: 'x'.repeat(100_000) }], extra: {} },
  ],
  [
    'a list of empty messages',
    { messages: Array.from({ length: 5000 }, () => ({ role: 'user', content: '' })), extra: {} },
  ],
  ['a variable for the template', { messages: hi.messages, extra: { a: [{ b: 'x'.repeat(100_000) }] } }],
])('%s counts as much as a text of its size', (_, { messages, extra }) => {
  const chat = { messages, options: { addGenerationPrompt: true, extra } };
  expect(unitCountOf({ kind: 'chat', chat, options: none, unitCountMax: 1000 })).toBeGreaterThan(20_000);
});

it.each([
  '{{ raise_exception("x" * 10**6) }}',
  '{{ {}["x" * 10**6].a }}',
  '{{ ("{" ~ "x" * 10**6 ~ "}").format() }}',
])('tells of %s in a message of bounded length', async (template) => {
  const text = await startText({ folder: folderWith({ template }) });
  const chat = { messages: hi.messages, options: { addGenerationPrompt: true } };
  const error: Error = await text.encodeChat(chat, none, 1000).then(
    () => new Error('no'),
    (reason) => reason,
  );
  expect(error.message).toMatch(/refuses these messages.*xxx/);
  expect(error.message.length).toBeLessThan(3000);
});

it('goes on when a job cannot be given to a thread', async () => {
  const text = await startText({ runLimitMs: 300 });
  let deep: unknown[] = [];
  for (let depth = 0; depth < 100_000; depth++) deep = [deep];
  const job = () => text.encode([deep as unknown as string], none);
  await expect(job()).rejects.toThrow();
  await systemClock.sleep(600);
  expect(lists(await text.encode(['b'], none))).toEqual([tokenizer.encode('b', none)]);
});

it('stops a template that fills the memory, and goes on', async () => {
  const grow =
    '{% set ns = namespace(l=[]) %}{% for i in range(10000) %}' +
    '{% set ns.l = [ns.l, range(100000) | list] %}{% endfor %}';
  const text = await startText({
    folder: folderWith({ template: grow }),
    memoryLimitMb: 128,
    runLimitMs: 30_000,
  });
  const chat = { messages: hi.messages, options: { addGenerationPrompt: true } };
  await expect(text.encodeChat(chat, none, 1000)).rejects.toThrow(/needed more than 128 MiB/);
  expect(lists(await text.encode(['b'], none))).toEqual([tokenizer.encode('b', none)]);
});

// one piece of memory beyond what a thread has to spare would end the process, not the thread
it.each([
  '{% set ns = namespace(l=["x"]) %}{% for i in range(100) %}{% set ns.l = ns.l + ns.l %}{% endfor %}',
  '{% set ns = namespace(l="x") %}{% for i in range(100) %}{% set ns.l = ns.l ~ ns.l %}{% endfor %}',
  '{{ ["x"] * 10**8 }}',
  '{{ "x" * 10**8 }}',
  '{{ ("x" * 10**6).replace("x", "y" * 100) }}',
  '{{ ("y" * 1000).join(["x"] * 10**5) }}',
  '{{ (["x" * 1000] * 10**5) | join("") }}',
  '{{ "%0100000000d" % 1 }}',
  '{{ "x".center(10**8) }}',
  '{{ ["x"] | batch(10**8, "y") | list }}',
  '{{ ["x"] | slice(10**8) | list }}',
  '{{ ("a\n" * 10**5) | indent(10**4) }}',
  '{% for i in range(100) %}{{ "x" * 10**6 }}{% endfor %}',
])('refuses %s: too long', async (template) => {
  const text = await startText({ folder: folderWith({ template }), memoryLimitMb: 128, runLimitMs: 30_000 });
  const chat = { messages: hi.messages, options: { addGenerationPrompt: true } };
  await expect(text.encodeChat(chat, none, 1000)).rejects.toThrow(/is too long \(at most \d+\)/);
});

it('refuses what comes after close', async () => {
  const text = await startText();
  const running = text.encode(['one'], { addSpecialTokens: 'none' }).catch((error) => error);
  await text.close();
  expect(await running).toMatchObject({ code: 'unavailable' });
  await expect(text.encode(['two'], { addSpecialTokens: 'none' })).rejects.toMatchObject({
    code: 'unavailable',
  });
});

it('says at the start what cannot be loaded, in bounded time', async () => {
  const deaf = entryOf(`setInterval(() => {}, 1000);`);
  await expect(
    ThreadedText.start({ folder: demoFolder, entry: deaf, loadLimitMs: 300 }),
  ).rejects.toMatchObject({
    code: 'model_error',
    message: expect.stringContaining('did not finish within 0.3 s'),
  });
  const busy = entryOf('for (;;) {}');
  await expect(ThreadedText.start({ folder: demoFolder, entry: busy, loadLimitMs: 300 })).rejects.toThrow(
    'did not finish within',
  );
  const swollen = folderWith({});
  const file = path.join(swollen, 'tokenizer.json');
  const json = JSON.parse(readFileSync(file, 'utf8'));
  const [token = ''] = Object.entries(json.model.vocab).find(([, id]) => id === 300) ?? [];
  delete json.model.vocab[token];
  json.model.vocab['x'.repeat(100_000)] = 300;
  writeFileSync(file, JSON.stringify(json));
  await expect(ThreadedText.start({ folder: swollen, entry })).rejects.toThrow(
    /token 300 is 100000 bytes long/,
  );
  const broken = folderWith({ template: '{% for %}' });
  await expect(ThreadedText.start({ folder: broken, entry })).rejects.toMatchObject({
    code: 'model_error',
    message: expect.stringContaining('the chat template does not parse'),
  });
});

it('takes no more waiting text than about half a minute of work, and any text when nothing waits', async () => {
  const stuck = await startText({
    entry: entryOf(
      `import { parentPort } from 'node:worker_threads'; parentPort.on('message', () => {});
       const none = { leadingSpaceCount: 0, starts: new Uint32Array(1), bytes: new Uint8Array(0), special: new Uint8Array(0) };
       parentPort.postMessage({ kind: 'loaded', tokens: none, templateSource: null });`,
    ),
    runLimitMs: 60_000,
  });
  const waiting = ['x'.repeat(2 ** 25 - 10_000), 'x'.repeat(5000)].map((one) => stuck.encode([one], auto));
  const told = Promise.allSettled(waiting);
  await expect(stuck.encode(['x'.repeat(5001)], auto)).rejects.toMatchObject({
    code: 'overloaded',
    retryAfterMs: expect.closeTo(33_550, -2),
  });
  await systemClock.sleep(50);
  await stuck.close();
  expect((await told).map(({ status }) => status)).toEqual(['rejected', 'rejected']);
});

it('takes the prompts of one body as one job', async () => {
  const text = demoModel.text;
  if (text === null) throw new Error('the demo model has text');
  const encode = vi.spyOn(text, 'encode');
  const server = await startTestServer(say('yes'));
  closing.push(() => server.close());
  const answer = await server.post('/v1/completions', {
    model: 'demo',
    prompt: ['a', 'b', 'c'],
    max_tokens: 1,
  });
  expect(answer.status).toBe(200);
  expect(encode).toHaveBeenCalledTimes(1);
  encode.mockRestore();
});

it('gives all tokens of a long text', async () => {
  const server = await startTestServer(say('yes'), { model: { maxModelTokenCount: 100_000 } });
  closing.push(() => server.close());
  const prompt = '1 2 3 '.repeat(10_000);
  const answer = await server.post('/tokenize', { prompt, return_token_strs: true });
  const ids = tokenizer.encode(prompt, auto);
  expect(await answer.json()).toEqual({
    count: ids.length,
    max_model_len: 100_000,
    tokens: ids,
    token_strs: ids.map((id) => tokenizer.tokenText(id)),
  });
});

it('refuses ids of a text that is too long for one string', () => {
  const longest = Array.from({ length: 4096 }, (_, id) => id).sort(
    (a, b) => tokenizer.tokenBytes(b).length - tokenizer.tokenBytes(a).length,
  )[0] as number;
  const byteCount = tokenizer.tokenBytes(longest).length;
  const count = Math.ceil((2 ** 25 + 1) / byteCount);
  const text = loadText(demoFolder);
  const decode = (length: number) =>
    runJob(text, { kind: 'decode', ids: [new Int32Array(length).fill(longest)] });
  expect(decode(10)).toMatchObject({ kind: 'texts' });
  const answer = decode(count);
  expect(answer).toMatchObject({ kind: 'error', error: { code: 'invalid_request', param: 'tokens' } });
});
