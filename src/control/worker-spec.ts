/** Parses `--workers`: a comma list of `role:device[*count][?key=value&…]`, e.g.
 *  `prefill:cpu*2?threads=1,decode:cpu`. Pure. Used by cli/ (text → specs) and supervisor.ts (specs →
 *  processes). */
import { InvalidRequestError } from '../base/errors.js';
import type { DeviceKind } from '../device/device.js';
import type { WorkerRole } from '../router/snapshot.js';

/** One worker; a `*count` has been expanded. */
export interface WorkerSpec {
  readonly role: WorkerRole;
  readonly device: { readonly kind: DeviceKind; readonly index: number };
  /** Compute threads; absent: CPU workers share the cores evenly. */
  readonly threadCount?: number;
  readonly quantize?: 'none' | 'int4' | 'int8' | 'fp8';
  /** KV blocks; absent: what GatewayOptions says. */
  readonly blockCount?: number;
}

const roles: readonly WorkerRole[] = ['any', 'prefill', 'decode'];
const itemPattern = /^([a-z]+):([a-z]+(?::\d+)?)((?:\+[a-z]+(?::\d+)?)*)(?:\*(\d+))?(?:\?(.*))?$/;
const workerCountMax = 64;

/** Throws InvalidRequestError that quotes the item and says what is wrong with it. */
export function parseWorkerSpecs(text: string): readonly WorkerSpec[] {
  if (text.trim() === '')
    throw new InvalidRequestError('workers: empty; write for example prefill:cpu,decode:cpu', 'workers');
  const specs = text.split(',').flatMap((item) => parseItem(item.trim()));
  if (specs.length > workerCountMax) throw wrong(text, `${specs.length} workers, at most ${workerCountMax}`);
  return specs;
}

/** `prefill:cpu`, `decode:cuda:1`: how a worker is shown. */
export function formatDevice(device: WorkerSpec['device']): string {
  return device.kind === 'cpu' ? 'cpu' : `${device.kind}:${device.index}`;
}

function parseItem(item: string): readonly WorkerSpec[] {
  const match = itemPattern.exec(item);
  if (match === null)
    throw wrong(item, 'expected role:device[*count][?key=value&…], for example decode:cpu?threads=2');
  const [, roleText = '', deviceText = '', moreDevices = '', countText, query = ''] = match;
  const role = roles.find((each) => each === roleText);
  if (role === undefined) throw wrong(item, `role '${roleText}' is not one of ${roles.join(', ')}`);
  if (moreDevices !== '')
    throw wrong(item, 'several devices per worker (tensor parallel) are not supported yet');
  const count = countText === undefined ? 1 : Number(countText);
  if (count < 1 || count > workerCountMax)
    throw wrong(item, `count ${count} is not between 1 and ${workerCountMax}`);
  const spec: WorkerSpec = { role, device: parseDevice(item, deviceText), ...parseSettings(item, query) };
  return Array.from({ length: count }, () => spec);
}

function parseDevice(item: string, text: string): WorkerSpec['device'] {
  const [kind, index] = text.split(':');
  if (kind === 'cpu' && index === undefined) return { kind, index: 0 };
  if (kind === 'cpu') throw wrong(item, 'the CPU is one device: write cpu, and *count for several workers');
  if (kind === 'cuda') return { kind, index: Number(index ?? 0) };
  throw wrong(item, `device '${text}' is not cpu or cuda:N`);
}

function parseSettings(
  item: string,
  query: string,
): Pick<WorkerSpec, 'threadCount' | 'quantize' | 'blockCount'> {
  let settings: Pick<WorkerSpec, 'threadCount' | 'quantize' | 'blockCount'> = {};
  for (const part of query === '' ? [] : query.split('&')) {
    const [key = '', value = ''] = part.split('=');
    if (key === 'threads') settings = { ...settings, threadCount: positive(item, key, value, 1024) };
    else if (key === 'blocks')
      settings = { ...settings, blockCount: positive(item, key, value, 2 ** 31 - 1) };
    else if (key === 'quantize') settings = { ...settings, quantize: quantizeOf(item, value) };
    else throw wrong(item, `setting '${key}' is not one of threads, blocks, quantize`);
  }
  return settings;
}

function positive(item: string, key: string, value: string, max: number): number {
  const number = Number(value);
  if (!/^\d+$/.test(value) || number < 1 || number > max)
    throw wrong(item, `${key} must be a whole number from 1 to ${max}, not '${value}'`);
  return number;
}

function quantizeOf(item: string, value: string): 'none' | 'int4' | 'int8' | 'fp8' {
  if (value === 'none' || value === 'int4' || value === 'int8' || value === 'fp8') return value;
  throw wrong(item, `quantize must be none, int4, int8 or fp8, not '${value}'`);
}

function wrong(item: string, what: string): InvalidRequestError {
  return new InvalidRequestError(`workers '${item}': ${what}`, 'workers');
}
