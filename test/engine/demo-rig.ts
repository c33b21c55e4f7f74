/** The demo model on the real CPU device, its goldens, and what the engine's tests with them share. f32
 *  arithmetic and KV. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { expect } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { requestId } from '../../src/base/ids.js';
import type { Device } from '../../src/device/device.js';
import { openDevice } from '../../src/device/native.js';
import {
  Engine,
  type EngineConfig,
  type EngineHooks,
  type GenerationRequest,
} from '../../src/engine/engine.js';
import { greedy, type SamplingParams } from '../../src/engine/sampling-params.js';
import type { TokenOutput } from '../../src/engine/token-event.js';
import { loadModel } from '../../src/model/load.js';
import type { Model } from '../../src/model/model.js';

export interface GoldenCase {
  readonly name: string;
  readonly prompt_ids: readonly number[];
  readonly continuation_ids: readonly number[];
  readonly continuation_logprobs: readonly number[];
  readonly prompt_logprob: number;
  /** Between the best two log-probabilities, per token. */
  readonly gaps: readonly number[];
  readonly top5: readonly { readonly ids: readonly number[]; readonly logprobs: readonly number[] }[];
}

const folder = path.resolve(import.meta.dirname, '../../models/demo-6m');
export const golden = JSON.parse(readFileSync(path.join(folder, 'golden.json'), 'utf8')) as {
  eos_token_ids: number[];
  cases: GoldenCase[];
};
export const shortCases = golden.cases.filter((one) => one.prompt_ids.length <= 300);
export const longCases = golden.cases.filter((one) => one.prompt_ids.length > 300);
const logprobTolerance = (one: GoldenCase) => (one.prompt_ids.length > 1500 ? 1e-3 : 5e-4);

export interface Rig {
  readonly device: Device;
  readonly model: Model;
}

export async function openRig(threadCount: number): Promise<Rig> {
  const device = openDevice({ kind: 'cpu', index: 0, threadCount });
  const limits = { rowCountMax: 600, logitRowCountMax: 64 };
  const model = await loadModel(folder, {
    device,
    limits,
    loadFormat: 'auto',
    dtype: 'f32',
    quantize: 'none',
    maxModelTokenCount: 4096,
  });
  return { device, model };
}

export type Shape = Partial<
  Pick<
    EngineConfig,
    'depth' | 'prefillChunkTokenCount' | 'prefixCaching' | 'sequenceCountMax' | 'tokenBudget'
  >
> & {
  readonly blockCount?: number;
  readonly kvDtype?: 'f32' | 'fp8';
};

export function openEngine(
  { device, model }: Rig,
  { blockCount = 512, kvDtype = 'f32', ...shape }: Shape = {},
  hooks: EngineHooks = {},
): Engine {
  const options: EngineConfig = {
    device,
    model,
    clock: systemClock,
    maxModelTokenCount: 4096,
    depth: 2,
    prefixCaching: 'on',
    kv: { blockTokenCount: 16, blockCount, dtype: kvDtype },
    tokenBudget: 600,
    prefillChunkTokenCount: 512,
    sequenceCountMax: 32,
    ...shape,
  };
  return new Engine(options, hooks);
}

let serial = 0;
export function ask(one: GoldenCase, sampling: Partial<SamplingParams> = {}): GenerationRequest {
  return {
    id: requestId(`demo-${serial++}`),
    promptIds: one.prompt_ids,
    sampling: {
      ...greedy,
      maxTokenCount: 128,
      endTokenIds: golden.eos_token_ids,
      topLogprobCount: 5,
      ...sampling,
    },
  };
}

/** Token ids equal, log-probabilities close. */
export function expectGolden(one: GoldenCase, tokens: readonly TokenOutput[]): void {
  expect(
    tokens.map(({ tokenId }) => tokenId),
    one.name,
  ).toEqual(one.continuation_ids);
  const tolerance = logprobTolerance(one);
  tokens.forEach(({ logprob }, i) => {
    expect(
      Math.abs(logprob!.logprob - one.continuation_logprobs[i]!),
      `${one.name}, token ${i}`,
    ).toBeLessThan(tolerance);
  });
  one.top5.slice(0, tokens.length).forEach(({ ids, logprobs }, i) => {
    const top = new Map(tokens[i]!.logprob!.top);
    expect(tokens[i]!.logprob!.top).toHaveLength(5);
    ids.forEach((id, rank) => {
      const mine = top.get(id); // absent only when two alternatives are as good as equal
      if (mine !== undefined) expect(Math.abs(mine - logprobs[rank]!)).toBeLessThan(4 * tolerance);
    });
    expect([...top.keys()][0]).toBe(ids[0]);
  });
}
