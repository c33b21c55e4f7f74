/** Starts `twostroke serve` on given workers, asks it over HTTP, alone and 24 at once, and stops it. No test
 *  runner, no dependency:
 *
 *      node test/gpu/serve.mjs dist/src/cli/main.js prefill:cuda:0,decode:cuda:0 [model folder] [flags of
 *      serve …]
 *
 *  Two workers on one GPU are two processes: the hand-over goes through CUDA IPC, and their memory must stay
 *  within their share of it. The demo model must know its answers; of a model folder (random weights will do,
 *  no tokenizer is needed) only that it answers. Exit code 1 when an answer is wrong, memory is overdrawn or
 *  the server fails. With --batch-invariant the digest of all answers is the same for all worker lists of one
 *  device kind. */
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';

const [main, workers, model = 'demo', ...moreFlags] = process.argv.slice(2);
const isDemo = model === 'demo';
const memoryShare = 0.9;
const port = 8000 + (process.pid % 1000);
const url = `http://127.0.0.1:${port}`;
const modelFlags = isDemo ? [] : ['--skip-tokenizer-init', '--max-model-len', '8192', '--served-model-name', 'folder'];
const flags = ['serve', '--model', model, '--workers', workers, '--port', String(port), '--gpu-memory-utilization', String(memoryShare)];
const server = spawn(process.execPath, [main, ...flags, ...modelFlags, ...moreFlags], { stdio: ['ignore', 'inherit', 'inherit'] });
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function ready() {
  for (let i = 0; i < 450; i++) {
    if (server.exitCode !== null) throw new Error(`the server ended with ${server.exitCode}`);
    const health = await fetch(`${url}/health`).catch(() => null);
    if (health?.ok) return;
    await pause(200);
  }
  throw new Error('the server was not ready within 90 s');
}

async function post(path, body) {
  const headers = { 'content-type': 'application/json' };
  const answer = await fetch(`${url}${path}`, { method: 'POST', headers, body: JSON.stringify({ temperature: 0, max_tokens: 64, ...body }) });
  if (!answer.ok) throw new Error(`status ${answer.status}: ${await answer.text()}`);
  return (await answer.json()).choices[0];
}

async function ask(question, extra = {}) {
  if (isDemo) return (await post('/v1/chat/completions', { model, messages: [{ role: 'user', content: question }], ...extra })).message.content;
  const prompt = Array.from({ length: 200 + question.length }, (_, i) => (i * 7919) % 30_000);
  return JSON.stringify((await post('/v1/completions', { model: 'folder', prompt, ignore_eos: true, return_token_ids: true })));
}

/** False when more is used than all workers together may. */
async function showMemory() {
  const { workers: list } = await (await fetch(`${url}/workers`)).json();
  for (const { id, device, ready: { blockCount, blockBytes, weightBytes, loadMs } } of list)
    console.log(`${id} on ${device}: ready after ${(loadMs / 1000).toFixed(1)} s, ${gib(weightBytes)} of weights, ${gib(blockCount * blockBytes)} of KV`);
  const query = spawnSync('nvidia-smi', ['--query-gpu=memory.used,memory.total', '--format=csv,noheader,nounits'], { encoding: 'utf8' });
  if (query.status !== 0) {
    console.log('nvidia-smi does not answer: memory in use is not known');
    return !workers.includes('cuda');
  }
  const isWithin = (query.stdout ?? '').trim().split('\n').map((line) => {
    const [used, total] = line.split(',').map(Number);
    console.log(`GPU: ${used} of ${total} MiB in use`);
    return !(used > (memoryShare + 0.01) * total);
  });
  return isWithin.every(Boolean);
}

const gib = (bytes) => `${(bytes / 2 ** 30).toFixed(2)} GiB`;

let failed = 1;
try {
  await ready();
  const first = await ask('What is the capital of France?');
  console.log(`one: ${first.slice(0, 200)}`);
  const questions = Array.from({ length: 24 }, (_, i) => ['What is the capital of France?', 'Tell me a story.', 'Count to ten.'][i % 3]);
  const begun = performance.now();
  const answers = await Promise.all(questions.map((question) => ask(question)));
  console.log(`24 at once: ${(performance.now() - begun).toFixed(0)} ms`);
  const drawn = await Promise.all(questions.map((question, seed) => ask(question, { temperature: 0.8, seed })));
  console.log(`digest of all answers: ${createHash('sha256').update(JSON.stringify([answers, drawn])).digest('hex').slice(0, 16)}`);
  const isSame = answers.every((answer, i) => i % 3 !== 0 || answer === first);
  const isWithin = await showMemory();
  if ((!isDemo || (first.includes('Paris') && isSame)) && isWithin) failed = 0;
  else console.log(`wrong: ${JSON.stringify(answers.filter((_, i) => i % 3 === 0)).slice(0, 2000)}`);
  console.log((await (await fetch(`${url}/metrics`)).text()).split('\n').filter((line) => /hand_?over|transfer|kv_blocks/i.test(line) && !line.startsWith('#')).slice(0, 12).join('\n'));
} catch (error) {
  console.log(String(error));
}
server.kill('SIGTERM');
await Promise.race([new Promise((resolve) => server.once('exit', resolve)), pause(10000)]);
console.log(failed === 0 ? `serve on ${workers}: passed` : `serve on ${workers}: FAILED`);
process.exit(failed);
