/** A model by its name, out of a stand-in hub into a cache folder: what is fetched, where it lies, and what
 *  happens when something goes wrong. */
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type Clock, systemClock } from '../../src/base/clock.js';
import { TwostrokeError } from '../../src/base/errors.js';
import { cachedModels, removeModel } from '../../src/hub/cached-models.js';
import { tryLock } from '../../src/hub/file-lock.js';
import { findLocalModel, findModel } from '../../src/hub/find-model.js';
import { parseModelName } from '../../src/hub/model-name.js';
import { type PullOptions, type PullProgress, pullModel } from '../../src/hub/pull.js';
import type { HubSettings } from '../../src/hub/settings.js';
import { type Asked, StandInHub } from './stand-in-hub.js';

const id = 'org/small';
const weights = Buffer.alloc(3_000_000, 'weights ');
const files = {
  'config.json': '{"a": 1}',
  'tokenizer.json': '{"b": 2}',
  'README.md': 'card',
  'model.safetensors': weights,
  'pytorch_model.bin': Buffer.alloc(100),
  'onnx/model.onnx': 'other',
  'consolidated.safetensors': Buffer.alloc(50),
};
let hub: StandInHub;
let cacheFolder: string;
let told: string[];
let sleptMs: number[];
let progress: PullProgress[];

beforeAll(async () => {
  hub = await StandInHub.start();
});
afterAll(() => hub.close());

beforeEach(() => {
  cacheFolder = mkdtempSync(path.join(tmpdir(), 'hub-'));
  [told, sleptMs, progress] = [[], [], []];
  hub.asked.length = 0;
  hub.fault = () => null;
  hub.token = null;
  hub.add(id, files);
  return () => rmSync(cacheFolder, { recursive: true });
});

/** Waits for nothing, and remembers for how long it was told to. */
const clock: Clock = {
  nowMs: () => systemClock.nowMs(),
  wallMs: () => systemClock.wallMs(),
  after: (delayMs, fire) => systemClock.after(delayMs, fire),
  yield: () => systemClock.yield(),
  sleep: (delayMs) => {
    sleptMs.push(delayMs);
    return systemClock.yield();
  },
};

function options(settings: Partial<HubSettings> = {}): PullOptions {
  const proxies = { http: '', https: '', none: '' };
  return {
    settings: { endpoint: hub.url, token: null, cacheFolder, isOffline: false, proxies, ...settings },
    parts: 'all',
    clock,
    signal: new AbortController().signal,
    tryCount: 3,
    stallMs: 20_000,
    onProgress: (at) => void progress.push(at),
    tell: (line) => void told.push(line),
  };
}

const pull = (name = id, settings: Partial<HubSettings> = {}) =>
  pullModel(parseModelName(name)!, options(settings));
const failure = async (work: Promise<unknown>) => {
  const error = await work.then(
    () => expect.unreachable('it should fail'),
    (thrown) => thrown,
  );
  expect(error).toBeInstanceOf(TwostrokeError);
  return error as TwostrokeError;
};
const contentAsked = () => hub.asked.filter(({ path: of }) => of.includes('/resolve/'));
const blobNames = () => readdirSync(path.join(cacheFolder, 'models--org--small/blobs')).sort();
const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');

describe('a pull', () => {
  it("fetches what a model needs, laid out as Python's tools do, and nothing again", async () => {
    const { path: folder } = await pull();
    const repository = path.join(cacheFolder, 'models--org--small');
    expect(folder).toBe(path.join(repository, 'snapshots', hub.commit));
    expect(readdirSync(folder).sort()).toEqual([
      'README.md',
      'config.json',
      'model.safetensors',
      'tokenizer.json',
    ]);
    expect(readlinkSync(path.join(folder, 'model.safetensors'))).toBe(`../../blobs/${sha256(weights)}`);
    expect(readFileSync(path.join(folder, 'model.safetensors')).equals(weights)).toBe(true);
    expect(readFileSync(path.join(repository, 'refs/main'), 'utf8')).toBe(hub.commit);
    expect(existsSync(path.join(cacheFolder, '.locks/models--org--small', `${sha256(weights)}.lock`))).toBe(
      true,
    );
    expect(readlinkSync(path.join(folder, 'config.json'))).toBe(`../../blobs/${gitHash('{"a": 1}')}`);
    expect(progress.at(-1)).toMatchObject({
      totalBytes: weights.length + 20,
      doneBytes: weights.length + 20,
    });

    hub.asked.length = 0;
    expect((await pull()).path).toBe(folder);
    expect(contentAsked()).toEqual([]);
  });

  it('fetches one GGUF file, all its parts, or says which there are', async () => {
    const gguf = { 'a.Q4_K_M.gguf': Buffer.from('m'), 'a.Q4_K_S.gguf': Buffer.from('s'), 'README.md': 'x' };
    hub.add(id, {
      ...gguf,
      'big/b-Q8_0-00001-of-00002.gguf': Buffer.from('1'),
      'big/b-Q8_0-00002-of-00002.gguf': Buffer.from('2'),
    });
    const snapshot = path.join(cacheFolder, 'models--org--small/snapshots', hub.commit);
    expect((await pull(`${id}:a.Q4_K_M.gguf`)).path).toBe(path.join(snapshot, 'a.Q4_K_M.gguf'));
    expect((await pull(`${id}@main:q4_k_s`)).path).toBe(path.join(snapshot, 'a.Q4_K_S.gguf'));
    expect((await pull(`${id}:Q8_0`)).path).toBe(path.join(snapshot, 'big/b-Q8_0-00001-of-00002.gguf'));
    expect(readdirSync(path.join(snapshot, 'big'))).toHaveLength(2);
    expect(findLocalModel(`${id}:Q8_0`, cacheFolder)).toBe(
      path.join(snapshot, 'big/b-Q8_0-00001-of-00002.gguf'),
    );
    expect((await failure(pull())).message).toMatch(
      /several GGUF files: name one.*a\.Q4_K_M\.gguf, a\.Q4_K_S\.gguf/,
    );
    expect((await failure(pull(`${id}:Q4_K`))).message).toMatch(/"Q4_K" is not exactly one GGUF file/);
    hub.add(id, { 'pytorch_model.bin': Buffer.from('x'), 'config.json': '{}' });
    expect((await failure(pull())).message).toMatch(/neither .* it has pytorch_model.bin/);
  });

  it('leaves weights out when they are random', async () => {
    const folder = await findModel(id, { ...options(), parts: 'text' });
    expect(readdirSync(folder).sort()).toEqual(['README.md', 'config.json', 'tokenizer.json']);
    expect(() => findLocalModel(id, cacheFolder)).toThrow(/nor complete in the cache/);
  });

  it('asks for room before it fetches', async () => {
    hub.add(id, {
      ...files,
      'model.safetensors': { bytes: weights, isLarge: true, announcedByteCount: 2 ** 43 },
    });
    expect((await failure(pull())).message).toMatch(/8192\.00 GiB have to come, .* free: make room/);
    expect(contentAsked()).toEqual([]);
  });

  it('ends when it is told to, and keeps what has arrived', async () => {
    const abort = new AbortController();
    hub.fault = ({ server }) => (server === 'cdn' ? { stallAfter: 2_000_000 } : null);
    const pulling = pullModel(parseModelName(id)!, {
      ...options(),
      signal: abort.signal,
      onProgress: ({ doneBytes }) =>
        doneBytes >= 2_000_000 && abort.abort(new TwostrokeError('cancelled', 'enough')),
    });
    expect((await failure(pulling)).code).toBe('cancelled');
    expect(blobNames()).toContain(`${sha256(weights)}.incomplete`);
  });
});

describe('a connection that breaks', () => {
  it('is continued where it broke', async () => {
    let cuts = 0;
    hub.fault = ({ server }) => (server === 'cdn' && cuts++ < 4 ? { cutAfter: 500_000 } : null);
    const { path: folder } = await pull();
    expect(readFileSync(path.join(folder, 'model.safetensors')).equals(weights)).toBe(true);
    const starts = contentAsked().filter(({ server }) => server === 'cdn');
    const offsets = starts.map(({ range }) => Number(/^bytes=(\d+)-$/.exec(range ?? 'bytes=0-')?.[1]));
    expect(offsets).toHaveLength(5);
    expect(offsets.every((offset, index) => index === 0 || offset > (offsets[index - 1] ?? 0))).toBe(true);
    expect(told).toHaveLength(4);
    expect(progress.at(-1)?.receivedBytes).toBe(weights.length + 20);
  });

  it('begins again where the server knows no ranges', async () => {
    let cuts = 0;
    hub.fault = ({ server }) =>
      server === 'cdn' ? (cuts++ === 0 ? { cutAfter: 500_000 } : { ignoresRanges: true }) : null;
    const { path: folder } = await pull();
    expect(readFileSync(path.join(folder, 'model.safetensors')).equals(weights)).toBe(true);
    expect(progress.at(-1)?.doneBytes).toBe(weights.length + 20);
  });

  it('is given up when it brings nothing, and what has arrived is kept for the next time', async () => {
    hub.fault = ({ server, range }) => (server === 'cdn' ? { cutAfter: range === null ? 700_000 : 0 } : null);
    expect((await failure(pull())).message).toMatch(/model.safetensors: .*/);
    expect(sleptMs).toEqual([1000, 2000, 4000, 8000, 16000]);
    expect(existsSync(path.join(cacheFolder, 'models--org--small/refs/main'))).toBe(false);
    hub.fault = () => null;
    hub.asked.length = 0;
    await pull();
    // the hub, and where it redirects to; a cut may lose what was on its way
    const [range = '', ...others] = contentAsked().map((asked) => asked.range ?? '');
    expect(others).toEqual([range]);
    const start = Number(/^bytes=(\d+)-$/.exec(range)?.[1]);
    expect(start).toBeGreaterThan(0);
    expect(start).toBeLessThanOrEqual(700_000);
  });

  it('that is silent counts as broken', async () => {
    let stalls = 0;
    hub.fault = ({ server }) => (server === 'cdn' && stalls++ === 0 ? { stallAfter: 1_000_000 } : null);
    const { path: folder } = await pullModel(parseModelName(id)!, { ...options(), stallMs: 1000 });
    expect(readFileSync(path.join(folder, 'model.safetensors')).equals(weights)).toBe(true);
  });
});

describe('what a hub sends', () => {
  const damaged = Buffer.from(weights);
  damaged[1_234_567] = 0;

  it('is fetched once more when its hash is wrong', async () => {
    let answers = 0;
    hub.fault = ({ server }) => (server === 'cdn' && answers++ === 0 ? { body: damaged } : null);
    const { path: folder } = await pull();
    expect(readFileSync(path.join(folder, 'model.safetensors')).equals(weights)).toBe(true);
    expect(told.join()).toMatch(/the bytes have sha256 .* announced was .*; again from the beginning/);
  });

  it('is refused when its hash stays wrong, small files too', async () => {
    hub.fault = ({ server }) => (server === 'cdn' ? { body: damaged } : null);
    expect((await failure(pull())).message).toMatch(
      /model.safetensors: the bytes have sha256 .* damaged on the way/,
    );
    expect(blobNames()).not.toContain(sha256(weights));
    removeModel(parseModelName(id)!, 'all', cacheFolder);
    hub.fault = ({ path: of }) => (of.endsWith('config.json') ? { body: Buffer.from('{"a": 2}') } : null);
    expect((await failure(pull())).message).toMatch(/config.json: the bytes have git-sha1/);
  });

  it('is never written beyond the announced size', async () => {
    hub.add(id, {
      ...files,
      'model.safetensors': { bytes: weights, isLarge: true, announcedByteCount: 1_000_000 },
    });
    expect((await failure(pull())).message).toMatch(/more than the announced 1000000 bytes/);
    const [incomplete] = blobNames().filter((name) => name.endsWith('.incomplete'));
    expect(
      readFileSync(path.join(cacheFolder, 'models--org--small/blobs', incomplete ?? '')).length,
    ).toBeLessThanOrEqual(1_000_000);
  });

  it('damages nothing that was kept before', async () => {
    const kept = path.join(cacheFolder, 'models--org--small/blobs', `${sha256(weights)}.incomplete`);
    await pull();
    removeModel(parseModelName(id)!, 'all', cacheFolder);
    hub.fault = ({ server, range }) => (server === 'cdn' && range === null ? { cutAfter: 900_000 } : null);
    await pull();
    expect(existsSync(kept)).toBe(false);
    // what was kept is damaged, or longer than the file: it comes again
    removeModel(parseModelName(id)!, 'all', cacheFolder);
    hub.fault = ({ server }) => (server === 'cdn' ? { cutAfter: 0 } : null);
    await failure(pull());
    for (const bytes of [Buffer.alloc(1_000_000), Buffer.alloc(4_000_000)]) {
      writeFileSync(kept, bytes);
      hub.fault = () => null;
      const { path: folder } = await pull();
      expect(readFileSync(path.join(folder, 'model.safetensors')).equals(weights)).toBe(true);
      removeModel(parseModelName(id)!, 'all', cacheFolder);
      hub.fault = ({ server }) => (server === 'cdn' ? { cutAfter: 0 } : null);
      await failure(pull());
    }
  });

  it.each([
    { what: 'not JSON', body: 'nonsense', message: /not valid JSON/ },
    { what: 'a list', body: '[]', message: /must be an object/ },
    { what: 'no commit', body: '{"sha": "../../etc", "siblings": []}', message: /"sha" must be a commit/ },
    { what: 'a hash that is a path', body: listing('config.json', '../../../evil'), message: /needs a hash/ },
    { what: 'a negative size', body: listing('config.json', 'ab'.repeat(20), -1), message: /needs a size/ },
    {
      what: 'a size of petabytes',
      body: listing('config.json', 'ab'.repeat(20), 2 ** 50),
      message: /needs a size/,
    },
    { what: '40 MB of lists', body: '['.repeat(2 ** 25 + 1), message: /larger than|nested/ },
  ])('listing: $what', async ({ body, message }) => {
    hub.fault = () => ({ body: Buffer.from(body) });
    expect((await failure(pull())).message).toMatch(message);
    expect(existsSync(path.join(cacheFolder, 'models--org--small/snapshots'))).toBe(false);
  });

  it('never names a file outside of the cache', async () => {
    const names = [
      '../../evil.gguf',
      '/tmp/evil.gguf',
      'a/../../../evil.gguf',
      'a\\..\\evil.gguf',
      'C:evil.gguf',
      'a//evil.gguf',
      './evil.gguf',
      'ev\u0000il.gguf',
      'ev\u001b[2Jil.gguf',
      `${'x'.repeat(300)}.gguf`,
    ];
    hub.add(id, Object.fromEntries([...names, 'good.gguf'].map((name) => [name, Buffer.from('x')])));
    expect((await pull()).path.endsWith('/good.gguf')).toBe(true); // the only one that counts
    for (const name of names) expect(parseModelName(`${id}:${name}`), name).toBeNull();
  });
});

describe('a refusal', () => {
  it.each([
    {
      status: 401,
      code: 'unauthorized',
      message: /org\/small: no such model on .*, or not for everybody: set HF_TOKEN/,
    },
    { status: 403, code: 'forbidden', message: /accept its terms on .*\/org\/small, and set HF_TOKEN/ },
    { status: 404, code: 'not_found', message: /neither a folder here nor on http.*: no such model/ },
    { status: 418, code: 'unavailable', message: /answers HTTP 418 \(the hub says: no\?\[2Jtea\)/ },
  ])('HTTP $status', async ({ status, code, message }) => {
    hub.fault = () => ({ status, headers: status === 418 ? { 'x-error-message': 'no\t[2Jtea' } : {} });
    const error = await failure(pull());
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
    expect(hub.asked).toHaveLength(1);
  });

  it('of a revision or a token says so', async () => {
    expect((await failure(pull(`${id}@v9`))).message).toMatch(/org\/small@v9: .*no such revision/);
    hub.token = 'right';
    expect((await failure(pull(id, { token: 'wrong' }))).message).toMatch(
      /the hub refuses the token in HF_TOKEN/,
    );
    expect((await failure(pull('org/none', { token: 'right' }))).message).toMatch(/no such model/);
    await pull(id, { token: 'right' });
  });

  it('of too many requests waits as long as it is asked to', async () => {
    let answers = 0;
    hub.fault = () => (answers++ < 2 ? { status: 429, headers: { 'retry-after': '7' } } : null);
    await pull();
    expect(sleptMs).toEqual([7000, 7000]);
    hub.fault = () => ({ status: 429, headers: { 'retry-after': '4000' } });
    expect((await failure(pull())).message).toMatch(/too many requests; try again in 4000 s/);
    expect(sleptMs).toHaveLength(2);
  });

  it('of a full server is tried again a few times', async () => {
    hub.fault = () => ({ status: 503 });
    expect((await failure(pull())).message).toMatch(/org\/small: HTTP 503/);
    expect(hub.asked).toHaveLength(3);
  });
});

describe('redirects', () => {
  it('take the token to the endpoint only', async () => {
    hub.token = 'secret';
    await pull(id, { token: 'secret' });
    const seen = (server: Asked['server']) =>
      new Set(hub.asked.filter((asked) => asked.server === server).map((a) => a.authorization));
    expect(seen('hub')).toEqual(new Set(['Bearer secret']));
    expect(seen('cdn')).toEqual(new Set([null]));
  });

  it.each(['file:///etc/passwd', 'ftp://127.0.0.1/x', 'javascript:1', 'http://'])(
    'to %s are not followed',
    async (location) => {
      hub.fault = ({ path: of }) =>
        of.endsWith('model.safetensors') ? { status: 302, headers: { location } } : null;
      expect((await failure(pull())).message).toMatch(/redirects to .*, which is not followed/);
    },
  );

  it('in a circle end', async () => {
    hub.fault = ({ path: of }) =>
      of.endsWith('config.json') ? { status: 307, headers: { location: of } } : null;
    expect((await failure(pull())).message).toMatch(/more than 10 redirects/);
  });
});

describe('a proxy', () => {
  it('is used for all hosts but those that are named', async () => {
    const tunnels: string[] = [];
    const proxy = createServer().on('connect', ({ url = '' }, client) => {
      tunnels.push(url);
      const [host = '', port = ''] = url.split(':');
      const upstream = connect(Number(port), host, () => {
        client.write('HTTP/1.1 200 OK\r\n\r\n');
        upstream.pipe(client).pipe(upstream);
      });
      for (const socket of [client, upstream]) socket.on('error', () => undefined);
    });
    await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
    const http = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
    try {
      await pull(id, { proxies: { http, https: '', none: '' } });
      expect(new Set(tunnels)).toEqual(new Set([new URL(hub.url).host, new URL(hub.cdnUrl).host]));
      tunnels.length = 0;
      await pull(id, { proxies: { http, https: '', none: 'example.org,127.0.0.1' } });
      expect(tunnels).toEqual([]);
    } finally {
      proxy.closeAllConnections();
      proxy.close();
    }
  });
});

describe('a name', () => {
  const find = (name: string, settings: Partial<HubSettings> = {}) => findModel(name, options(settings));

  it('is a folder that exists before it is a model', async () => {
    expect(await find('test/hub')).toBe(path.resolve('test/hub'));
    expect(await find('demo')).toMatch(/models\/demo-6m$/);
    expect(hub.asked).toEqual([]);
    const error = await failure(find('./nowhere'));
    expect(error.message).toMatch(
      /no such folder. A model is "demo", a folder with config.json, a GGUF file, or org\/name/,
    );
    expect(findLocalModel('models/demo-6m')).toBe(path.resolve('models/demo-6m'));
    expect(() => findLocalModel('package.json')).toThrow(/is a file/);
  });

  it('is answered from the cache without a network', async () => {
    const away = { endpoint: 'http://127.0.0.1:1' };
    expect((await failure(find(id, away))).message).toMatch(/ECONNREFUSED/);
    const folder = await find(id);
    sleptMs.length = 0;
    expect(await find(id, away)).toBe(folder);
    expect(sleptMs).toEqual([]);
    expect(told.at(-1)).toMatch(/ECONNREFUSED.*; using what is in the cache/);
    hub.asked.length = 0;
    expect(await find(id, { isOffline: true })).toBe(folder);
    expect(await find(`${id}@${hub.commit}`)).toBe(folder);
    expect(hub.asked).toEqual([]);
    expect((await failure(find('org/other', { isOffline: true }))).message).toMatch(
      /neither a folder here nor complete in the cache/,
    );
    rmSync(path.join(folder, 'model.safetensors'));
    expect((await failure(find(id, { isOffline: true }))).message).toMatch(/nor complete/);
  });

  it.each([
    '',
    'a',
    'a/b/c',
    '../a',
    'a/..',
    'a/b@',
    'a/b@../x',
    'a/b@x/../../y',
    'a/b:',
    'a/b:../x',
    '-a/b',
    'a--b/c',
    '.a/b',
    'a/b@/x',
  ])('%j is none', (text) => {
    expect(parseModelName(text)).toBeNull();
  });

  it('has a revision and a file', () => {
    expect(parseModelName('a/b')).toEqual({ id: 'a/b', revision: 'main', file: null });
    expect(parseModelName('a/b@refs/pr/1:c/d.gguf')).toEqual({
      id: 'a/b',
      revision: 'refs/pr/1',
      file: 'c/d.gguf',
    });
  });
});

describe('the cache', () => {
  it('lists models, and removes one, one revision, and nothing that is being downloaded', async () => {
    await pull();
    const first = hub.commit;
    hub.commit = 'd1'.repeat(20);
    hub.add(id, { ...files, 'config.json': '{"a": 3}' });
    try {
      await pull();
      const [model] = cachedModels(cacheFolder);
      expect(model?.snapshots.map(({ commit, revisions }) => [commit, revisions])).toEqual([
        [first, []],
        [hub.commit, ['main']],
      ]);
      expect(model?.byteCount).toBe(weights.length + 28); // the weights once, config.json twice
      const held = tryLock(path.join(cacheFolder, '.locks/models--org--small', `${sha256(weights)}.lock`));
      expect(() => removeModel(parseModelName(id)!, 'all', cacheFolder)).toThrow(
        /another process downloads it/,
      );
      held?.release();
      expect(removeModel(parseModelName(`${id}@${first}`)!, 'revision', cacheFolder)).toBe(8);
      expect(findLocalModel(id, cacheFolder)).toMatch(new RegExp(`${hub.commit}$`));
      expect(removeModel(parseModelName(id)!, 'all', cacheFolder)).toBe(weights.length + 20);
      expect(cachedModels(cacheFolder)).toEqual([]);
      expect(() => removeModel(parseModelName(id)!, 'all', cacheFolder)).toThrow(/not in the cache/);
    } finally {
      hub.commit = first;
    }
  });

  it('waits for another process that downloads the same file', async () => {
    const held = tryLock(path.join(cacheFolder, '.locks/models--org--small', `${sha256(weights)}.lock`));
    const pulling = pull();
    while (!told.some((line) => line.includes('another process downloads it'))) await systemClock.yield();
    held?.release();
    await pulling;
  });
});

function listing(rfilename: string, blobId: string, size = 3): string {
  return JSON.stringify({ sha: 'ab'.repeat(20), siblings: [{ rfilename, blobId, size }] });
}

function gitHash(text: string): string {
  return createHash('sha1').update(`blob ${text.length}\0${text}`).digest('hex');
}
