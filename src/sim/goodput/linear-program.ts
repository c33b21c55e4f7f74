/** The largest c·x with A·x ≤ b and x ≥ 0, by the simplex method on a dense table. Used by bound.ts: some
 *  twenty rows, thousands of columns. b ≥ 0, so that x = 0 is where it starts. */
import { assert } from '../../base/assert.js';

interface LinearProgram {
  readonly objective: readonly number[];
  readonly rows: readonly { readonly coefficients: readonly number[]; readonly atMost: number }[];
}

const tolerance = 1e-9;
/** So many turns without a gain are a cycle: from then on the rule that cannot cycle. */
const stalledTurnsMax = 50;

/** Infinity where nothing limits it. */
export function maximum({ objective, rows }: LinearProgram): number {
  assert(
    rows.every(({ atMost }) => atMost >= 0),
    'a linear program starts from 0',
  );
  const columnCount = objective.length + rows.length;
  const table = rows.map(({ coefficients, atMost }, row) => {
    const line = new Float64Array(columnCount + 1);
    line.set(coefficients);
    line[objective.length + row] = 1;
    line[columnCount] = atMost;
    return line;
  });
  // what a unit of each column gains; the last: minus what has been gained
  const gains = new Float64Array(columnCount + 1);
  gains.set(objective);
  const basis = rows.map((_, row) => objective.length + row); // the column that each row stands for
  let stalledTurns = 0;
  for (;;) {
    const column = entering(gains, columnCount, stalledTurns > stalledTurnsMax);
    if (column === -1) return 0 - (gains[columnCount] as number);
    const row = leaving(table, basis, column);
    if (row === -1) return Number.POSITIVE_INFINITY;
    const before = gains[columnCount] as number;
    pivot(table, gains, row, column);
    basis[row] = column;
    stalledTurns = before - (gains[columnCount] as number) > tolerance ? 0 : stalledTurns + 1;
  }
}

/** The column that gains most; or the first that gains (Bland). −1: none does. */
function entering(gains: Float64Array, columnCount: number, isFirst: boolean): number {
  let [best, bestGain] = [-1, tolerance];
  for (let column = 0; column < columnCount; column++) {
    const gain = gains[column] as number;
    if (gain <= bestGain) continue;
    if (isFirst) return column;
    [best, bestGain] = [column, gain];
  }
  return best;
}

/** The row that is used up first; of equals the one with the first column (Bland). −1: none is. */
function leaving(table: readonly Float64Array[], basis: readonly number[], column: number): number {
  let [best, bestRatio] = [-1, Number.POSITIVE_INFINITY];
  for (const [row, line] of table.entries()) {
    const coefficient = line[column] as number;
    if (coefficient <= tolerance) continue;
    const ratio = (line[line.length - 1] as number) / coefficient;
    const isFirst = ratio === bestRatio && (basis[row] as number) < (basis[best] as number);
    if (ratio < bestRatio || isFirst) [best, bestRatio] = [row, ratio];
  }
  return best;
}

function pivot(table: readonly Float64Array[], gains: Float64Array, row: number, column: number): void {
  const source = table[row] as Float64Array;
  const scale = 1 / (source[column] as number);
  for (let i = 0; i < source.length; i++) source[i] = (source[i] as number) * scale;
  for (const line of [...table, gains]) {
    const factor = line[column] as number;
    if (line === source || factor === 0) continue;
    for (let i = 0; i < line.length; i++) line[i] = (line[i] as number) - factor * (source[i] as number);
  }
}
