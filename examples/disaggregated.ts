/** A server in this process with one worker for prefill and one for decode, and a question to it.
 *
 *    npm run example:disaggregated */
import type { ChatCompletion, ChatCompletionRequest } from 'twostroke/client';
import { startServer } from 'twostroke/server';

await using server = await startServer({ model: 'demo', workers: 'prefill:cpu,decode:cpu', port: 0 });
const question: ChatCompletionRequest = {
  messages: [{ role: 'user', content: 'What is the capital of France?' }],
  temperature: 0,
};
const headers = { 'content-type': 'application/json' };
const url = `${server.url}/v1/chat/completions`;
const response = await fetch(url, { method: 'POST', headers, body: JSON.stringify(question) });
const answer = (await response.json()) as ChatCompletion;
console.log(`${answer.choices[0]?.message.content}  (${response.headers.get('x-twostroke-route')})`);
