/** The benchmark field `forced_output_tokens`: refused unless the server allows it, carried to the engine as
 *  a field of its own. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { say, startTestServer, type TestServer } from './demo-server.js';

const messages = [{ role: 'user', content: 'Hi' }];
const forms = [
  ['/v1/chat/completions', { messages }],
  ['/v1/completions', { prompt: 'Hi' }],
] as const;

interface ErrorBody {
  readonly error: { readonly message: string; readonly param: string };
}

describe.each(forms)('%s', (route, fields) => {
  let allowing: TestServer;
  let refusing: TestServer;
  beforeAll(async () => {
    allowing = await startTestServer(say('hello'), { allowForcedLength: true });
    refusing = await startTestServer(say('hello'));
  });
  afterAll(async () => {
    await allowing.close();
    await refusing.close();
  });

  it('refuses the field without --allow-forced-length, and says so', async () => {
    const response = await refusing.post(route, { ...fields, max_tokens: 20, forced_output_tokens: 5 });
    expect(response.status).toBe(400);
    const { error } = (await response.json()) as ErrorBody;
    expect(error.param).toBe('forced_output_tokens');
    expect(error.message).toMatch(/--allow-forced-length/);
    expect(refusing.gateway.submitted).toHaveLength(0);
    expect(
      (await refusing.post(route, { ...fields, max_tokens: 20, forced_output_tokens: null })).status,
    ).toBe(200);
  });

  it('hands it on beside max_tokens, which stays as it was', async () => {
    expect((await allowing.post(route, { ...fields, max_tokens: 20, forced_output_tokens: 5 })).status).toBe(
      200,
    );
    const [input] = allowing.gateway.submitted.slice(-1);
    expect(input?.sampling.forcedTokenCount).toBe(5);
    expect(input?.sampling.maxTokenCount).toBe(20);
  });

  it('is absent where no one asked for it', async () => {
    expect((await allowing.post(route, { ...fields, max_tokens: 20 })).status).toBe(200);
    expect(allowing.gateway.submitted.at(-1)?.sampling).not.toHaveProperty('forcedTokenCount');
  });

  it.each([
    [{ forced_output_tokens: 21 }, /more than the 20/],
    [{ forced_output_tokens: 0 }, />=1/],
    [{ forced_output_tokens: 5, stop: ['x'] }, /cannot be combined with stop/],
    [{ forced_output_tokens: 5, stop_token_ids: [7] }, /cannot be combined with stop_token_ids/],
    [{ forced_output_tokens: 5, min_tokens: 3 }, /cannot be combined with min_tokens/],
  ])('400 for %j', async (extra, message) => {
    const response = await allowing.post(route, { ...fields, max_tokens: 20, ...extra });
    expect(response.status).toBe(400);
    expect(((await response.json()) as ErrorBody).error.message).toMatch(message);
  });
});
