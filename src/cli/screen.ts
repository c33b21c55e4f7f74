/** What `serve` shows when it is ready: one screen with the model, the workers, the URL and a line to paste.
 *  Pure text. */
import type { WorkerStatus } from '../control/worker-status.js';
import type { ModelConfig } from '../model/config.js';
import { parameterCount } from '../model/parameter-count.js';
import { grouped, shortBytes, shortCount, table } from './quantities.js';

interface ScreenFacts {
  readonly version: string;
  readonly modelName: string;
  readonly config: ModelConfig;
  readonly maxModelTokenCount: number;
  readonly strategy: string;
  readonly workers: readonly WorkerStatus[];
  readonly url: string;
  readonly needsApiKey: boolean;
  readonly hasChat: boolean;
  /** A question already asked through the server, with its answer; null: none was. */
  readonly firstAnswer: { readonly question: string; readonly answer: string; readonly route: string } | null;
}

export function screenText(facts: ScreenFacts): string {
  const { config, workers, url } = facts;
  const format = workers.find((worker) => worker.ready !== null)?.ready?.weightFormat ?? config.dtype;
  const model = `${facts.modelName}  (${config.architecture}, ${shortCount(parameterCount(config))} parameters, ${format}, context ${grouped(facts.maxModelTokenCount)} tokens)`;
  const workerLines = table(workers.map(workerCells));
  const label = (name: string) => `  ${name.padEnd(9)}`;
  const lines = [
    `twostroke ${facts.version}`,
    '',
    label('model') + model,
    ...workerLines.map((line, index) => label(index === 0 ? 'workers' : '') + line),
    `${label('strategy')}${facts.strategy}`,
    `${label('serving')}${url}`,
  ];
  if (facts.firstAnswer !== null) {
    const { question, answer, route } = facts.firstAnswer;
    lines.push(`${label('asked')}${question}`, `${label('answered')}${answer}  (${route})`);
  }
  return `${[...lines, '', `  ${curlLine(facts)}`].join('\n')}\n`;
}

function workerCells(worker: WorkerStatus): string[] {
  const { ready } = worker;
  const kv =
    ready === null
      ? ''
      : `KV ${grouped(ready.blockCount * ready.blockTokenCount)} tokens, ${shortBytes(ready.blockCount * ready.blockBytes)}`;
  const threads =
    worker.threadCount > 0 ? `${worker.threadCount} ${worker.threadCount === 1 ? 'thread' : 'threads'}` : '';
  return [
    worker.id,
    worker.effectiveRole,
    `${worker.device} ${ready?.device.name ?? ''}`.trim(),
    threads,
    kv,
  ];
}

/** Works in any POSIX shell as it stands. */
function curlLine({ url, modelName, needsApiKey, hasChat }: ScreenFacts): string {
  const key = needsApiKey ? ` -H "authorization: Bearer $TWOSTROKE_API_KEY"` : '';
  const body = hasChat
    ? {
        model: modelName,
        messages: [{ role: 'user', content: 'What is the capital of France?' }],
        stream: true,
      }
    : { model: modelName, prompt: [1, 2, 3], stream: true };
  const path = hasChat ? '/v1/chat/completions' : '/v1/completions';
  return `curl -N ${url}${path}${key} -H 'content-type: application/json' -d '${JSON.stringify(body)}'`;
}
