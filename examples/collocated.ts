/** Five prompts at once through one engine in this process, prefill and decode on the same device.
 *
 *    npm run example:collocated -- [--model demo|PATH|HF_ID] [--max-new-tokens 128] [--threads N] */
import { parseArgs } from 'node:util';
import { loadModel } from 'twostroke';

const questions = [
  'What is the capital of France?',
  'What is 23 + 45?',
  'Who are you?',
  'Count from 1 to 20.',
  'Tell me a story.',
];
const { values } = parseArgs({
  options: { model: { type: 'string' }, 'max-new-tokens': { type: 'string' }, threads: { type: 'string' } },
});

await using model = await loadModel(
  values.model ?? 'demo',
  values.threads === undefined ? {} : { threads: Number(values.threads) },
);
const sampling = { temperature: 0, maxTokens: Number(values['max-new-tokens'] ?? 128) };
const answers = questions.map((content) => model.complete([{ role: 'user', content }], sampling));
for (const [i, { text, usage }] of (await Promise.all(answers)).entries()) {
  console.log(
    `> ${questions[i]}\n${text}\n  ${usage.promptTokens} prompt tokens, ${usage.completionTokens} generated\n`,
  );
}
