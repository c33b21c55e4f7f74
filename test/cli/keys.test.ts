/** End to end: two API keys and an admin key on one server; the commands that ask it. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Running, type Serving, serve, stop, twostroke } from './twostroke.js';

let serving: Serving;
beforeAll(async () => {
  const keys = ['--api-key', 'key-a', '--api-key', 'key-b', '--admin-key', 'root'];
  serving = await serve('--model', 'demo', '--workers', 'any:cpu', '--strategy', 'collocated', ...keys);
});
afterAll(async () => {
  expect((await stop(serving)).exitCode).toBe(0);
});

const prompt = Array.from({ length: 300 }, (_, index) => 300 + index);

async function cachedCount(key: string, cacheSalt?: string, { url } = serving): Promise<number> {
  const response = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${key}` },
    body: JSON.stringify({ prompt, max_tokens: 1, cache_salt: cacheSalt }),
  });
  const { usage } = (await response.json()) as {
    usage: { prompt_tokens_details: { cached_tokens: number } };
  };
  return usage.prompt_tokens_details.cached_tokens;
}

it('a key finds its own prompts in the cache, and nobody else does', async () => {
  expect(await cachedCount('key-a')).toBe(0);
  expect(await cachedCount('key-a')).toBeGreaterThan(200);
  expect(await cachedCount('key-b')).toBe(0);
  expect(await cachedCount('root')).toBe(0);
  expect(await cachedCount('key-b')).toBeGreaterThan(200);
  expect(await cachedCount('key-a', 'mine')).toBe(0);
  expect(await cachedCount('key-a', 'mine')).toBeGreaterThan(200);
});

it("with --share-prefix-cache, keys find each other's", async () => {
  const args = [
    '--model',
    'demo',
    '--workers',
    'any:cpu',
    '--strategy',
    'collocated',
    '--api-key',
    'key-a',
    '--api-key',
    'key-b',
  ];
  const shared = await serve(...args, '--share-prefix-cache');
  try {
    expect(await cachedCount('key-a', undefined, shared)).toBe(0);
    expect(await cachedCount('key-b', undefined, shared)).toBeGreaterThan(200);
    expect(await cachedCount('key-b', 'mine', shared)).toBe(0);
  } finally {
    await stop(shared);
  }
});

describe('commands', () => {
  it('route shows the requests of the key, and all to an admin', async () => {
    const countOf = async (...args: string[]) => {
      const { stdout } = await twostroke('route', '--url', serving.url, '--json', ...args);
      return (JSON.parse(stdout) as { requests: object[] }).requests.length;
    };
    await cachedCount('key-a');
    const [ofA, ofB, all] = [
      await countOf('--api-key', 'key-a', '--count', '1000'),
      await countOf('--api-key', 'key-b', '--count', '1000'),
      await countOf('--admin-key', 'root', '--count', '1000'),
    ];
    expect(ofA).toBeGreaterThan(ofB);
    expect(ofB).toBe(2);
    expect(all).toBeGreaterThan(ofA + ofB);
    expect((await twostroke('route', '--url', serving.url, '--api-key', 'key-b')).stdout).toMatch(
      /collocated/,
    );
    expect((await twostroke('route', '--url', serving.url, '--api-key', 'key-b', '--explain')).exitCode).toBe(
      0,
    );
  });

  it('workers takes the admin key, also from the environment, and says what is missing', async () => {
    const env = { TWOSTROKE_ADMIN_KEY: 'root', TWOSTROKE_API_KEY: 'key-a' };
    expect((await new Running(['workers', '--url', serving.url], { env }).finished).stdout).toMatch(
      /cpu +ready/,
    );
    const refused = await twostroke('workers', '--url', serving.url, '--api-key', 'key-a');
    expect(refused.exitCode).toBe(1);
    expect(refused.stderr).toMatch(/admin key/);
    expect((await twostroke('workers', '--url', serving.url)).stderr).toMatch(/No API key was given/);
  });
});
