/** Lays one step's metadata out in 32-bit words, as native/pd.h reads it. Used by model-runner; pure.
 *
 *  words: ids [rows] | positions [rows] | slots [rows] | queryStart [sequences + 1] | kvCount [sequences]
 *         | blockTable [sequences, stride] | logitRows [samples] | sampleRows [samples, 20] | history |
 *  biasIds | biasValues
 *         | masks [masked samples, ceil(vocabulary / 32)]
 *
 *  A repeated shape (step-shape.ts) is padded, so that every part starts where the recorded graph reads
 *  it. */
import { at } from '../base/assert.js';
import { sampleRowBytes } from '../device/device.js';
import type { SampleTask, StepPlan } from './step-plan.js';
import type { StepShape } from './step-shape.js';

const sampleRowWords = sampleRowBytes / 4;

/** Where the parts start, in words, and what launch shapes need. */
export interface PackedLayout {
  readonly rowCount: number;
  readonly sequenceCount: number;
  readonly sampleCount: number;
  readonly blockTableStride: number;
  readonly queryCountMax: number;
  readonly kvCountMax: number;
  readonly singleQueryCount: number;
  readonly positions: number;
  readonly slots: number;
  readonly queryStart: number;
  readonly kvCount: number;
  readonly blockTable: number;
  readonly logitRows: number;
  readonly sampleRows: number;
  readonly history: number;
  readonly biasIds: number;
  readonly biasValues: number;
  readonly masks: number;
  readonly wordCount: number;
}

/** One memory seen three ways. */
export interface Words {
  readonly i32: Int32Array;
  readonly u32: Uint32Array;
  readonly f32: Float32Array;
}

/** Field by field: spreading objects costs microseconds, and this runs every step.
 *  `shape`: the repeated shape that a pure decode step is padded to (see step-shape.ts); null: exactly what
 *  the plan has. */
export function layoutOf(plan: StepPlan, shape: StepShape | null): PackedLayout {
  if (shape !== null) {
    const { rowCount, blockTableStride, kvCountMax, maskWordCount } = shape;
    return place({
      rowCount,
      sequenceCount: rowCount,
      sampleCount: rowCount,
      blockTableStride,
      queryCountMax: 1,
      kvCountMax,
      singleQueryCount: rowCount,
      historyCount: 0,
      biasCount: 0,
      maskWordCount,
    });
  }
  let stride = 1;
  let queryCountMax = 1;
  let kvCountMax = 1;
  let singleQueryCount = 0;
  let historyCount = 0;
  let biasCount = 0;
  let maskWordCount = 0;
  for (const { sequence, firstToken, endToken } of plan.entries) {
    stride = Math.max(stride, sequence.blockIds.length);
    queryCountMax = Math.max(queryCountMax, endToken - firstToken);
    kvCountMax = Math.max(kvCountMax, endToken);
    if (endToken - firstToken === 1) singleQueryCount++;
  }
  for (const { choice, task } of plan.samples) {
    if (task.kind === 'score') continue;
    if (choice.request.needsHistory) historyCount += choice.knownCount;
    biasCount += choice.request.biasesAt(task.drawIndex).size;
    maskWordCount += choice.maskWordCount;
  }
  return place({
    rowCount: plan.rowCount,
    sequenceCount: plan.entries.length,
    sampleCount: plan.samples.length,
    blockTableStride: stride,
    queryCountMax,
    kvCountMax,
    singleQueryCount,
    historyCount,
    biasCount,
    maskWordCount,
  });
}

type Counts = Pick<
  PackedLayout,
  | 'rowCount'
  | 'sequenceCount'
  | 'sampleCount'
  | 'blockTableStride'
  | 'queryCountMax'
  | 'kvCountMax'
  | 'singleQueryCount'
> & {
  readonly historyCount: number;
  readonly biasCount: number;
  readonly maskWordCount: number;
};

function place(counts: Counts): PackedLayout {
  const {
    rowCount,
    sequenceCount,
    sampleCount,
    blockTableStride,
    queryCountMax,
    kvCountMax,
    singleQueryCount,
  } = counts;
  const queryStart = 3 * rowCount;
  const kvCount = queryStart + sequenceCount + 1;
  const blockTable = kvCount + sequenceCount;
  const logitRows = blockTable + sequenceCount * blockTableStride;
  const sampleRows = logitRows + sampleCount;
  const history = sampleRows + sampleCount * sampleRowWords;
  const biasIds = history + counts.historyCount;
  const biasValues = biasIds + counts.biasCount;
  return {
    rowCount,
    sequenceCount,
    sampleCount,
    blockTableStride,
    queryCountMax,
    kvCountMax,
    singleQueryCount,
    positions: rowCount,
    slots: 2 * rowCount,
    queryStart,
    kvCount,
    blockTable,
    logitRows,
    sampleRows,
    history,
    biasIds,
    biasValues,
    masks: biasValues + counts.biasCount,
    wordCount: biasValues + counts.biasCount + counts.maskWordCount,
  };
}

/** Writes the plan into `words`, which has room for `layout.wordCount`. */
export function packPlan(plan: StepPlan, layout: PackedLayout, words: Words, blockTokenCount: number): void {
  packRows(plan, layout, words.i32, blockTokenCount);
  packSamples(plan, layout, words);
  for (let index = plan.samples.length; index < layout.sampleCount; index++)
    packPadding(index, layout, words);
}

/** A row that computes nothing anyone reads: no key, no slot, a greedy draw that goes nowhere. Row, sequence
 *  and sample `index` at once. */
function packPadding(index: number, layout: PackedLayout, { i32, f32 }: Words): void {
  i32[index] = 0;
  i32[layout.positions + index] = 0;
  i32[layout.slots + index] = -1;
  i32[layout.queryStart + index + 1] = index + 1;
  i32[layout.kvCount + index] = 0;
  i32[layout.logitRows + index] = index;
  const start = layout.sampleRows + index * sampleRowWords;
  i32.fill(0, start, start + sampleRowWords);
  f32[start + 1] = 1; // top_p off
  f32[start + 4] = 1; // repetition penalty off
  i32[start + 15] = -1; // no mask
  i32[start + 17] = -1; // no target
  i32[start + 18] = -1; // no batchSlot
}

function packRows(plan: StepPlan, layout: PackedLayout, i32: Int32Array, blockTokenCount: number): void {
  let row = 0;
  let table = layout.blockTable;
  plan.entries.forEach(({ sequence, firstToken, endToken }, index) => {
    const { blockIds } = sequence;
    i32[layout.queryStart + index] = row;
    i32[layout.kvCount + index] = endToken;
    for (let position = firstToken; position < endToken; position++, row++) {
      i32[row] = sequence.inputAt(position);
      i32[layout.positions + row] = position;
      const offset = position % blockTokenCount;
      i32[layout.slots + row] =
        at(blockIds, (position - offset) / blockTokenCount) * blockTokenCount + offset;
    }
    const tableEnd = table + layout.blockTableStride;
    i32.set(blockIds, table);
    i32.fill(-1, table + blockIds.length, tableEnd);
    table = tableEnd;
  });
  i32[layout.queryStart + plan.entries.length] = row;
}

function packSamples(plan: StepPlan, layout: PackedLayout, words: Words): void {
  const { i32 } = words;
  let historyIndex = 0;
  let biasIndex = 0;
  let maskIndex = 0;
  plan.samples.forEach((sample, index) => {
    const { choice, task } = sample;
    i32[layout.logitRows + index] = sample.row;
    const historyStart = historyIndex;
    const biasStart = biasIndex;
    if (task.kind === 'draw') {
      if (choice.request.needsHistory) {
        for (let p = 0; p < choice.knownCount; p++) i32[layout.history + historyIndex++] = choice.tokenAt(p);
      }
      for (const [id, value] of choice.request.biasesAt(task.drawIndex)) {
        i32[layout.biasIds + biasIndex] = id;
        words.f32[layout.biasValues + biasIndex++] = value;
      }
    }
    const maskStart = task.kind === 'draw' && choice.maskWordCount > 0 ? maskIndex : -1;
    if (maskStart >= 0) maskIndex += packMask(choice, words.u32, layout.masks + maskIndex);
    const place = {
      historyStart,
      historyCount: historyIndex - historyStart,
      biasStart,
      biasCount: biasIndex - biasStart,
      maskStart,
    };
    packSampleRow(sample, layout.sampleRows + index * sampleRowWords, words, place);
  });
}

/** What its grammar allows of what its request allows. Returns how many words it takes. */
function packMask({ masks, request }: SampleTask['choice'], u32: Uint32Array, start: number): number {
  const [first, second] = [masks?.words ?? null, request.allowedWords].filter((words) => words !== null);
  if (first === undefined) return 0;
  u32.set(first, start);
  if (second !== undefined)
    for (let i = 0; i < second.length; i++) u32[start + i] = at(first, i) & at(second, i);
  return first.length;
}

interface SamplePlace {
  readonly historyStart: number;
  readonly historyCount: number;
  readonly biasStart: number;
  readonly biasCount: number;
  /** -1: no mask. */
  readonly maskStart: number;
}

/** PdSampleRow, field by field in the order of native/pd.h. */
function packSampleRow(
  { choice, task }: SampleTask,
  start: number,
  { i32, u32, f32 }: Words,
  place: SamplePlace,
): void {
  const { sampling } = choice.request;
  const seed = sampling.seed + choice.choiceIndex;
  const promptCount = Math.min(choice.promptCount, place.historyCount);
  f32[start] = sampling.temperature;
  f32[start + 1] = sampling.topP;
  f32[start + 2] = sampling.minP;
  i32[start + 3] = Math.min(sampling.topK, 2 ** 31 - 1);
  f32[start + 4] = sampling.repetitionPenalty;
  f32[start + 5] = sampling.presencePenalty;
  f32[start + 6] = sampling.frequencyPenalty;
  u32[start + 7] = seed >>> 0;
  u32[start + 8] = Math.floor(seed / 2 ** 32) >>> 0;
  u32[start + 9] = task.kind === 'draw' ? task.drawIndex : 0;
  i32[start + 10] = place.historyStart;
  i32[start + 11] = promptCount;
  i32[start + 12] = place.historyCount - promptCount;
  i32[start + 13] = place.biasStart;
  i32[start + 14] = place.biasCount;
  i32[start + 15] = place.maskStart;
  i32[start + 16] = (task.kind === 'draw' ? sampling.topLogprobCount : sampling.promptLogprobCount) ?? 0;
  i32[start + 17] = task.kind === 'draw' ? -1 : task.target;
  i32[start + 18] = task.kind === 'draw' ? (choice.batchSlot ?? -1) : -1;
  i32[start + 19] = 0;
}
