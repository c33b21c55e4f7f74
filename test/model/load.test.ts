/** Checkpoints that cannot be served fail with one message that names file and tensor; formats follow files
 *  and options; dummy weights. */
import { cpSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { at } from '../../src/base/assert.js';
import { ModelError, messageOf } from '../../src/base/errors.js';
import type { Device } from '../../src/device/device.js';
import { openDevice } from '../../src/device/native.js';
import { loadModel } from '../../src/model/load.js';
import type { LoadOptions, LoadProgress } from '../../src/model/model.js';
import { readFloats, readSafetensorsHeader } from '../../src/model/safetensors.js';
import { demoFolder, fixtureFolder } from './harness.js';

const device: Device = openDevice({ kind: 'cpu', index: 0, threadCount: 1 });
const temporary = mkdtempSync(path.join(tmpdir(), 'twostroke-load-'));
afterAll(() => {
  device.close();
  rmSync(temporary, { recursive: true });
});

const options: LoadOptions = {
  device,
  loadFormat: 'auto',
  dtype: 'auto',
  quantize: 'none',
  limits: { rowCountMax: 8, logitRowCountMax: 8 },
  maxModelTokenCount: 64,
};

function copyOf(folder: string): string {
  const copy = mkdtempSync(path.join(temporary, 'model-'));
  cpSync(folder, copy, { recursive: true });
  return copy;
}

type Header = Record<string, { dtype: string; shape: unknown[]; data_offsets: unknown[] }>;

/** The file with its header changed and its data kept. */
function rewriteHeader(file: string, change: (header: Header) => unknown): void {
  const bytes = readFileSync(file);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString()) as Header;
  const replaced = change(header) ?? header;
  writeFileSync(
    file,
    safetensors(
      typeof replaced === 'string' ? replaced : JSON.stringify(replaced),
      bytes.subarray(8 + length),
    ),
  );
}

function safetensors(header: string, data: Uint8Array): Buffer {
  const text = Buffer.from(header);
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([prefix, text, data]);
}

async function failure(folder: string, changes: Partial<LoadOptions> = {}): Promise<string> {
  const error: unknown = await loadModel(folder, { ...options, ...changes }).then(
    () => 'it loaded',
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(ModelError);
  return messageOf(error);
}

const keyProjection = 'model.layers.1.self_attn.k_proj.weight';

describe('broken checkpoints', () => {
  const damaged = (damage: (folder: string, file: string) => void): string => {
    const folder = copyOf(fixtureFolder('llama'));
    damage(folder, path.join(folder, 'model.safetensors'));
    return folder;
  };
  const withHeader = (change: (header: Header) => unknown) =>
    damaged((_, file) => rewriteHeader(file, change));
  const entryOf = (header: Header, name = keyProjection) => header[name]!;

  it.each<[string, () => string, RegExp]>([
    [
      'no weights',
      () => damaged((_, file) => rmSync(file)),
      /no weights: neither model.safetensors nor .*--load-format dummy/,
    ],
    [
      'a truncated file',
      () => damaged((_, file) => truncateSync(file, 500_000)),
      /model.safetensors: truncated: tensor "model.layers.\S+" ends at byte \d+, the file has 500000 bytes/,
    ],
    [
      'a truncated header',
      () => damaged((_, file) => truncateSync(file, 100)),
      /truncated: the header needs \d+ bytes, the file has 100/,
    ],
    ['an empty file', () => damaged((_, file) => truncateSync(file, 0)), /truncated: 0 bytes are too few/],
    [
      'another format',
      () => damaged((_, file) => writeFileSync(file, 'GGUF and more text that is no header')),
      /not a safetensors file/,
    ],
    [
      'a header that is no JSON',
      () => withHeader(() => '{ "a" '),
      /model.safetensors \(header\): not valid JSON/,
    ],
    ['a header that is a list', () => withHeader(() => '[]'), /header: expected a JSON object, got \[\]/],
    [
      'a missing tensor',
      () =>
        withHeader((header) => {
          delete header[keyProjection];
        }),
      new RegExp(`model.safetensors: tensor "${keyProjection}" is missing`),
    ],
    [
      'a wrong shape',
      () =>
        withHeader((header) => {
          entryOf(header).shape = [64, 32];
        }),
      new RegExp(`tensor "${keyProjection}" has shape \\[64, 32\\], config.json asks for \\[32, 64\\]`),
    ],
    [
      'a shape that needs other bytes',
      () =>
        withHeader((header) => {
          entryOf(header).shape = [32, 65];
        }),
      /shape \[32, 65\] of F32 needs 8320 bytes, data_offsets give 8192/,
    ],
    [
      'a shape that is no integer',
      () =>
        withHeader((header) => {
          entryOf(header).shape = [32.5, 64];
        }),
      /shape must be a list of non-negative integers/,
    ],
    [
      'a negative shape',
      () =>
        withHeader((header) => {
          entryOf(header).shape = [-32, -64];
        }),
      /shape must be a list of non-negative integers/,
    ],
    [
      'no shape',
      () =>
        withHeader((header) => {
          (entryOf(header) as { shape: unknown }).shape = null;
        }),
      /shape must be a list/,
    ],
    [
      'offsets out of range',
      () =>
        withHeader((header) => {
          entryOf(header).data_offsets = [9e12, 9e12 + 8192];
        }),
      /truncated: tensor .* ends at byte/,
    ],
    [
      'offsets that overlap',
      () =>
        withHeader((header) => {
          entryOf(header).data_offsets = [0, 8192];
        }),
      /tensors ".*" and ".*" overlap/,
    ],
    [
      'offsets backwards',
      () =>
        withHeader((header) => {
          entryOf(header).data_offsets = [8192, 0];
        }),
      /needs 8192 bytes, data_offsets give -8192/,
    ],
    [
      'an unknown dtype',
      () =>
        withHeader((header) => {
          entryOf(header).dtype = 'F31';
        }),
      /unknown dtype "F31"/,
    ],
    [
      'a dtype that is no weight',
      () =>
        withHeader((header) => {
          entryOf(header).dtype = 'I32';
        }),
      new RegExp(
        `tensor "${keyProjection}" has dtype I32, which is not supported \\(supported: F32, BF16, F16\\)`,
      ),
    ],
    [
      'an entry that is no object',
      () => withHeader((header) => ({ ...header, [keyProjection]: 7 })),
      /its header entry must be an object, got 7/,
    ],
  ])('%s', async (_, make, message) => {
    expect(await failure(make())).toMatch(message);
  });

  it('refuses a header longer than the format allows without reading it', async () => {
    const folder = damaged((_, file) => {
      const bytes = readFileSync(file);
      bytes.writeBigUInt64LE(2n ** 63n, 0);
      writeFileSync(file, bytes);
    });
    expect(await failure(folder)).toMatch(
      /not a safetensors file: its header would be 9223372036854775808 bytes/,
    );
  });
});

describe('broken indexes', () => {
  const damaged = (
    damage: (folder: string, index: { weight_map: Record<string, unknown> }) => void,
  ): string => {
    const folder = copyOf(fixtureFolder('llama3-rope'));
    const file = path.join(folder, 'model.safetensors.index.json');
    const index = JSON.parse(readFileSync(file, 'utf8')) as { weight_map: Record<string, unknown> };
    damage(folder, index);
    writeFileSync(file, JSON.stringify(index));
    return folder;
  };
  const norm = 'model.norm.weight';

  it.each<[string, () => string, RegExp]>([
    [
      'a missing shard',
      () => damaged((folder) => rmSync(path.join(folder, 'model-00002-of-00002.safetensors'))),
      /model-00002-of-00002.safetensors: this shard is missing \(.*index.json has tensor "/,
    ],
    [
      'a tensor in the wrong shard',
      () =>
        damaged((_, index) => {
          index.weight_map[norm] = 'model-00001-of-00002.safetensors';
        }),
      /model-00001-of-00002.safetensors: tensor "model.norm.weight" is missing/,
    ],
    [
      'a tensor the index forgets',
      () =>
        damaged((_, index) => {
          delete index.weight_map[norm];
        }),
      /index.json: tensor "model.norm.weight" is missing/,
    ],
    [
      'a path out of the folder',
      () =>
        damaged((_, index) => {
          index.weight_map[norm] = '../../etc/passwd';
        }),
      /must name a file of this folder, got "..\/..\/etc\/passwd"/,
    ],
    [
      'no map',
      () =>
        damaged((_, index) => {
          (index as { weight_map: unknown }).weight_map = 3;
        }),
      /"weight_map" must be an object, got 3/,
    ],
  ])('%s', async (_, make, message) => {
    expect(await failure(make())).toMatch(message);
  });
});

describe('formats', () => {
  const formatOf = async (folder: string, changes: Partial<LoadOptions> = {}) => {
    const model = await loadModel(folder, { ...options, ...changes });
    const found = [model.weightFormat, model.weightBytes] as const;
    model.close();
    return found;
  };

  it('follow the file unless asked otherwise', async () => {
    expect((await formatOf(fixtureFolder('llama')))[0]).toBe('f32');
    expect((await formatOf(demoFolder))[0]).toBe('bf16');
    expect((await formatOf(demoFolder, { dtype: 'f32' }))[0]).toBe('f32');
    expect((await formatOf(fixtureFolder('llama'), { dtype: 'bf16' }))[0]).toBe('bf16');
  });

  it('shrink with int8', async () => {
    const [format, bytes] = await formatOf(demoFolder, { quantize: 'int8' });
    expect(format).toBe('i8');
    expect(bytes).toBeLessThan((await formatOf(demoFolder))[1] * 0.6);
  });

  it('say what the device cannot do', async () => {
    expect(await failure(demoFolder, { quantize: 'fp8' })).toMatch(
      /--quantize fp8: the cpu device .* has no linear for this format/,
    );
  });

  it('report progress that ends at the total', async () => {
    const seen: LoadProgress[] = [];
    const model = await loadModel(demoFolder, { ...options, onProgress: (progress) => seen.push(progress) });
    model.close();
    const last = at(seen, seen.length - 1);
    expect(last.stage).toBe('weights');
    expect(last.doneBytes).toBe(last.totalBytes);
    expect(last.totalBytes).toBeGreaterThan(11_000_000);
  });

  it.each(['llama', 'qwen3-moe', 'gemma2', 'qwen2'])(
    'makes a dummy %s from its config alone',
    async (name) => {
      const folder = mkdtempSync(path.join(temporary, 'model-'));
      cpSync(path.join(fixtureFolder(name), 'config.json'), path.join(folder, 'config.json'));
      expect((await formatOf(folder, { loadFormat: 'dummy' }))[0]).toBe('f32');
      expect((await formatOf(folder, { loadFormat: 'dummy', dtype: 'bf16' }))[0]).toBe('bf16');
    },
  );
});

describe('safetensors values', () => {
  it('reads f32, bf16 and f16, whole', () => {
    const file = path.join(temporary, 'values.safetensors');
    const header = {
      f32: { dtype: 'F32', shape: [2], data_offsets: [0, 8] },
      bf16: { dtype: 'BF16', shape: [2], data_offsets: [8, 12] },
      f16: { dtype: 'F16', shape: [4], data_offsets: [12, 20] },
    };
    const data = Buffer.alloc(20);
    data.writeFloatLE(1.5, 0);
    data.writeFloatLE(-0.1, 4);
    for (const [i, bits] of [0x3fc0, 0xc049, 0x3e00, 0xc248, 0x0001, 0x7c00].entries())
      data.writeUInt16LE(bits, 8 + 2 * i);
    writeFileSync(file, safetensors(JSON.stringify(header), data));
    const entries = readSafetensorsHeader(file);
    const values = (name: string) => [...readFloats(entries.get(name)!)];
    expect(values('f32')).toEqual([1.5, Math.fround(-0.1)]);
    expect(values('bf16')).toEqual([1.5, -3.140625]);
    expect(values('f16')).toEqual([1.5, -3.140625, 2 ** -24, Number.POSITIVE_INFINITY]);
  });
});
