/** A model beside a golden: greedy generation, and teacher forcing for what is less precise than float32.
 *  Used by the tests of this folder. */
import { at } from '../../src/base/assert.js';
import { argmax, type GoldenCase, type Harness, logSoftmax, readGolden } from './harness.js';

export const isFull = process.env.TWOSTROKE_TEST === 'full';

interface Agreement {
  /** Positions with a gap of at least the threshold whose best token is another one. */
  readonly wrongCount: number;
  readonly checkedCount: number;
  /** |log-probability - golden| of the top-5 entries above the floor, ascending. */
  readonly errors: readonly number[];
}

/** Each position's logits while the goldens' tokens are fed. */
export async function compare(
  harness: Harness,
  cases: readonly GoldenCase[],
  gapThreshold: number,
  logprobFloor = Number.NEGATIVE_INFINITY,
): Promise<Agreement> {
  const errors: number[] = [];
  let wrongCount = 0;
  let checkedCount = 0;
  for (const golden of cases) {
    const { prompt_ids: prompt, continuation_ids: continuation } = golden;
    const sequence = harness.start(prompt.length + continuation.length);
    await harness.prefill(sequence, prompt.slice(0, -1), 512, 'last');
    const rows = await harness.prefill(
      sequence,
      [...prompt.slice(-1), ...continuation.slice(0, -1)],
      512,
      'all',
    );
    for (const [position, row] of rows.entries()) {
      if (at(golden.gaps, position) >= gapThreshold) {
        checkedCount++;
        if (argmax(row) !== at(continuation, position)) wrongCount++;
      }
      const { ids = [], logprobs = [] } = golden.top5[position] ?? {};
      const found = ids.length > 0 ? logSoftmax(row) : row;
      for (const [i, id] of ids.entries()) {
        if (at(logprobs, i) > logprobFloor) errors.push(Math.abs(at(found, id) - at(logprobs, i)));
      }
    }
  }
  return { wrongCount, checkedCount, errors: errors.sort((a, b) => a - b) };
}

export const median = (sorted: readonly number[]) => at(sorted, Math.floor(sorted.length / 2));
export const most = (sorted: readonly number[]) => at(sorted, sorted.length - 1);
export const casesOf = (folder: string) =>
  readGolden(folder).cases.filter(({ prompt_ids }) => isFull || prompt_ids.length < 1500);
export const maxTokenCountOf = (cases: readonly GoldenCase[]) =>
  Math.max(...cases.map(({ prompt_ids, continuation_ids }) => prompt_ids.length + continuation_ids.length));

/** Greedy generation of the golden's length; `rows` are log-probabilities at each position of the
 *  continuation. */
export async function runGreedy(harness: Harness, golden: GoldenCase) {
  const { prompt_ids: prompt, continuation_ids: continuation } = golden;
  const sequence = harness.start(prompt.length + continuation.length);
  const promptRows = await harness.prefill(sequence, prompt, 200, 'all');
  const promptLogprob = prompt
    .slice(1)
    .reduce((sum, id, i) => sum + at(logSoftmax(at(promptRows, i)), id), 0);
  const rows: Float64Array[] = [];
  const ids: number[] = [];
  let logits = at(promptRows, prompt.length - 1);
  for (;;) {
    const row = logSoftmax(logits);
    rows.push(row);
    ids.push(argmax(logits));
    if (ids.length === continuation.length) break;
    logits = at(await harness.step([{ sequence, ids: ids.slice(-1), logits: 'last' }]), 0);
  }
  return { ids, rows, promptLogprob, logprobs: ids.map((id, i) => at(at(rows, i), id)) };
}

/** The ids of the `count` largest, best first. */
export function best(row: Float64Array, count: number): number[] {
  return [...row.keys()].sort((a, b) => at(row, b) - at(row, a)).slice(0, count);
}
