/** KV cache memory between processes, and block copies. */
import { fork } from 'node:child_process';
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { CacheExport } from '../../src/device/device.js';
import { offsetPointer } from '../../src/device/tensor.js';
import { Bench } from './tensors.js';

const b = new Bench({ threadCount: 1 });
afterAll(() => b.close());

const words = (count: number, base: number) => Int32Array.from({ length: count }, (_, i) => base + i);

/** Another process that owns a cache of two pages: it writes 7 at its start and answers what it finds
 *  there. */
const ownerSource = `
  import koffi from ${JSON.stringify(path.resolve('node_modules/koffi/index.js'))};
  const lib = koffi.load(${JSON.stringify(path.resolve('build/cpu/libpd_cpu.so'))});
  const out = new BigUint64Array(1);
  lib.func('int pd_device_open(int32 i, int32 t, int32 s, void *out)')(0, 1, 0, out);
  const create = lib.func('pd_cache_create', 'int', ['uintptr_t', 'uint64', 'void *']);
  create(Number(out[0]), 8192, out);
  const cache = Number(out[0]);
  const record = new DataView(new ArrayBuffer(88));
  lib.func('pd_cache_export', 'int', ['uintptr_t', 'void *'])(cache, record);
  lib.func('pd_cache_pointer', 'int', ['uintptr_t', 'void *'])(cache, out);
  const memory = new Int32Array(koffi.view(Number(out[0]), 8192));
  memory[0] = 7;
  process.on('message', () => process.send({ found: memory[1] }));
  process.send({ processId: Number(record.getBigInt64(0, true)), fileDescriptor: record.getInt32(8, true), deviceIndex: 0, bytes: Number(record.getBigUint64(16, true)), ipcHandle: '' });
`;

describe('cache', () => {
  it('is zeroed memory that another handle of the same process sees too', async () => {
    const cache = b.device.createCache(1 << 16);
    const record = JSON.parse(JSON.stringify(b.device.exportCache(cache))) as CacheExport;
    expect(record.processId).toBe(process.pid);
    const other = b.device.importCache(record);
    const [mine, theirs] = [b.device.cachePointer(cache), b.device.cachePointer(other)];
    expect(mine).not.toBe(theirs);
    const [source, out] = [b.i32([42]), b.poisoned([2], 'i32')];
    b.stream.copy(offsetPointer(mine, 4096), source.pointer, 4);
    b.stream.copy(out.pointer, offsetPointer(theirs, 4096), 8);
    await b.stream.wait();
    expect([...b.integers(out)].slice(0, 2)).toEqual([42, 0]);
    expect(() => b.device.exportCache(other)).toThrow(/only the owner/);
    b.device.closeCache(other);
    b.device.closeCache(cache);
  });

  it('is shared with a child process, both ways, and gone with it', async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'twostroke-cache-'));
    const script = path.join(folder, 'owner.mjs');
    writeFileSync(script, ownerSource);
    const child = fork(script);
    const message = () => new Promise<unknown>((resolve) => child.once('message', resolve));
    const record = (await message()) as CacheExport;
    const cache = b.device.importCache(record);
    const [base, out] = [b.device.cachePointer(cache), b.poisoned([1], 'i32')];
    b.stream.copy(out.pointer, base, 4);
    b.stream.copy(offsetPointer(base, 4), b.i32([1234]).pointer, 4);
    await b.stream.wait();
    expect(b.integers(out)[0]).toBe(7);
    child.send('read');
    expect(await message()).toEqual({ found: 1234 });
    expect(() => b.device.importCache({ ...record, bytes: 4096 })).toThrow(/has 8192 bytes, not 4096/);
    expect(() => b.device.importCache({ ...record, fileDescriptor: 999 })).toThrow(/gone or has closed/);
    const exited = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await exited;
    b.stream.copy(out.pointer, offsetPointer(base, 4), 4); // the mapping outlives its owner
    await b.stream.wait();
    expect(b.integers(out)[0]).toBe(1234);
    b.device.closeCache(cache);
    expect(() => b.device.importCache(record)).toThrow(new RegExp(`process ${record.processId}.*gone`));
    rmSync(folder, { recursive: true });
  });

  it('is not confused by a descriptor that is something else', () => {
    const cache = b.device.createCache(4096);
    const record = b.device.exportCache(cache);
    const folder = mkdtempSync(path.join(tmpdir(), 'twostroke-cache-'));
    const impostor = openSync(path.join(folder, 'same-length'), 'w+');
    ftruncateSync(impostor, 4096);
    expect(() => b.device.importCache({ ...record, fileDescriptor: impostor })).toThrow(
      /no longer holds a cache/,
    );
    closeSync(impostor);
    rmSync(folder, { recursive: true });
    b.device.closeCache(cache);
    expect(() => b.device.importCache(record)).toThrow(/gone or has closed|no longer holds/);
  });
});

it('refuses a cache that the machine cannot hold', () => {
  expect(() => b.device.createCache(2 ** 50)).toThrow(/1125899906842624 bytes; this machine has/);
});

describe('copySlices', () => {
  const blockWords = 32;
  const block = blockWords * 4;

  it('copies every slice of every pair and nothing else', async () => {
    const [source, target] = [
      b.i32(words(8 * blockWords, 0), [8, blockWords]),
      b.poisoned([6, blockWords], 'i32'),
    ];
    const pairs = [
      { target: 5, source: 0 },
      { target: 0, source: 7 },
      { target: 2, source: 7 },
    ];
    const slices = [
      { targetOffset: 0, sourceOffset: 16, bytes: 8 },
      { targetOffset: 100, sourceOffset: 100, bytes: 28 },
    ];
    const place = (tensor: { pointer: typeof source.pointer }) => ({
      base: tensor.pointer,
      blockBytes: block,
    });
    b.stream.copySlices(place(target), place(source), pairs, slices);
    b.stream.copySlices(place(target), place(source), [], slices);
    b.stream.copySlices(place(target), place(source), pairs, []);
    await b.stream.wait();
    const expected = new Int32Array(6 * blockWords).fill(-1);
    for (const pair of pairs) {
      for (const { targetOffset, sourceOffset, bytes } of slices) {
        for (let i = 0; i < bytes / 4; i++) {
          expected[pair.target * blockWords + targetOffset / 4 + i] =
            pair.source * blockWords + sourceOffset / 4 + i;
        }
      }
    }
    expect(b.integers(target)).toEqual(expected);
  });

  it('serves two layouts of a block', async () => {
    const [source, target] = [b.i32(words(64, 0)), b.poisoned([96], 'i32')];
    b.stream.copySlices(
      { base: target.pointer, blockBytes: 192 },
      { base: source.pointer, blockBytes: 128 },
      [{ target: 1, source: 1 }],
      [{ targetOffset: 64, sourceOffset: 0, bytes: 128 }],
    );
    await b.stream.wait();
    expect([...b.integers(target).subarray(64, 96)]).toEqual([...words(32, 32)]);
    expect(
      b
        .integers(target)
        .subarray(0, 64)
        .every((word) => word === -1),
    ).toBe(true);
  });

  it('refuses slices that leave their block and negative blocks', () => {
    const x = b.i32(words(64, 0));
    const place = { base: x.pointer, blockBytes: 128 };
    const pair = [{ target: 0, source: 1 }];
    for (const [targetOffset, sourceOffset, bytes] of [
      [124, 0, 8],
      [0, 124, 8],
      [0, 0, 136],
      [2 ** 40, 0, 4],
    ] as const) {
      expect(() => b.stream.copySlices(place, place, pair, [{ targetOffset, sourceOffset, bytes }])).toThrow(
        /leaves its block/,
      );
    }
    const slice = [{ targetOffset: 0, sourceOffset: 0, bytes: 8 }];
    expect(() => b.stream.copySlices(place, place, [{ target: 0, source: -1 }], slice)).toThrow(
      /block -1 -> 0/,
    );
  });
});
