/** Five prompts through one engine, prefill and decode on the same device: the smallest whole program around Engine.generate().
 *
 *    npm run example:collocated -- [--model demo|PATH|HF_ID] [--max-new-tokens 128] [--threads N] */
import { parseArgs } from 'node:util';
import { systemClock } from '../src/base/clock.js';
import { messageOf } from '../src/base/errors.js';
import { requestId } from '../src/base/ids.js';
import { openDevice } from '../src/device/native.js';
import { Engine, type GenerationRequest, type GenerationResult } from '../src/engine/engine.js';
import { greedy } from '../src/engine/sampling-params.js';
import { type ChatTemplate, loadChatTemplate } from '../src/model/chat-template.js';
import { loadModel } from '../src/model/load.js';
import { resolveModelFolder } from '../src/model/model-folder.js';
import { loadTokenizer, type Tokenizer } from '../src/model/tokenizer.js';

const questions = [
  'What is the capital of France?',
  'What is 23 + 45?',
  'Who are you?',
  'Count from 1 to 20.',
  'Tell me a short story.',
];
const limits = { rowCountMax: 512, logitRowCountMax: 64 };
const maxModelTokenCount = 2048;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      model: { type: 'string', default: 'demo' },
      'max-new-tokens': { type: 'string', default: '128' },
      threads: { type: 'string', default: '0' },
    },
  });
  const folder = resolveModelFolder(values.model);
  const tokenizer = loadTokenizer(folder);
  const chat = loadChatTemplate(folder);
  const device = openDevice({ kind: 'cpu', index: 0, threadCount: Number(values.threads) });
  const model = await loadModel(folder, {
    ...{ device, limits, maxModelTokenCount },
    ...{ loadFormat: 'auto', dtype: 'auto', quantize: 'none' },
  });
  const engine = new Engine({
    ...{ device, model, maxModelTokenCount, clock: systemClock },
    kv: { blockTokenCount: 16, blockCount: 512, dtype: 'bf16' },
    ...{ tokenBudget: limits.rowCountMax, prefillChunkTokenCount: 256, sequenceCountMax: 16 },
    ...{ prefixCaching: 'on', depth: 2 },
  });
  const maxTokenCount = Number(values['max-new-tokens']);
  const requests = questions.map((question, i) => {
    const promptIds = encode(question, tokenizer, chat);
    return {
      id: requestId(`question-${i}`),
      promptIds,
      sampling: { ...greedy, maxTokenCount, endTokenIds: model.config.endTokenIds },
    };
  });
  const results = await engine.generate(requests);
  results.forEach((result, i) => {
    print(questions[i] ?? '', requests[i], result, tokenizer);
  });
  await engine.close();
  model.close();
  device.close();
}

function encode(question: string, tokenizer: Tokenizer, chat: ChatTemplate): readonly number[] {
  const text = chat.render([{ role: 'user', content: question }], { addGenerationPrompt: true });
  return tokenizer.encode(text, { addSpecialTokens: 'none' });
}

function print(question: string, request: GenerationRequest | undefined, result: GenerationResult, tokenizer: Tokenizer): void {
  const ids = result.choices[0]?.tokens.map(({ tokenId }) => tokenId) ?? [];
  const tokensPerSecond = ids.length / (result.e2elMs / 1000);
  process.stdout.write(`> ${question}\n${tokenizer.decode(ids, { special: 'skip' })}\n`);
  process.stdout.write(
    `  ${request?.promptIds.length ?? 0} prompt tokens, ${ids.length} generated, first after ${result.ttftMs.toFixed(1)} ms, ` +
      `${tokensPerSecond.toFixed(0)} tokens/s\n\n`,
  );
}

main().catch((error: unknown) => {
  process.stderr.write(`${messageOf(error)}\n`);
  process.exitCode = 1;
});
