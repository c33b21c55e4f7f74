/** Percentiles of a finished list of samples. */

/** Linear interpolation between closest ranks (numpy's default). `fraction` in [0, 1]; NaN for no samples. */
export function percentile(sorted: readonly number[], fraction: number): number {
  if (sorted.length === 0) return Number.NaN;
  const position = fraction * (sorted.length - 1);
  const low = Math.floor(position);
  const a = sorted[low] ?? Number.NaN;
  const b = sorted[Math.min(low + 1, sorted.length - 1)] ?? a;
  return a + (b - a) * (position - low);
}

export interface Summary {
  readonly count: number;
  readonly mean: number;
  readonly p50: number;
  readonly p90: number;
  readonly p95: number;
  readonly p99: number;
  readonly min: number;
  readonly max: number;
}

export function summarise(samples: readonly number[]): Summary {
  const sorted = [...samples].sort((a, b) => a - b);
  const mean = sorted.reduce((sum, x) => sum + x, 0) / sorted.length;
  const p = (fraction: number) => percentile(sorted, fraction);
  return { count: sorted.length, mean, p50: p(0.5), p90: p(0.9), p95: p(0.95), p99: p(0.99), min: p(0), max: p(1) };
}
