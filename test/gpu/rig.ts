/** What the parts of engine.ts share: the device, the models' folders, engines of a given shape, and the
 *  lists of checks and measurements. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { systemClock } from '../../src/base/clock.js';
import { requestId } from '../../src/base/ids.js';
import type { Device, DeviceKind } from '../../src/device/device.js';
import { openDevice } from '../../src/device/native.js';
import {
  Engine,
  type EngineConfig,
  type EngineHooks,
  type GenerationRequest,
} from '../../src/engine/engine.js';
import { greedy, type SamplingParams } from '../../src/engine/sampling-params.js';
import { loadModel } from '../../src/model/load.js';
import type { Model } from '../../src/model/model.js';

export interface GoldenCase {
  readonly name: string;
  readonly prompt_ids: readonly number[];
  readonly continuation_ids: readonly number[];
  readonly continuation_logprobs: readonly number[];
  readonly gaps: readonly number[];
  readonly top5: readonly { readonly ids: readonly number[]; readonly logprobs: readonly number[] }[];
}

export interface Check {
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
}

export interface Row {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
}

export const root = process.env.TWOSTROKE_ROOT ?? process.cwd();
export const kind = (process.env.TWOSTROKE_DEVICE ?? 'cuda') as DeviceKind;
export const libraryPath = path.join(root, 'build', kind, `libpd_${kind}.so`);
const fixtureNames = ['llama', 'llama3-rope', 'qwen2', 'qwen3', 'mistral-swa', 'qwen3-moe', 'gemma2', 'phi3'];
export const demoFolder = path.join(root, 'models', 'demo-6m');
export const folders = [...fixtureNames.map((name) => path.join(root, 'test', 'fixtures', name)), demoFolder];

export const checks: Check[] = [];
export const rows: Row[] = [];

export function check(name: string, ok: boolean, detail: string): void {
  checks.push({ name, ok, detail });
  console.log(`${ok ? 'ok  ' : 'FAIL'} ${name.padEnd(58)} ${detail}`);
}

export function row(name: string, value: number, unit: string): void {
  rows.push({ name, value, unit });
  console.log(`${name.padEnd(63)} ${value.toFixed(3)} ${unit}`);
}

export function open(batchInvariant: 'on' | 'off'): Device {
  return openDevice({ kind, index: 0, libraryPath, batchInvariant });
}

export const readCases = (folder: string) =>
  (JSON.parse(readFileSync(path.join(folder, 'golden.json'), 'utf8')) as { cases: GoldenCase[] }).cases;

let serial = 0;
export const nextId = () => requestId(`g${serial++}`);

export function ask(one: GoldenCase, sampling: Partial<SamplingParams> = {}): GenerationRequest {
  const maxTokenCount = one.continuation_ids.length;
  return {
    id: nextId(),
    promptIds: one.prompt_ids,
    sampling: { ...greedy, maxTokenCount, topLogprobCount: 1, ...sampling },
  };
}

export type Shape = Partial<
  Pick<
    EngineConfig,
    | 'depth'
    | 'prefillChunkTokenCount'
    | 'prefixCaching'
    | 'sequenceCountMax'
    | 'tokenBudget'
    | 'kv'
    | 'maxModelTokenCount'
  >
>;

export function openEngine(device: Device, model: Model, shape: Shape, hooks: EngineHooks = {}): Engine {
  const options: EngineConfig = {
    device,
    model,
    clock: systemClock,
    maxModelTokenCount: 4096,
    depth: 2,
    prefixCaching: 'on',
    kv: { blockTokenCount: 16, blockCount: 1024, dtype: 'f32' },
    tokenBudget: 600,
    prefillChunkTokenCount: 512,
    sequenceCountMax: 32,
    ...shape,
  };
  return new Engine(options, hooks);
}

export function load(device: Device, folder: string, dtype: 'f32' | 'bf16'): Promise<Model> {
  const limits = { rowCountMax: 600, logitRowCountMax: 64 };
  return loadModel(folder, {
    device,
    limits,
    loadFormat: 'auto',
    dtype,
    quantize: 'none',
    maxModelTokenCount: 4096,
  });
}
