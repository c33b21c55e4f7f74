/** Streams, events, graphs, memory and errors of the native runtime. No test depends on how long anything
 *  takes. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { DeviceError } from '../../src/base/errors.js';
import type { BatchView, KvLayerView, Stream } from '../../src/device/device.js';
import { loadLibrary, openDevice } from '../../src/device/native.js';
import { ensureLibrary } from '../../src/device/native-library.js';
import type { Pointer, Tensor } from '../../src/device/tensor.js';
import { offsetPointer } from '../../src/device/tensor.js';
import { availableIsas, Bench, cpu } from './tensors.js';

const open: Bench[] = [];
const bench = (threadCount = 2): Bench => {
  const made = new Bench({ threadCount });
  open.push(made);
  return made;
};
afterEach(() => {
  for (const made of open.splice(0)) made.close();
});

/** Makes the stream fail while running: attention over more keys than a sequence's table holds. */
function failLater(b: Bench, stream: Stream, kvCounts: readonly number[] = [9]): void {
  const count = kvCounts.length;
  const [headDim, blockTokenCount] = [8, 8];
  const layer: KvLayerView = {
    base: b.f32(new Float32Array(2 * headDim * blockTokenCount)).pointer,
    blockBytes: 512,
    keyOffset: 0,
    valueOffset: 256,
    dtype: 'f32',
    blockTokenCount,
    kvHeadCount: 1,
    headDim,
    blockCount: 1,
  };
  const zeros = b.i32(new Int32Array(count)).pointer;
  const batch: BatchView = {
    rowCount: count,
    sequenceCount: count,
    blockTableStride: 1,
    queryCountMax: 1,
    kvCountMax: 9,
    positions: zeros,
    slots: zeros,
    queryStart: b.i32(Array.from({ length: count + 1 }, (_, i) => i)).pointer,
    kvCount: b.i32(kvCounts).pointer,
    blockTable: zeros,
  };
  const qkv = b.f32(new Float32Array(3 * headDim * count), [count, 3 * headDim]);
  const options = { headCount: 1, scale: 1, window: 0, softcap: 0 };
  stream.ops.pagedAttention(b.poisoned([count, headDim]), qkv, layer, batch, options);
}

/** Work of some milliseconds. */
function busy(b: Bench, stream: Stream): Tensor {
  const x = b.f32(new Float32Array(1 << 18), [1 << 8, 1 << 10]);
  for (let i = 0; i < 40; i++) stream.ops.softcap(x, 1 << 8, 3);
  return x;
}

describe('stream', () => {
  it.each([1, 2, 5])('runs what is enqueued in order, on %i threads', async (threadCount) => {
    const b = bench(threadCount);
    const x = b.f32(new Float32Array(100_000).fill(1));
    for (let i = 0; i < 20; i++) b.stream.ops.add(x, x, 1);
    await b.stream.wait();
    expect(b.floats(x).every((value) => value === 2 ** 20)).toBe(true);
  });

  it('takes many small operations without losing one', async () => {
    const b = bench();
    const [x, one] = [b.f32([0]), b.f32([1])];
    for (let round = 1; round <= 5; round++) {
      for (let i = 0; i < 20_000; i++) b.stream.ops.add(x, one, 1);
      await b.stream.wait();
      expect(b.floats(x)[0]).toBe(20_000 * round);
    }
  });

  it('wakes up from sleep each time', async () => {
    const b = bench();
    const [x, one] = [b.f32(new Float32Array(40_000)), b.f32(new Float32Array(40_000).fill(1))];
    for (let i = 0; i < 100; i++) {
      b.stream.ops.add(x, one, 1);
      await b.stream.wait();
      if (i % 10 === 0) await systemClock.sleep(2); // long enough for stream and helpers to sleep
    }
    expect(b.floats(x).every((value) => value === 100)).toBe(true);
  });

  it('shares the helpers with another stream that computes at the same time', async () => {
    const b = bench(3);
    const streams = [b.stream, b.device.createStream(), b.device.createStream()];
    const sums = streams.map(() => b.f32(new Float32Array(50_000)));
    const one = b.f32(new Float32Array(50_000).fill(1));
    for (let i = 0; i < 300; i++) {
      for (const [s, stream] of streams.entries()) stream.ops.add(sums[s] as Tensor, one, 1);
    }
    await Promise.all(streams.map((stream) => stream.wait()));
    for (const sum of sums) expect(b.floats(sum).every((value) => value === 300)).toBe(true);
  });

  it('finishes what is enqueued before it closes', () => {
    const b = bench();
    const stream = b.device.createStream();
    const [x, one] = [b.f32([0]), b.f32([1])];
    for (let i = 0; i < 1000; i++) stream.ops.add(x, one, 1);
    stream.close();
    expect(b.floats(x)[0]).toBe(1000);
    expect(() => stream.zero(x.pointer, 4)).toThrow(/closed stream/);
    expect(() => stream.ops.add(x, one, 1)).toThrow(/closed stream/);
  });

  it('never blocks the event loop while it waits', async () => {
    const b = bench();
    let turns = 0;
    busy(b, b.stream);
    let isDone = false;
    const waiting = b.stream.wait().then(() => {
      isDone = true;
    });
    while (!isDone) {
      turns++;
      await systemClock.yield();
    }
    await waiting;
    expect(turns).toBeGreaterThan(1);
  });
});

describe('event', () => {
  it('is reached when nothing was recorded, and again after each record', async () => {
    const b = bench();
    const event = b.device.createEvent();
    expect(b.device.isReached(event)).toBe(true);
    await b.device.waitEvent(event);
    for (let i = 0; i < 3; i++) {
      const x = busy(b, b.stream);
      b.stream.ops.add(x, x, 1 << 8);
      b.stream.record(event);
      await b.device.waitEvent(event);
      expect(b.device.isReached(event)).toBe(true);
    }
    b.device.destroyEvent(event);
  });

  it('orders two streams', async () => {
    const b = bench();
    const [first, second] = [b.device.createStream(), b.device.createStream()];
    const [ping, pong] = [b.device.createEvent(), b.device.createEvent()];
    const x = b.f32([1]);
    const one = b.f32([1]);
    for (let i = 0; i < 200; i++) {
      first.ops.add(x, x, 1); // x = 2x, then x = x + 1: any other order gives another number
      first.record(ping);
      second.waitFor(ping);
      second.ops.add(x, one, 1);
      second.record(pong);
      first.waitFor(pong);
      if (i % 5 === 4) {
        first.zero(x.pointer, 4);
        first.ops.add(x, one, 1);
      }
    }
    for (let i = 0; i < 5; i++) {
      first.ops.add(x, x, 1);
      first.record(ping);
      second.waitFor(ping);
      second.ops.add(x, one, 1);
      second.record(pong);
      first.waitFor(pong);
    }
    await first.wait();
    expect(b.floats(x)[0]).toBe(63);
  });

  it('destroyed while it is waited for does no harm', async () => {
    const b = bench();
    const other = b.device.createStream();
    const event = b.device.createEvent();
    const x = busy(b, b.stream);
    b.stream.record(event);
    other.waitFor(event);
    other.ops.softcap(x, 1, 1);
    b.device.destroyEvent(event);
    await other.wait();
  });
});

describe('graph', () => {
  it('records without running and replays in order', async () => {
    const b = bench();
    const [x, one] = [b.f32([1]), b.f32([1])];
    b.stream.beginGraph();
    b.stream.ops.add(x, x, 1);
    b.stream.ops.add(x, one, 1);
    const graph = b.stream.endGraph();
    await b.stream.wait();
    expect(b.floats(x)[0]).toBe(1);
    for (let i = 0; i < 3; i++) b.stream.launch(graph);
    b.device.destroyGraph(graph); // what is launched still runs
    await b.stream.wait();
    expect(b.floats(x)[0]).toBe(15);
  });

  it('reads its tensors when it runs, so that inputs may change between launches', async () => {
    const b = bench();
    const [indices, table, out] = [b.i32([0]), b.f32([10, 20, 30], [3, 1]), b.poisoned([1, 1])];
    b.stream.beginGraph();
    b.stream.ops.gatherRows(out, table, indices.pointer, 1);
    const graph = b.stream.endGraph();
    const seen = [];
    for (const pick of [2, 0, 1]) {
      b.integers(indices)[0] = pick;
      b.stream.launch(graph);
      await b.stream.wait();
      seen.push(b.floats(out)[0]);
    }
    expect(seen).toEqual([30, 10, 20]);
    b.device.destroyGraph(graph);
  });

  it('refuses what cannot be recorded', async () => {
    const b = bench();
    const event = b.device.createEvent();
    expect(() => b.stream.endGraph()).toThrow(/not recording/);
    b.stream.beginGraph();
    expect(() => b.stream.beginGraph()).toThrow(/recording a graph already/);
    expect(() => b.stream.record(event)).toThrow(/recorded/);
    expect(() => b.stream.waitFor(event)).toThrow(/recorded/);
    await expect(b.stream.wait()).rejects.toThrow(/recorded/);
    b.device.destroyGraph(b.stream.endGraph());
    await b.stream.wait();
  });
});

describe('failure', () => {
  it('sticks to the stream, skips what is behind it, and is reported by events and then by wait', async () => {
    const b = bench();
    const event = b.device.createEvent();
    const [x, one] = [b.f32([0]), b.f32([1])];
    failLater(b, b.stream);
    b.stream.ops.add(x, one, 1);
    b.stream.record(event);
    await expect(b.device.waitEvent(event)).rejects.toThrow(/sequence 0 has 9 keys/);
    await expect(b.device.waitEvent(event)).rejects.toThrow(DeviceError);
    await expect(b.stream.wait()).rejects.toThrow(/sequence 0 has 9 keys/);
    expect(b.floats(x)[0]).toBe(0);
    b.stream.ops.add(x, one, 1);
    b.stream.record(event);
    await b.device.waitEvent(event);
    await b.stream.wait();
    expect(b.floats(x)[0]).toBe(1);
  });

  it('follows an event to the stream that waits for it', async () => {
    const b = bench();
    const other = b.device.createStream();
    const event = b.device.createEvent();
    const [x, one] = [b.f32([0]), b.f32([1])];
    failLater(b, b.stream);
    b.stream.record(event);
    other.waitFor(event);
    other.ops.add(x, one, 1);
    await expect(other.wait()).rejects.toThrow(/sequence 0 has 9 keys/);
    expect(b.floats(x)[0]).toBe(0);
  });

  it('inside a graph stops the graph', async () => {
    const b = bench();
    const [x, one] = [b.f32([0]), b.f32([1])];
    b.stream.beginGraph();
    b.stream.ops.add(x, one, 1);
    failLater(b, b.stream);
    b.stream.ops.add(x, one, 1);
    const graph = b.stream.endGraph();
    b.stream.launch(graph);
    await expect(b.stream.wait()).rejects.toThrow(/sequence 0 has 9 keys/);
    expect(b.floats(x)[0]).toBe(1);
    b.device.destroyGraph(graph);
  });

  it('in a helper thread reaches the stream', async () => {
    const b = bench(4);
    failLater(b, b.stream, new Array<number>(4096).fill(8).with(4000, 9));
    await expect(b.stream.wait()).rejects.toThrow(/sequence 4000 has 9 keys, its table holds 8/);
  });
});

describe('memory', () => {
  it('allocates zeroed, aligned memory, small and large, and frees it once', async () => {
    const b = bench();
    for (const bytes of [1, 100, 5000, (1 << 20) + 3, 5 << 20]) {
      const pointer = b.device.allocate(bytes);
      expect(pointer % 256).toBe(0);
      const copy = b.device.allocateHost(bytes);
      copy.bytes.fill(1);
      b.stream.copy(copy.pointer, pointer, bytes);
      await b.stream.wait();
      expect(copy.bytes.every((byte) => byte === 0)).toBe(true);
      b.device.release(pointer);
      expect(() => b.device.release(pointer)).toThrow(/not allocated|free already/);
      b.device.releaseHost(copy);
    }
  });

  it('refuses more than there is', () => {
    const b = bench();
    expect(() => b.device.allocate(2 ** 52)).toThrow(/no memory for 4503599627370496 bytes/);
    expect(() => b.device.allocateHost(2 ** 32)).toThrow(/4 GiB/);
  });

  it('copies overlapping ranges and zeroes exactly what it is told', async () => {
    const b = bench();
    const x = b.f32([1, 2, 3, 4, 5, 6, 7, 8]);
    b.stream.copy(offsetPointer(x.pointer, 8), x.pointer, 16);
    b.stream.zero(offsetPointer(x.pointer, 28), 4);
    await b.stream.wait();
    expect([...b.floats(x)]).toEqual([1, 2, 1, 2, 3, 4, 7, 0]);
  });

  it('maps files read-only and says what is wrong with those it cannot', () => {
    const b = bench();
    const folder = mkdtempSync(path.join(tmpdir(), 'twostroke-map-'));
    const file = path.join(folder, 'weights');
    writeFileSync(file, Buffer.from(Float32Array.of(1.5, 2.5).buffer));
    const mapped = b.device.mapFile(file);
    const out = b.poisoned([2]);
    b.stream.copy(out.pointer, mapped.pointer, mapped.byteCount);
    return b.stream.wait().then(() => {
      expect([...b.floats(out)].slice(0, 2)).toEqual([1.5, 2.5]);
      mapped.close();
      writeFileSync(file, '');
      expect(() => b.device.mapFile(file)).toThrow(/weights: it is empty/);
      expect(() => b.device.mapFile(folder)).toThrow(/not a file/);
      expect(() => b.device.mapFile(path.join(folder, 'absent'))).toThrow(/absent: No such file/);
      rmSync(folder, { recursive: true });
    });
  });
});

describe('device', () => {
  it('tells what it is', () => {
    const b = bench(3);
    expect(b.device.info.threadCount).toBe(3);
    expect(b.device.info.kind).toBe('cpu');
    expect(b.device.info.name.length).toBeGreaterThan(2);
    expect(b.device.info.totalBytes).toBeGreaterThan(2 ** 28);
    expect(b.device.readFreeBytes()).toBeGreaterThan(2 ** 20);
    expect(b.device.readFreeBytes()).toBeLessThanOrEqual(b.device.info.totalBytes);
    expect(availableIsas()).toContain('scalar');
    expect(new Bench({ isa: 'scalar' }).device.info.isa).toBe('scalar');
  });

  it('accepts batch invariance, which the CPU always has', () => {
    openDevice({ ...cpu, threadCount: 1, batchInvariant: 'on' }).close();
  });

  it('refuses an index, a thread count and a library that do not exist', () => {
    expect(() => openDevice({ kind: 'cpu', index: 3 })).toThrow(/cpu device 3 does not exist/);
    expect(() => openDevice({ ...cpu, threadCount: -1 })).toThrow(/thread count -1/);
    expect(() => loadLibrary('/nowhere/libpd_cpu.so')).toThrow(/does not exist: run "npm run build"/);
  });

  it('finds the built library without compiling, and says how to get one that is not there', async () => {
    const lines: string[] = [];
    expect(await ensureLibrary('cpu', (line) => lines.push(line))).toMatch(/build\/cpu\/libpd_cpu\.so$/);
    expect(lines).toEqual([]);
    expect(() => loadLibrary(path.join(tmpdir(), 'no.so'))).toThrow(/npm run build/);
  });

  it('measures its read bandwidth off the event loop', async () => {
    const b = bench();
    expect(await b.device.measureReadBytesPerSecond(1 << 24, 2)).toBeGreaterThan(1e8);
  });

  it('closes twice, with work in flight', () => {
    const b = new Bench({ threadCount: 2 });
    busy(b, b.stream);
    b.close();
    b.close();
  });

  it('closes while streams and events are waited for', async () => {
    const b = new Bench({ threadCount: 2 });
    busy(b, b.stream);
    const event = b.device.createEvent();
    b.stream.record(event);
    const waits = [b.stream.wait(), b.device.waitEvent(event), b.stream.wait(), b.device.waitEvent(event)];
    b.device.destroyEvent(event);
    b.close();
    await Promise.all(waits);
  });

  it('refuses a null-like pointer to free', () => {
    expect(() => bench().device.release(0 as Pointer)).toThrow(/not allocated/);
  });
});
