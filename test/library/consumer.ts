/** What programs write against the package, in every form its types offer. Compiled by package.test.ts as a
 *  package that has installed it. */
import {
  type ChatMessage,
  type CompletedText,
  type GenerateOptions,
  loadModel,
  type ModelOptions,
  type TextChunk,
  type TextModel,
  TwostrokeError,
} from 'twostroke';
import type {
  ChatCompletion,
  ChatCompletionChunk,
  ChatCompletionRequest,
  CompletionRequest,
  ErrorBody,
  TokenizeRequest,
} from 'twostroke/client';
import { type Server, type ServerOptions, startServer } from 'twostroke/server';

const options: ModelOptions = { device: 'cpu', dtype: 'f32', maxModelLen: 512 };
const messages: readonly ChatMessage[] = [{ role: 'user', content: 'Hi' }];
const sampling: GenerateOptions = {
  maxTokens: 8,
  temperature: 0,
  stop: ['\n'],
  signal: AbortSignal.timeout(1000),
};

export async function local(): Promise<string> {
  await using model: TextModel = await loadModel('demo', options);
  let text = '';
  for await (const chunk of model.generate(messages, sampling)) text += textOf(chunk);
  const whole: CompletedText = await model.complete([1, 2, 3]);
  const reason: 'stop' | 'length' = whole.finishReason;
  return `${text}${whole.text}${reason}${whole.usage.completionTokens}`;
}

function textOf({ text, finishReason }: TextChunk): string {
  return finishReason === null ? text : `${text}.`;
}

export async function served(): Promise<string | null> {
  const plan: ServerOptions = {
    model: 'demo',
    workers: 'prefill:cpu,decode:cpu',
    port: 0,
    strategy: 'disaggregated',
  };
  await using server: Server = await startServer(plan);
  const request: ChatCompletionRequest = {
    messages: [{ role: 'user', content: 'Hi' }],
    top_k: 5,
    return_token_ids: true,
  };
  const response = await fetch(`${server.url}/v1/chat/completions`, {
    method: 'POST',
    body: JSON.stringify(request),
  });
  const answer = (await response.json()) as ChatCompletion | ErrorBody;
  return 'error' in answer ? answer.error.message : (answer.choices[0]?.message.content ?? null);
}

export const deltaOf = (chunk: ChatCompletionChunk): string => chunk.choices[0]?.delta.content ?? '';
export const prompt: CompletionRequest = { prompt: [1, 2], max_tokens: 1, min_p: 0.1, cache_salt: 'mine' };
export const texts: TokenizeRequest[] = [{ prompt: 'Hi' }, { messages: [{ role: 'user', content: 'Hi' }] }];
export const isTransient = (error: unknown): boolean =>
  error instanceof TwostrokeError && error.code === 'overloaded';

// @ts-expect-error: no such option
void loadModel('demo', { gpu: 0 });
// @ts-expect-error: no such strategy
void startServer({ model: 'demo', strategy: 'magic' });
// @ts-expect-error: a message needs a known role
export const wrong: ChatCompletionRequest = { messages: [{ role: 'king', content: 'Hi' }] };
