/** Weights that reach the device through pinned buffers are those of the files: pieces of any number and
 *  size, whole models, broken files. */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { Prng } from '../../src/base/prng.js';
import type { Device } from '../../src/device/device.js';
import { openDevice } from '../../src/device/native.js';
import { offsetPointer } from '../../src/device/tensor.js';
import { type FilePiece, streamPieces } from '../../src/model/file-pieces.js';
import { openCheckpoint } from '../../src/model/open-checkpoint.js';
import { ParameterStore } from '../../src/model/weights.js';
import { demoFolder } from './harness.js';

const device = openDevice({ kind: 'cpu', index: 0, threadCount: 1 });
const temporary = mkdtempSync(path.join(tmpdir(), 'twostroke-pieces-'));
afterAll(() => {
  device.close();
  rmSync(temporary, { recursive: true });
});

const prng = new Prng(11);
const bytes = Uint8Array.from({ length: 300_001 }, () => prng.integer(0, 255));
const file = path.join(temporary, 'bytes');
writeFileSync(file, bytes);

/** Pieces of random length that cover the file, each copied to its own place. */
function piecesTo(target: ReturnType<Device['allocate']>, pieceBytes: number): FilePiece[] {
  const pieces: FilePiece[] = [];
  for (let at = 0; at < bytes.length; ) {
    const byteOffset = at;
    const byteCount = Math.min(bytes.length - at, prng.integer(1, pieceBytes));
    const enqueue: FilePiece['enqueue'] = (stream, pointer) =>
      stream.copy(offsetPointer(target, byteOffset), pointer, byteCount);
    pieces.push({ file, byteOffset, byteCount, name: 'x', enqueue });
    at += byteCount;
  }
  return pieces;
}

describe('pieces', () => {
  it.each([
    [1, 5000],
    [3, 5000],
    [8, 100_000],
    [50, 300_001],
  ])('%d lanes of %d bytes bring every byte', async (laneCount, pieceBytes) => {
    const target = device.allocateHost(bytes.length);
    const stream = device.createStream();
    let doneBytes = 0;
    await streamPieces(
      device,
      stream,
      piecesTo(target.pointer, pieceBytes),
      { laneCount, pieceBytes },
      (count) => {
        doneBytes += count;
      },
    );
    expect(doneBytes).toBe(bytes.length);
    expect(Buffer.compare(target.bytes, bytes)).toBe(0);
    stream.close();
    device.releaseHost(target);
  });

  it('end with one error that names file and tensor when the file is cut or gone', async () => {
    const cut = path.join(temporary, 'cut');
    writeFileSync(cut, bytes);
    truncateSync(cut, 200_000);
    const target = device.allocateHost(bytes.length);
    const stream = device.createStream();
    const load = (name: string) => {
      const pieces = piecesTo(target.pointer, 9000).map((piece) => ({ ...piece, file: name }));
      return streamPieces(device, stream, pieces, { laneCount: 4, pieceBytes: 9000 }, () => {});
    };
    await expect(load(cut)).rejects.toThrow(/cut: truncated while it was being loaded \(tensor "x"\)/);
    await expect(load(path.join(temporary, 'nowhere'))).rejects.toThrow(/nowhere: cannot be opened: /);
    stream.close();
    device.releaseHost(target);
  });
});

/** As the store sees a GPU: one that cannot read mapped files. */
const remote = new Proxy(device, {
  get: (target, key) => {
    if (key === 'info') return { ...device.info, kind: 'cuda' };
    if (key === 'mapFile') return () => expect.unreachable('a GPU cannot read mapped files');
    const value: unknown = Reflect.get(target, key, target);
    return typeof value === 'function' ? value.bind(target) : value;
  },
});

describe('parameters', () => {
  it('are the same as from mapped files: stacked and fused matrices, tables kept and converted', async () => {
    const checkpoint = openCheckpoint(demoFolder);
    const name = (part: string) => `model.layers.0.self_attn.${part}_proj.weight`;
    const [hidden, queries, keys] = [256, 256, 128];
    const outputs = await Promise.all(
      [device, remote].map(async (each) => {
        const store = new ParameterStore(each, checkpoint, { asStored: false, other: 'f32' });
        const fused = store.matrix(
          [
            { name: name('q'), rowCount: queries },
            { name: name('k'), rowCount: keys },
          ],
          hidden,
        );
        const tables = (['bf16', 'f32'] as const).map((dtype) =>
          store.table('model.embed_tokens.weight', [4096, hidden], dtype),
        );
        const progress: number[] = [];
        await store.fill((doneBytes, totalBytes) => progress.push(doneBytes / totalBytes));
        expect(progress.at(-1)).toBe(1);
        const stream = device.createStream();
        const eye = device.allocateHost(4 * hidden * hidden);
        new Float32Array(eye.bytes.buffer, eye.bytes.byteOffset, hidden * hidden).forEach((_, i, all) => {
          all[i] = i % (hidden + 1) === 0 ? 1 : 0;
        });
        const product = device.allocateHost(4 * hidden * (queries + keys));
        const x = { pointer: eye.pointer, shape: [hidden, hidden], dtype: 'f32' as const };
        const out = { pointer: product.pointer, shape: [hidden, queries + keys], dtype: 'f32' as const };
        stream.ops.linear(out, x, fused, null, hidden);
        const copies = tables.map(({ pointer, dtype }) => {
          const byteCount = 4096 * hidden * (dtype === 'f32' ? 4 : 2);
          const copy = device.allocateHost(byteCount);
          stream.copy(copy.pointer, pointer, byteCount);
          return copy;
        });
        await stream.wait();
        stream.close();
        const found = [product, ...copies].map((buffer) => Buffer.from(buffer.bytes));
        for (const buffer of [eye, product, ...copies]) device.releaseHost(buffer);
        store.close();
        return found;
      }),
    );
    const [mapped = [], streamed = []] = outputs;
    expect(mapped.map((part, i) => Buffer.compare(part, streamed[i] ?? Buffer.alloc(0)))).toEqual([0, 0, 0]);
    expect(mapped.every((part) => part.some((byte) => byte !== 0))).toBe(true);
  });
});
