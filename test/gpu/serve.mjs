/** Starts `twostroke serve` on given workers, asks the demo model over HTTP, alone and 24 at once, and stops it. No test runner, no dependency:
 *
 *      node test/gpu/serve.mjs dist/src/cli/main.js prefill:cuda:0,decode:cuda:0
 *
 *  Two workers on one GPU are two processes: the hand-over goes through CUDA IPC. Exit code 1 when an answer is wrong or the server fails. */
import { spawn } from 'node:child_process';

const [main, workers] = process.argv.slice(2);
const port = 8000 + (process.pid % 1000);
const url = `http://127.0.0.1:${port}`;
const server = spawn(process.execPath, [main, 'serve', '--model', 'demo', '--workers', workers, '--port', String(port)], { stdio: ['ignore', 'inherit', 'inherit'] });
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function ready() {
  for (let i = 0; i < 300; i++) {
    if (server.exitCode !== null) throw new Error(`the server ended with ${server.exitCode}`);
    const health = await fetch(`${url}/health`).catch(() => null);
    if (health?.ok) return;
    await pause(200);
  }
  throw new Error('the server was not ready within a minute');
}

async function ask(content, extra = {}) {
  const body = JSON.stringify({ model: 'demo', messages: [{ role: 'user', content }], temperature: 0, max_tokens: 64, ...extra });
  const answer = await fetch(`${url}/v1/chat/completions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body });
  if (!answer.ok) throw new Error(`status ${answer.status}: ${await answer.text()}`);
  return (await answer.json()).choices[0].message.content;
}

let failed = 1;
try {
  await ready();
  const first = await ask('What is the capital of France?');
  console.log(`one: ${first}`);
  const questions = Array.from({ length: 24 }, (_, i) => ['What is the capital of France?', 'Tell me a story.', 'Count to ten.'][i % 3]);
  const begun = performance.now();
  const answers = await Promise.all(questions.map((question) => ask(question)));
  console.log(`24 at once: ${(performance.now() - begun).toFixed(0)} ms`);
  const isSame = answers.every((answer, i) => i % 3 !== 0 || answer === first);
  if (first.includes('Paris') && isSame) failed = 0;
  else console.log(`wrong: ${JSON.stringify(answers.filter((_, i) => i % 3 === 0))}`);
  console.log((await (await fetch(`${url}/metrics`)).text()).split('\n').filter((line) => /hand_?over|transfer|kv_blocks/i.test(line) && !line.startsWith('#')).slice(0, 12).join('\n'));
} catch (error) {
  console.log(String(error));
}
server.kill('SIGTERM');
await Promise.race([new Promise((resolve) => server.once('exit', resolve)), pause(10000)]);
console.log(failed === 0 ? `serve on ${workers}: passed` : `serve on ${workers}: FAILED`);
process.exit(failed);
