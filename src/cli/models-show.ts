/** `twostroke models show`: what a model is, what of it fits the devices at hand, and how fast memory lets
 *  them be. Weights are not downloaded. */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { TwostrokeError } from '../base/errors.js';
import type { Device, DeviceKind } from '../device/device.js';
import { openDevice } from '../device/native.js';
import { ensureLibrary, findLibrary } from '../device/native-library.js';
import { cachedModel, localModel } from '../hub/find-model.js';
import { parseModelName } from '../hub/model-name.js';
import { neededFiles } from '../hub/needed-files.js';
import { type PullOptions, pullModel } from '../hub/pull.js';
import { type DeviceFacts, type ModelFacts, modelFacts, speedTokenCount } from '../library/model-facts.js';
import { engineDefaults } from '../library/option-schemas.js';
import { readModelConfig } from '../model/config.js';
import { withDisplay } from './model-option.js';
import { grouped, shortBytes, shortCount, table } from './quantities.js';
import { listenForStop } from './signals.js';

const measureBytes = 2 ** 28;
const measureCount = 3;

interface Found {
  /** A folder with config.json. */
  readonly path: string;
  readonly licence: string | null;
  /** Null: there are none. */
  readonly weightBytes: number | null;
}

export async function showModel(model: string, { json }: { readonly json: boolean }): Promise<void> {
  const stop = listenForStop();
  const found = await stop.orStopped(withDisplay(model, stop.signal, (options) => find(model, options)));
  const config = readModelConfig(found.path);
  const devices = await stop.orStopped(devicesHere());
  stop.dispose();
  const facts = modelFacts(config, found.weightBytes, devices, engineDefaults.gpuMemoryUtilization);
  const summary = { model, path: found.path, licence: found.licence, ...facts };
  process.stdout.write(json ? `${JSON.stringify(summary)}\n` : showText(model, found, facts));
}

/** What is here; else config.json and the listing. */
async function find(model: string, options: PullOptions): Promise<Found> {
  const local = localModel(model);
  if (local !== null) return inFolder(local);
  const name = parseModelName(model);
  if (name === null) throw new TwostrokeError('not_found', `${model}: no such folder, and no org/name`);
  const cached = cachedModel(name, options.settings.cacheFolder, 'all');
  if (cached !== null) return inFolder(cached);
  if (name.file !== null || options.settings.isOffline) {
    throw new TwostrokeError(
      'not_found',
      `${model} is not in the cache: get it with "twostroke models pull ${model}"`,
    );
  }
  const { path: folder, listing } = await pullModel(name, { ...options, parts: 'config' });
  const weights = neededFiles(listing.files, name, 'all').files.filter((file) => isWeights(file.path));
  const weightBytes = weights.reduce((sum, { byteCount }) => sum + byteCount, 0);
  return { path: folder, licence: listing.licence, weightBytes };
}

function inFolder(folder: string): Found {
  if (!statSync(folder).isDirectory())
    return { path: folder, licence: null, weightBytes: statSync(folder).size };
  const names = readdirSync(folder).filter(isWeights);
  const bytes = names.reduce((sum, name) => sum + statSync(path.join(folder, name)).size, 0);
  return { path: folder, licence: cardLicence(folder), weightBytes: names.length === 0 ? null : bytes };
}

function isWeights(name: string): boolean {
  return /\.(safetensors|gguf)$/.test(name);
}

/** `license:` of the model card's front matter. */
function cardLicence(folder: string): string | null {
  try {
    const card = readFileSync(path.join(folder, 'README.md'), 'utf8').slice(0, 65_536);
    const [, frontMatter = ''] = /^---\n([\s\S]*?)\n---/.exec(card) ?? [];
    return /^license:\s*["']?([\w.+-]+)/m.exec(frontMatter)?.[1] ?? null;
  } catch {
    return null;
  }
}

/** The CPU, and the GPUs that the CUDA library can open. */
async function devicesHere(): Promise<DeviceFacts[]> {
  await ensureLibrary('cpu', (line) => process.stderr.write(`${line}\n`));
  const gpus = readdirSync('/dev').filter((name) => /^nvidia\d+$/.test(name));
  const found = [
    await measured('cpu', 0),
    ...(await Promise.all(gpus.map((_, index) => measuredGpu(index)))),
  ];
  return found.filter((facts) => facts !== null);
}

/** Null without a CUDA library, or without access to the GPU. */
async function measuredGpu(index: number): Promise<DeviceFacts | null> {
  try {
    findLibrary('cuda');
    return await measured('cuda', index);
  } catch {
    return null;
  }
}

async function measured(kind: DeviceKind, index: number): Promise<DeviceFacts> {
  const device: Device = openDevice({ kind, index });
  try {
    const readBytesPerSecond = await device.measureReadBytesPerSecond(measureBytes, measureCount);
    const { name, totalBytes, freeBytes } = device.info;
    return {
      device: kind === 'cpu' ? 'cpu' : `cuda:${index}`,
      kind,
      name,
      totalBytes,
      freeBytes,
      readBytesPerSecond,
    };
  } finally {
    device.close();
  }
}

function showText(model: string, { path: folder, licence }: Found, facts: ModelFacts): string {
  const { parameterCount, readParameterCount, weightBytes, contextTokenCount } = facts;
  const isMixture = readParameterCount < 0.7 * parameterCount;
  const active = isMixture ? `, ${shortCount(readParameterCount)} read for a token` : '';
  const rows = [
    ['model', model],
    ['path', folder],
    ['licence', licence ?? 'not stated'],
    ['architecture', facts.architecture],
    ['parameters', `${shortCount(parameterCount)}${active}`],
    ['weights', `${shortBytes(weightBytes)} (${facts.dtype})`],
    ['context', `${grouped(contextTokenCount)} tokens`],
    ['KV cache', `${shortBytes(facts.kvBytesPerToken)} a token`],
  ];
  return `${[...table(rows), ...facts.devices.flatMap(deviceLines)].join('\n')}\n`;
}

function deviceLines({
  device,
  name,
  freeBytes,
  readBytesPerSecond,
  fit,
}: ModelFacts['devices'][number]): string[] {
  const head = `${device}  ${name}: ${shortBytes(freeBytes)} free, reads ${(readBytesPerSecond / 1e9).toFixed(0)} GB/s`;
  if (fit === null) return ['', head, '  the weights do not fit; --quantize makes them smaller'];
  const contexts = fit.contexts.map(
    ({ tokenCount, sequenceCount }) => `${grouped(tokenCount)} × ${grouped(sequenceCount)}`,
  );
  const speeds = fit.speeds.map(
    ({ sequenceCount, tokensPerSecond }) =>
      `${Number(tokensPerSecond.toPrecision(2))} with ${sequenceCount === 1 ? '1 request' : `${sequenceCount} requests`}`,
  );
  return [
    '',
    head,
    `  KV of ${grouped(fit.kvTokenCount)} tokens by default: context × requests ${contexts.join(', ')}`,
    `  tokens/s at most, by bandwidth, at ${grouped(speedTokenCount)} tokens of context: ${speeds.join(', ')}`,
  ];
}
