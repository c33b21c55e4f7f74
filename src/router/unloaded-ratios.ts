/** What a request took that had the whole system to itself, against what the costs say of an idle worker:
 *  whoever states SLOs in multiples of the one gets the other from the profile, and between them lie event
 *  loops, clients and processors that wake up. Used by worker-costs.ts, one for each kind of worker; read by
 *  default-slo.ts.
 *  Invariant: bounded memory; a median moves by no single request, and stays within its bounds. */
import { percentile } from '../base/percentiles.js';

/** Real time over what the costs say, of a first token and of a token after that. */
export interface UnloadedRatios {
  readonly ttft: number;
  readonly tpot: number;
}

export const asCosted: UnloadedRatios = { ttft: 1, tpot: 1 };

/** The last ones that were alone; fewer say nothing yet. */
const recentCount = 32;
const recentCountMin = 4;
/** Beyond these the costs are wrong, not the system: SLOs do not follow. */
const [ratioMin, ratioMax] = [0.8, 2];

export class UnloadedTimes {
  readonly #ttft: number[] = [];
  readonly #tpot: number[] = [];
  #ratios = asCosted;

  get ratios(): UnloadedRatios {
    return this.#ratios;
  }

  /** null: that part was not what an idle worker computes (its prompt was cached), or too short to tell. */
  observe({ ttft, tpot }: { readonly ttft: number | null; readonly tpot: number | null }): void {
    if (ttft !== null) keep(this.#ttft, ttft);
    if (tpot !== null) keep(this.#tpot, tpot);
    this.#ratios = { ttft: medianOf(this.#ttft), tpot: medianOf(this.#tpot) };
  }
}

function keep(recent: number[], ratio: number): void {
  recent.push(ratio);
  if (recent.length > recentCount) recent.shift();
}

function medianOf(recent: readonly number[]): number {
  if (recent.length < recentCountMin) return 1;
  const sorted = [...recent].sort((a, b) => a - b);
  return Math.max(ratioMin, Math.min(ratioMax, percentile(sorted, 0.5)));
}
