/** From options to something that runs: asks the server what it is, reads data sets, makes workload and
 *  client. Used by serve.ts and sweep.ts. */
import { readFileSync } from 'node:fs';
import type { Clock } from '../base/clock.js';
import { InvalidRequestError, messageOf } from '../base/errors.js';
import { HttpCompletionClient } from './http-client.js';
import { readServerFacts, type ServerAddress, type ServerFacts, textOf, tokenIdsOf } from './server-facts.js';
import { parseShareGpt } from './sharegpt.js';
import { parseTrace } from './trace.js';
import {
  type Conversation,
  createWorkload,
  type Sample,
  type Workload,
  type WorkloadName,
  type WorkloadOptions,
} from './workload.js';

export interface WorkloadSettings {
  readonly name: WorkloadName;
  readonly path: string | null;
  readonly inputTokenCount: number;
  readonly outputTokenCount: number;
  readonly rangeRatio: number;
  readonly outputShape: 'range' | 'lognormal' | 'auto';
  readonly lengthScale: number;
  readonly requestCountMax: number;
}

type WorkloadSeeds = Pick<WorkloadOptions, 'seed' | 'contentSeed'>;

export interface ClientSettings {
  readonly api: 'completions' | 'chat';
  readonly model: string | null;
  readonly apiKey: string | null;
  readonly temperature: number | null;
  readonly ignoreEos: boolean;
  readonly outputLength: 'forced' | 'limit';
}

export function openClient(
  baseUrl: string,
  facts: ServerFacts,
  settings: ClientSettings,
  clock: Clock,
): HttpCompletionClient {
  return new HttpCompletionClient({ ...settings, baseUrl, model: facts.model }, clock);
}

export async function openServer(baseUrl: string, settings: ClientSettings): Promise<ServerFacts> {
  return readServerFacts({ baseUrl, apiKey: settings.apiKey }, settings.model);
}

/** For the chat endpoint random ids become texts; the server then counts the tokens. */
export async function openWorkload(
  settings: WorkloadSettings,
  seeds: WorkloadSeeds,
  address: ServerAddress,
  facts: ServerFacts,
  client: ClientSettings,
): Promise<Workload> {
  const workload = createWorkload(await workloadOptions(settings, seeds, address, facts));
  return client.api === 'chat' ? asTexts(workload, settings.requestCountMax, address, facts) : workload;
}

async function workloadOptions(
  settings: WorkloadSettings,
  seeds: WorkloadSeeds,
  address: ServerAddress,
  facts: ServerFacts,
): Promise<WorkloadOptions> {
  const { name, path, outputShape } = settings;
  const options = {
    ...settings,
    ...seeds,
    tokenIdPool: facts.tokenIdPool,
    outputShape:
      outputShape === 'auto'
        ? name === 'random'
          ? ('range' as const)
          : ('lognormal' as const)
        : outputShape,
  };
  if (path === null) return options;
  if (name === 'trace') return { ...options, trace: parseTrace(readText(path), path) };
  if (name === 'sharegpt')
    return { ...options, conversations: await conversations(settings, path, address, facts) };
  return options;
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new InvalidRequestError(`--dataset-path: ${messageOf(error)}`);
  }
}

/** Counted by the server's tokenizer; where there is none, four characters are a token. */
async function conversations(
  { requestCountMax }: WorkloadSettings,
  path: string,
  address: ServerAddress,
  facts: ServerFacts,
): Promise<readonly Conversation[]> {
  const { pairs } = parseShareGpt(readText(path), path);
  const count = async (text: string) =>
    facts.tokenizer === 'none'
      ? Math.ceil(text.length / 4)
      : ((await tokenIdsOf(address, facts.model, text))?.length ?? 1);
  const counted: Conversation[] = [];
  for (const { question, answer } of pairs.slice(0, requestCountMax)) {
    counted.push({
      text: question,
      promptTokenCount: await count(question),
      outputTokenCount: Math.max(1, await count(answer)),
    });
  }
  return counted;
}

async function asTexts(
  workload: Workload,
  requestCountMax: number,
  address: ServerAddress,
  facts: ServerFacts,
): Promise<Workload> {
  const sampleCount = Math.min(workload.sampleCount, requestCountMax);
  if (!Number.isFinite(sampleCount))
    throw new InvalidRequestError('the chat endpoint needs --num-prompts: prompts are made beforehand');
  if (facts.tokenizer === 'none')
    throw new InvalidRequestError('the chat endpoint needs text, and this server has no /detokenize');
  const samples: Sample[] = [];
  for (let index = 0; index < sampleCount; index++) {
    const sample = workload.sample(index);
    const { prompt } = sample;
    const text = prompt.kind === 'text' ? prompt.text : await textOf(address, facts.model, prompt.ids);
    samples.push({ ...sample, prompt: { kind: 'text' as const, text } });
  }
  return {
    sampleCount,
    outputTokenCountMax: workload.outputTokenCountMax,
    sample: (index) => samples[index] ?? workload.sample(index),
  };
}
