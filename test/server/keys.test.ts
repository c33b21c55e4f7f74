/** What one API key learns of another's requests: nothing. Who may look at the server. */
import { afterEach, describe, expect, it } from 'vitest';
import type { RequestRecord } from '../../src/control/request-record.js';
import type { HttpServerOptions } from '../../src/server/http-server.js';
import { answerOf } from './answers.js';
import { say, startTestServer, type TestServer } from './demo-server.js';

const servers: TestServer[] = [];
afterEach(() => Promise.all(servers.splice(0).map((server) => server.close())));

async function startWith(http: Partial<HttpServerOptions>): Promise<TestServer> {
  const server = await startTestServer(say('hello'), { http });
  servers.push(server);
  return server;
}

const bearer = (key: string) => ({ authorization: `Bearer ${key}` });

/** The salt that the engine is given. */
async function saltOf(
  server: TestServer,
  key: string | null,
  fields: object = {},
): Promise<string | undefined> {
  const headers = key === null ? {} : bearer(key);
  const paths = ['/v1/completions', '/v1/chat/completions'] as const;
  const salts = new Set<string | undefined>();
  for (const path of paths) {
    const body =
      path === '/v1/completions' ? { prompt: 'a' } : { messages: [{ role: 'user', content: 'a' }] };
    expect((await server.post(path, { ...body, ...fields }, headers)).status).toBe(200);
    salts.add(server.gateway.submitted.at(-1)?.cacheSalt);
  }
  expect(salts.size).toBe(1);
  return [...salts][0];
}

describe('the prefix cache', () => {
  it('is one for each key, and within it one for each salt of its own', async () => {
    const server = await startWith({ apiKeys: ['a', 'b'], adminKeys: ['root'] });
    const salts: (string | undefined)[] = [];
    for (const key of ['a', 'b', 'root'])
      for (const salt of [null, 'x', 'y']) salts.push(await saltOf(server, key, { cache_salt: salt }));
    expect(new Set(salts).size).toBe(9);
    expect(salts).not.toContain(undefined);
    expect(await saltOf(server, 'a')).toBe(salts[0]);
    // no key in it, nor a salt of any length
    for (const salt of salts) expect(salt).toMatch(/^[0-9a-f]{64}$/);
    // Nor does UTF-8 make one of two texts that it has no bytes for.
    const halves = [
      await saltOf(server, 'a', { cache_salt: '\ud800' }),
      await saltOf(server, 'a', { cache_salt: '\ud801' }),
    ];
    expect(halves[0]).not.toBe(halves[1]);
    expect(await saltOf(server, 'a', { cache_salt: 'x'.repeat(500_000) })).toMatch(/^[0-9a-f]{64}$/);
    // A salt that looks like another key's gets nobody into that key's cache.
    expect(salts).not.toContain(await saltOf(server, 'a', { cache_salt: salts[3] }));
  });

  it('of another server is another one, with the same key', async () => {
    const [one, other] = [await startWith({ apiKeys: ['a'] }), await startWith({ apiKeys: ['a'] })];
    expect(await saltOf(one, 'a')).not.toBe(await saltOf(other, 'a'));
  });

  it('is shared when the operator says so, and without keys', async () => {
    const shared = await startWith({ apiKeys: ['a', 'b'], sharePrefixCache: true });
    const open = await startWith({});
    expect(await saltOf(open, null)).toBeUndefined();
    const salt = await saltOf(open, null, { cache_salt: 'x' });
    for (const key of ['a', 'b']) {
      expect(await saltOf(shared, key)).toBeUndefined();
      expect(await saltOf(shared, key, { cache_salt: 'x' })).toBe(salt);
    }
    expect(await saltOf(open, null, { cache_salt: 'y' })).not.toBe(salt);
  });
});

/** Tells the server that everything submitted has ended, and one measurement of its own. */
function endAll({ gateway }: TestServer): void {
  for (const { id, owner } of gateway.submitted)
    tell(gateway, { id, ...(owner === undefined ? {} : { owner }) });
  tell(gateway, { id: 'measurement' as RequestRecord['id'] });
}
function tell(gateway: TestServer['gateway'], facts: Pick<RequestRecord, 'id' | 'owner'>): void {
  const record = {
    ...facts,
    routes: [],
    outcome: 'finished',
    handOverFailures: [],
  } as unknown as RequestRecord;
  for (const listen of gateway.recordListeners) listen(record);
}

interface Routes {
  readonly requests: readonly { readonly id: string; readonly owner?: string }[];
  readonly routing: object | null;
}
async function routesOf(server: TestServer, key: string | null, query = ''): Promise<Routes> {
  const response = await fetch(`${server.url}/routes${query}`, { headers: key === null ? {} : bearer(key) });
  expect(response.status).toBe(200);
  return (await response.json()) as Routes;
}
const idsOf = ({ requests }: Routes) => requests.map(({ id }) => id);

async function ask(server: TestServer, key: string): Promise<string> {
  await server.post('/v1/completions', { prompt: 'secret' }, bearer(key));
  return server.gateway.submitted.at(-1)?.id ?? '';
}

describe('/routes', () => {
  it('shows a key its own requests, and an admin key all', async () => {
    for (const sharePrefixCache of [false, true]) {
      const server = await startWith({ apiKeys: ['a', 'b'], adminKeys: ['root'], sharePrefixCache });
      const [ofA, ofB, ofA2] = [await ask(server, 'a'), await ask(server, 'b'), await ask(server, 'a')];
      endAll(server);
      expect(idsOf(await routesOf(server, 'a'))).toEqual([ofA2, ofA]);
      expect(idsOf(await routesOf(server, 'a', '?count=1'))).toEqual([ofA2]);
      expect(idsOf(await routesOf(server, 'b'))).toEqual([ofB]);
      expect(idsOf(await routesOf(server, 'b', `?id=${ofA}`))).toEqual([]);
      expect(idsOf(await routesOf(server, 'b', `?id=${ofB}`))).toEqual([ofB]);
      const all = await routesOf(server, 'root');
      expect(idsOf(all)).toEqual(['measurement', ofA2, ofB, ofA]);
      expect(all.requests.every(({ owner }) => owner === undefined)).toBe(true);
      expect([all.routing, (await routesOf(server, 'a')).routing]).toEqual([expect.anything(), null]);
    }
  });

  it('without keys shows all to all', async () => {
    const server = await startWith({});
    const id = await ask(server, 'whatever');
    endAll(server);
    expect(idsOf(await routesOf(server, null))).toEqual(['measurement', id]);
  });
});

describe('looking at the server', () => {
  const status = async (server: TestServer, path: string, key?: string) =>
    (await fetch(server.url + path, { headers: key === undefined ? {} : bearer(key) })).status;
  const closed = ['/metrics', '/workers', '/routes', '/v1/models'];
  const open = ['/', '/health', '/ping', '/version'];

  it('needs a key where keys are set', async () => {
    const server = await startWith({ apiKeys: ['a'] });
    for (const path of closed)
      expect([await status(server, path), await status(server, path, 'a')]).toEqual([401, 200]);
    for (const path of open) expect(await status(server, path)).toBe(200);
    expect((await routesOf(server, 'a')).routing).not.toBeNull();
  });

  it('needs an admin key for totals where one is set', async () => {
    const server = await startWith({ apiKeys: ['a'], adminKeys: ['root', 'root2'] });
    for (const path of ['/metrics', '/workers']) {
      const response = await fetch(server.url + path, { headers: bearer('a') });
      expect(response.status).toBe(403);
      expect((await answerOf(response)).error).toMatchObject({
        code: 'forbidden',
        message: expect.stringMatching(/admin key/),
      });
      for (const key of ['root', 'root2']) expect(await status(server, path, key)).toBe(200);
      expect(await status(server, path)).toBe(401);
    }
    for (const path of ['/v1/models', '/routes']) expect(await status(server, path, 'a')).toBe(200);
  });

  it('an admin key alone closes the API too, and opens it', async () => {
    const server = await startWith({ adminKeys: ['root'] });
    for (const path of closed)
      expect([await status(server, path), await status(server, path, 'root')]).toEqual([401, 200]);
    expect((await server.post('/v1/completions', { prompt: 'a' })).status).toBe(401);
    expect((await server.post('/v1/completions', { prompt: 'a' }, bearer('root'))).status).toBe(200);
  });
});
