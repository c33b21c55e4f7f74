/** PdSampleRow records, one call of the sampling op, and a plain float64 reference of what it should keep.
 *  For the sampling tests. */
import { sampleRowBytes, topLogprobsMax } from '../../src/device/device.js';
import type { Tensor } from '../../src/device/tensor.js';
import type { Bench } from './tensors.js';

export interface Row {
  readonly temperature?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly topK?: number;
  readonly repetition?: number;
  readonly presence?: number;
  readonly frequency?: number;
  readonly seed?: number;
  readonly drawIndex?: number;
  readonly prompt?: readonly number[];
  readonly output?: readonly number[];
  readonly bias?: readonly (readonly [number, number])[];
  readonly allowed?: readonly number[]; // a mask; absent: all
  readonly topCount?: number;
  readonly target?: number;
  readonly slot?: number;
}

export interface Sampled {
  readonly tokens: number[];
  readonly logprobs: number[];
  readonly topIds: number[][];
  readonly topLogprobs: number[][];
  readonly lastTokens: number[];
}

export async function sample(b: Bench, logits: Tensor, rows: readonly Row[]): Promise<Sampled> {
  const vocab = logits.shape[1] as number;
  const records = new DataView(new ArrayBuffer(rows.length * sampleRowBytes));
  const history: number[] = [];
  const biasIds: number[] = [];
  const biasValues: number[] = [];
  const masks: number[] = [];
  rows.forEach((row, r) => {
    const floats = [row.temperature ?? 0, row.topP ?? 1, row.minP ?? 0];
    const penalties = [row.repetition ?? 1, row.presence ?? 0, row.frequency ?? 0];
    const seed = row.seed ?? 0;
    const at = r * sampleRowBytes;
    for (const [i, value] of floats.entries()) records.setFloat32(at + 4 * i, value, true);
    records.setInt32(at + 12, row.topK ?? 0, true);
    for (const [i, value] of penalties.entries()) records.setFloat32(at + 16 + 4 * i, value, true);
    const integers = [seed % 2 ** 32, Math.floor(seed / 2 ** 32), row.drawIndex ?? 0, history.length];
    integers.push(row.prompt?.length ?? 0, row.output?.length ?? 0, biasIds.length, row.bias?.length ?? 0);
    integers.push(
      row.allowed === undefined ? -1 : masks.length,
      row.topCount ?? 0,
      row.target ?? -1,
      row.slot ?? -1,
      0,
    );
    for (const [i, value] of integers.entries()) records.setInt32(at + 28 + 4 * i, value, true);
    history.push(...(row.prompt ?? []), ...(row.output ?? []));
    biasIds.push(...(row.bias ?? []).map(([id]) => id));
    biasValues.push(...(row.bias ?? []).map(([, value]) => value));
    if (row.allowed !== undefined) {
      const words = new Uint32Array(Math.ceil(vocab / 32));
      for (const id of row.allowed) words[id >> 5] = (words[id >> 5] as number) | (1 << (id & 31));
      masks.push(...words);
    }
  });
  const out = {
    lastTokens: b.poisoned([rows.length], 'i32'),
    tokens: b.poisoned([rows.length], 'i32'),
    logprobs: b.poisoned([rows.length]),
    topIds: b.poisoned([rows.length, topLogprobsMax], 'i32'),
    topLogprobs: b.poisoned([rows.length, topLogprobsMax]),
  };
  const addresses = Object.fromEntries(Object.entries(out).map(([name, tensor]) => [name, tensor.pointer]));
  b.stream.ops.sample({
    logits,
    rowCount: rows.length,
    rows: b.i32(new Int32Array(records.buffer)).pointer,
    history: b.i32(history).pointer,
    biasIds: b.i32(biasIds).pointer,
    biasValues: b.f32(biasValues).pointer,
    masks: b.i32(masks).pointer,
    ...(addresses as Record<keyof typeof out, Tensor['pointer']>),
  });
  await b.stream.wait();
  const perRow = (values: Float32Array | Int32Array) =>
    rows.map((_, r) => [...values.subarray(r * topLogprobsMax, (r + 1) * topLogprobsMax)]);
  return {
    tokens: [...b.integers(out.tokens)].slice(0, rows.length),
    logprobs: [...b.floats(out.logprobs)].slice(0, rows.length),
    topIds: perRow(b.integers(out.topIds)),
    topLogprobs: perRow(b.floats(out.topLogprobs)),
    lastTokens: [...b.integers(out.lastTokens)].slice(0, rows.length),
  };
}

/** [count, vocab], every row `logits`. */
export function repeated(b: Bench, logits: readonly number[], count: number): Tensor {
  const values = new Float32Array(count * logits.length);
  for (let r = 0; r < count; r++) values.set(logits, r * logits.length);
  return b.f32(values, [count, logits.length]);
}

/** `draws` tokens from equal rows, in batches of the tensor's rows, with draw indices 0, 1, 2, ... */
export async function drawMany(b: Bench, logits: Tensor, row: Row, draws: number): Promise<number[]> {
  const batch = logits.shape[0] as number;
  const tokens: number[] = [];
  for (let i = 0; i < draws; i += batch) {
    const rows = Array.from({ length: batch }, (_, j) => ({ ...row, drawIndex: i + j }));
    tokens.push(...(await sample(b, logits, rows)).tokens);
  }
  return tokens;
}

/** log-softmax in float64. */
export function logSoftmax(logits: ArrayLike<number>): number[] {
  const values = Array.from(logits);
  const best = values.reduce((a, v) => Math.max(a, v), Number.NEGATIVE_INFINITY);
  const sum = values.reduce((total, value) => total + Math.exp(value - best), 0);
  return values.map((value) => value - best - Math.log(sum));
}

/** The distribution that is drawn from, in float64: temperature, then top-k, top-p and min-p, each on what is
 *  left. */
export function keptProbabilities(logits: ArrayLike<number>, row: Row): Map<number, number> {
  const scaled = Array.from(logits, (value) => value / (row.temperature ?? 1));
  const best = scaled.reduce((a, v) => Math.max(a, v), Number.NEGATIVE_INFINITY);
  let kept = scaled
    .map((value, id) => ({ id, weight: Math.exp(value - best), value }))
    .filter(({ weight }) => weight > 0);
  kept.sort((a, b) => b.value - a.value || a.id - b.id);
  if ((row.topK ?? 0) > 0) kept = kept.slice(0, row.topK);
  if ((row.topP ?? 1) < 1) {
    const enough = (row.topP ?? 1) * kept.reduce((sum, { weight }) => sum + weight, 0);
    let sum = 0;
    kept = kept.filter(({ weight }) => {
      const isNeeded = sum < enough;
      sum += weight;
      return isNeeded;
    });
  }
  kept = kept.filter(({ weight }) => weight >= (row.minP ?? 0));
  const total = kept.reduce((sum, { weight }) => sum + weight, 0);
  return new Map(kept.map(({ id, weight }) => [id, weight / total]));
}
