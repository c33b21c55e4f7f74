/** Real gateways over real worker processes with the demo model, for tests. Needs the built JavaScript and
 *  native library (npm test builds). */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { systemClock } from '../../src/base/clock.js';
import { requestId, type TokenId } from '../../src/base/ids.js';
import { silentLogger } from '../../src/base/log.js';
import { Gateway } from '../../src/control/gateway.js';
import type { RequestInput } from '../../src/control/gateway-api.js';
import type { GatewayLimits, GatewayOptions } from '../../src/control/gateway-options.js';
import type { RequestRecord } from '../../src/control/request-record.js';
import { parseWorkerSpecs } from '../../src/control/worker-spec.js';
import { greedy, type SamplingParams } from '../../src/engine/sampling-params.js';
import type { FinishReason, TokenLogprob } from '../../src/engine/token-event.js';
import type { WorkerSettings } from '../../src/worker/messages.js';

const root = path.resolve(import.meta.dirname, '../..');
export const workerEntry = path.join(root, 'dist/src/cli/worker.js');
export const demoFolder = path.join(root, 'models/demo-6m');
export const isFull = process.env.TWOSTROKE_TEST === 'full';

export interface GoldenCase {
  readonly name: string;
  readonly prompt_ids: readonly TokenId[];
  readonly continuation_ids: readonly TokenId[];
  readonly max_new_tokens: number;
}

export const goldens = JSON.parse(readFileSync(path.join(demoFolder, 'golden.json'), 'utf8')) as {
  readonly eos_token_ids: readonly TokenId[];
  readonly cases: readonly GoldenCase[];
};

export const settings: WorkerSettings = {
  modelFolder: demoFolder,
  loadFormat: 'auto',
  dtype: 'auto',
  kvDtype: 'f32',
  quantize: 'none',
  blockTokenCount: 16,
  blockCount: 1024,
  gpuMemoryShare: 0.9,
  tokenBudget: 512,
  prefillChunkTokenCount: 512,
  sequenceCountMax: 32,
  maxModelTokenCount: 4096,
  prefixCaching: 'on',
  depth: 2,
};

export interface RealOptions extends Partial<Omit<GatewayOptions, 'workers' | 'settings' | 'limits'>> {
  readonly settings?: Partial<WorkerSettings>;
  readonly limits?: Partial<GatewayLimits>;
}

/** A gateway that has loaded, and its records. */
export async function startGateway(
  workers: string,
  options: RealOptions = {},
): Promise<{ gateway: Gateway; records: RequestRecord[] }> {
  if (!existsSync(workerEntry)) throw new Error(`${workerEntry} is missing: run "npm run build" first`);
  const gateway = await Gateway.start({
    strategy: 'adaptive',
    workerEntry,
    logger: silentLogger,
    clock: systemClock,
    ...options,
    workers: parseWorkerSpecs(workers),
    settings: { ...settings, ...options.settings },
  });
  const records: RequestRecord[] = [];
  gateway.onRequestDone((record) => records.push(record));
  try {
    await gateway.ready;
  } catch (error) {
    await gateway.stop();
    throw error;
  }
  return { gateway, records };
}

export interface Answer {
  readonly outputs: TokenId[][];
  readonly logprobs: (TokenLogprob | undefined)[][];
  readonly finishReasons: (FinishReason | undefined)[];
  readonly promptLogprobs: readonly TokenLogprob[] | null;
}

let lastId = 0;
export function inputOf(golden: GoldenCase, sampling: Partial<SamplingParams> = {}): RequestInput {
  const params = {
    ...greedy,
    maxTokenCount: golden.max_new_tokens,
    endTokenIds: goldens.eos_token_ids,
    ...sampling,
  };
  return { id: requestId(`${golden.name}-${++lastId}`), promptIds: golden.prompt_ids, sampling: params };
}

/** Everything a request answers. `onTokens` sees each event's token count as it comes. */
export async function collect(
  gateway: Gateway,
  input: RequestInput,
  onTokens?: (count: number) => void,
): Promise<Answer> {
  const { choiceCount } = input.sampling;
  const outputs: TokenId[][] = Array.from({ length: choiceCount }, () => []);
  const logprobs: (TokenLogprob | undefined)[][] = Array.from({ length: choiceCount }, () => []);
  const finishReasons: (FinishReason | undefined)[] = new Array(choiceCount).fill(undefined);
  let promptLogprobs: TokenLogprob[] | null = null;
  for await (const event of gateway.submit(input)) {
    if (event.kind === 'promptLogprobs') promptLogprobs = [...(promptLogprobs ?? []), ...event.logprobs];
    if (event.kind !== 'tokens') continue;
    for (const { tokenId, logprob } of event.tokens) {
      outputs[event.choiceIndex]!.push(tokenId);
      logprobs[event.choiceIndex]!.push(logprob);
    }
    if (event.finishReason !== undefined) finishReasons[event.choiceIndex] = event.finishReason;
    onTokens?.(event.tokens.length);
  }
  return { outputs, logprobs, finishReasons, promptLogprobs };
}

/** Resolves when no worker owns a block or has work; throws with what is left after `deadlineMs`. */
export async function expectNothingOwned(gateway: Gateway, deadlineMs = 10_000): Promise<void> {
  const endMs = systemClock.nowMs() + deadlineMs;
  for (;;) {
    const left = gateway.workers().flatMap(({ id, state, snapshot }) => {
      if (state !== 'ready' || snapshot === null) return [`${id} is ${state}`];
      const { ownedBlockCount, runningCount, waitingCount, heldCount, reservedCount } = snapshot;
      const counts = { ownedBlockCount, runningCount, waitingCount, heldCount, reservedCount };
      return Object.values(counts).some((count) => count > 0) ? [`${id}: ${JSON.stringify(counts)}`] : [];
    });
    if (left.length === 0 && gateway.requestCount === 0) break;
    if (systemClock.nowMs() > endMs)
      throw new Error(`still owned: ${left.join('; ')}; ${gateway.requestCount} requests`);
    await systemClock.sleep(20);
  }
  await gateway.checkIntegrity();
}
