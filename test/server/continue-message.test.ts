/** `continue_final_message` at the two endpoints that take messages. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { say, startTestServer, type TestServer, tokenizer } from './demo-server.js';

let server: TestServer;
beforeAll(async () => {
  server = await startTestServer(say(' more'));
});
afterAll(() => server.close());

const messages = [
  { role: 'user', content: 'Count.' },
  { role: 'assistant', content: 'One, two' },
];

async function promptOf(fields: object): Promise<string> {
  const answer = await server.post('/tokenize', { messages, ...fields });
  expect(answer.status).toBe(200);
  const { tokens } = (await answer.json()) as { tokens: number[] };
  return tokenizer.decode(tokens, { special: 'keep' });
}

describe('continue_final_message', () => {
  it('ends the prompt with the last message', async () => {
    expect(await promptOf({})).toMatch(/One, two<\|im_end\|>\n<\|im_start\|>assistant\n$/);
    expect(await promptOf({ continue_final_message: true })).toMatch(/<\|im_start\|>assistant\nOne, two$/);
    expect(await promptOf({ continue_final_message: true, add_generation_prompt: false })).toMatch(
      /One, two$/,
    );
    expect(await promptOf({ add_generation_prompt: false })).toMatch(/One, two<\|im_end\|>\n$/);
  });

  it('generates from there', async () => {
    const answer = await server.post('/v1/chat/completions', {
      model: 'demo',
      messages,
      continue_final_message: true,
    });
    const { choices } = (await answer.json()) as { choices: { message: { content: string } }[] };
    expect(choices[0]?.message.content).toBe(' more');
    const { promptIds = [] } = server.gateway.submitted.at(-1) ?? {};
    expect(tokenizer.decode(promptIds, { special: 'keep' })).toMatch(/One, two$/);
  });

  it('refuses to do both', async () => {
    const body = { model: 'demo', messages, continue_final_message: true, add_generation_prompt: true };
    for (const route of ['/v1/chat/completions', '/tokenize']) {
      const answer = await server.post(route, body);
      expect(answer.status).toBe(400);
      expect(await answer.text()).toContain('add_generation_prompt');
    }
  });
});
