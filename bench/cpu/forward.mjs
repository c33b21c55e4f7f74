/* The model's forward pass alone: batches made by hand in host memory (which a CPU device reads as its own),
 *  no scheduler, no sampling.
   Used by twostroke-side.mjs and profile.mjs. Keys and values of the decode prompts are random: their number
   costs time, not their meaning. */
import { offsetPointer } from '#built/device/tensor.js';
import { KvCache } from '#built/kv/kv-cache.js';
import { batchCountMax, promptIds, promptTokenCount } from './workload.mjs';

/** Sequence s owns blocks s * blocksEach .. (s + 1) * blocksEach - 1. */
export function createForwardRunner({
  device,
  model,
  layout,
  maxModelTokenCount,
  stream = device.createStream(),
}) {
  const blocksEach = layout.blockCountFor(maxModelTokenCount);
  const blockTokenCount = layout.shape.blockTokenCount;
  const cache = new KvCache(device, layout, batchCountMax * blocksEach);
  const cacheBytes = batchCountMax * blocksEach * layout.blockBytes;
  stream.random({ pointer: cache.pointer, shape: [cacheBytes / 2], dtype: 'bf16' }, 1, 1, 0);
  const arrays = createArrays(device, blocksEach);
  arrays.blockTable.values.set(Array.from({ length: batchCountMax * blocksEach }, (_, block) => block));

  /** rows: [{ sequence, position, id }], sequence by sequence */
  async function run(rows, sequences) {
    const slotOf = ({ sequence, position }) => sequence * blocksEach * blockTokenCount + position;
    arrays.ids.values.set(rows.map((row) => row.id));
    arrays.positions.values.set(rows.map((row) => row.position));
    arrays.slots.values.set(rows.map(slotOf));
    const queryCount = rows.length / sequences.length;
    arrays.queryStart.values.set(
      Array.from({ length: sequences.length + 1 }, (_, index) => index * queryCount),
    );
    const keyCounts = sequences.map((_, index) => rows[(index + 1) * queryCount - 1].position + 1);
    arrays.kvCount.values.set(keyCounts);
    arrays.logitRows.values.set(sequences.map((_, index) => (index + 1) * queryCount - 1));
    const view = {
      rowCount: rows.length,
      sequenceCount: sequences.length,
      blockTableStride: blocksEach,
      queryCountMax: queryCount,
      kvCountMax: Math.max(...keyCounts),
      positions: arrays.positions.pointer,
      slots: arrays.slots.pointer,
      queryStart: arrays.queryStart.pointer,
      kvCount: arrays.kvCount.pointer,
      blockTable: arrays.blockTable.pointer,
    };
    const { ids, lastTokens, logitRows } = arrays;
    const batch = { view, ids: ids.pointer, lastTokens: lastTokens.pointer, logitRows: logitRows.pointer };
    model.forward(stream, { ...batch, logitRowCount: sequences.length }, cache);
    await stream.wait();
  }

  return {
    async prefill(seed) {
      const rows = promptIds(seed).map((id, position) => ({ sequence: 0, position, id }));
      const started = performance.now();
      await run(rows, [0]);
      return { ms: performance.now() - started, tokenCount: promptTokenCount };
    },
    async decode(batchCount, stepCount) {
      const sequences = Array.from({ length: batchCount }, (_, sequence) => sequence);
      const started = performance.now();
      for (let step = 0; step < stepCount; step++) {
        const position = promptTokenCount + step;
        const rows = sequences.map((sequence) => ({ sequence, position, id: 100 + sequence }));
        await run(rows, sequences);
      }
      return { ms: performance.now() - started, tokenCount: batchCount * stepCount };
    },
  };
}

/** One int32 array a field, in one piece of host memory. */
function createArrays(device, blocksEach) {
  const counts = {
    ids: promptTokenCount,
    positions: promptTokenCount,
    slots: promptTokenCount,
    queryStart: batchCountMax + 1,
    kvCount: batchCountMax,
    blockTable: batchCountMax * blocksEach,
    lastTokens: batchCountMax,
    logitRows: batchCountMax,
  };
  const total = Object.values(counts).reduce((sum, count) => sum + count, 0);
  const buffer = device.allocateHost(total * 4);
  let offset = 0;
  const arrays = {};
  for (const [name, count] of Object.entries(counts)) {
    const values = new Int32Array(buffer.bytes.buffer, buffer.bytes.byteOffset + offset, count);
    arrays[name] = { pointer: offsetPointer(buffer.pointer, offset), values };
    offset += count * 4;
  }
  return arrays;
}
