/** KV memory of GPU workers: what the largest step needs is seen before the cache is made, and workers of one
 *  GPU end up with equal parts. */
import { describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { DeviceError } from '../../src/base/errors.js';
import type { CacheHandle, DeviceInfo, GraphHandle } from '../../src/device/device.js';
import type { Pointer } from '../../src/device/tensor.js';
import type { Model } from '../../src/model/model.js';
import { gpuKvBytes } from '../../src/worker/kv-sizing.js';
import { warmUp } from '../../src/worker/warm-up.js';
import { FakeDevice, FakeMemory, fakeModel } from '../engine/fake-device.js';

const graphBytes = 5000;

/** Counts what is in use, and has only so much. */
class MeteredDevice extends FakeDevice {
  override readonly info: DeviceInfo & { readonly kind: 'cuda' };
  usedBytes = 0;
  peakBytes = 0;
  graphCount = 0;
  cacheBytes = 0;
  readonly #pieces = new Map<Pointer, number>();

  constructor(totalBytes: number) {
    super(new FakeMemory(32 << 20));
    this.info = {
      name: 'fake',
      isa: '',
      kind: 'cuda',
      index: 3,
      threadCount: 0,
      totalBytes,
      freeBytes: totalBytes,
    };
  }

  readFreeBytes(): number {
    return this.info.totalBytes - this.usedBytes;
  }

  use(bytes: number): void {
    if (this.usedBytes + bytes > this.info.totalBytes)
      throw new DeviceError(`alloc: ${bytes} bytes wanted`, 3);
    this.usedBytes += bytes;
    this.peakBytes = Math.max(this.peakBytes, this.usedBytes);
  }

  override allocate(bytes: number): Pointer {
    this.use(bytes);
    const pointer = super.allocate(bytes);
    this.#pieces.set(pointer, bytes);
    return pointer;
  }

  override release(pointer?: Pointer): void {
    this.usedBytes -= this.#pieces.get(pointer as Pointer) ?? Number.NaN;
  }

  override createCache(bytes: number): CacheHandle {
    this.use(bytes);
    this.cacheBytes = bytes;
    return super.createCache(bytes);
  }

  override closeCache(): void {
    this.usedBytes -= this.cacheBytes;
  }

  override createStream(): ReturnType<FakeDevice['createStream']> {
    const stream = super.createStream();
    const end = stream.endGraph.bind(stream);
    stream.endGraph = () => {
      this.use(graphBytes);
      this.graphCount++;
      return end();
    };
    return stream;
  }

  override destroyGraph(graph?: GraphHandle): void {
    super.destroyGraph(...((graph === undefined ? [] : [graph]) as [GraphHandle]));
    this.usedBytes -= graphBytes;
  }
}

/** A fake model that remembers the largest step it was given. */
function watchedModel(device: MeteredDevice, logitRowCountMax: number) {
  const model = fakeModel(device, { logitRowCountMax });
  const largest = { rowCount: 0, logitRowCount: 0, sizes: new Set<number>() };
  const forward: Model['forward'] = (stream, batch, cache, onLayer) => {
    largest.rowCount = Math.max(largest.rowCount, batch.view.rowCount);
    largest.logitRowCount = Math.max(largest.logitRowCount, batch.logitRowCount);
    if (batch.view.queryCountMax === 1) largest.sizes.add(batch.view.rowCount);
    model.forward(stream, batch, cache, onLayer);
  };
  return { model: { ...model, weightBytes: 2 ** 30, forward } as Model, largest };
}

function optionsOf(device: MeteredDevice, model: Model) {
  return {
    device: device.asDevice(),
    model,
    clock: systemClock,
    depth: 2 as const,
    maxModelTokenCount: 400,
    tokenBudget: 96,
    prefillChunkTokenCount: 96,
    sequenceCountMax: 20,
    kv: { blockTokenCount: 16, dtype: 'f32' as const },
  };
}

describe('warm-up', () => {
  it('runs the largest step and every graph, tells the peak without its own cache, and gives everything back', async () => {
    const device = new MeteredDevice(64 << 20);
    const { model, largest } = watchedModel(device, 20);
    const before = device.usedBytes;
    const { usedBytes, graphBytes: measured } = await warmUp(optionsOf(device, model));
    expect(largest).toMatchObject({ rowCount: 96, logitRowCount: 20 });
    expect([...largest.sizes].sort((a, b) => a - b)).toEqual([1, 2, 4, 8, 16, 20]);
    expect(device.graphCount).toBe(2 * 6);
    expect(measured).toBeCloseTo(graphBytes, -3); // the lanes' inputs grow meanwhile
    expect(usedBytes).toBeGreaterThanOrEqual(device.peakBytes - device.cacheBytes);
    expect(usedBytes).toBeLessThan(device.peakBytes - device.cacheBytes + 2 * 64 * 1.2 * graphBytes);
    expect(device.usedBytes).toBe(before);
  });

  it('says what to lower when the step does not fit', async () => {
    const device = new MeteredDevice(40_000);
    const { model } = watchedModel(device, 20);
    const message =
      /GPU 3: a step of 96 tokens and 20 sequences does not fit beside 1.0 GiB of weights .*lower --max-num-batched-tokens/;
    await expect(warmUp(optionsOf(device, model))).rejects.toThrow(message);
  });
});

describe('the share of a GPU', () => {
  const info: DeviceInfo = {
    name: '',
    isa: '',
    kind: 'cuda',
    index: 0,
    threadCount: 0,
    totalBytes: 1000,
    freeBytes: 1000,
  };

  it('is divided evenly among workers that load one after the other, and the same again after a restart', () => {
    const own = 100; // of each worker, its cache aside
    const others = 60; // of other programs
    let used = others;
    const parts: number[] = [];
    for (let loadedCount = 0; loadedCount < 3; loadedCount++) {
      used += own;
      parts.push(gpuKvBytes(info, { share: 0.9, workerCount: 3, loadedCount }, used));
      used += parts[loadedCount] ?? 0;
      expect(used).toBeLessThanOrEqual(900 + 1e-6);
    }
    expect(parts).toEqual([140, 200, 200].map((bytes) => expect.closeTo(bytes, 6)));
    used -= own + (parts[1] ?? 0);
    expect(gpuKvBytes(info, { share: 0.9, workerCount: 3, loadedCount: 2 }, used + own)).toBeCloseTo(200, 6);
  });

  it('is refused with a reason when nothing is left', () => {
    const share = { share: 0.5, workerCount: 2, loadedCount: 0 };
    expect(() => gpuKvBytes({ ...info, totalBytes: 8 * 2 ** 30 }, share, 3 * 2 ** 30)).toThrow(
      /GPU 0: nothing is left for the KV cache: .* 3.0 GiB, and the 50 % of it that 1 of 2 workers may fill are 2.0 GiB/,
    );
  });
});
