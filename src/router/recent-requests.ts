/** The requests that arrangements are judged by: as many of the last ones as came under one load. Used by arranger.ts.
 *
 *  Idle time is cut short: a load that comes in bouts is judged by its bouts, not by their mean with the nights between. When rate or prompts have
 *  changed by more than chance would, older requests are forgotten.
 *  Invariant: at most `countMax` requests; their times never go back. */
import type { ReplayRequest } from './replay.js';

/** A request as it is remembered: its output's length is what was expected until it is known. */
export interface RememberedRequest extends Omit<ReplayRequest, 'outputTokenCount'> {
  outputTokenCount: number;
  /** What it was routed within. */
  readonly arrangementName?: string;
  /** Its withinLimits in reality, once it has finished. */
  realScore?: number;
}

/** What a load is, for arrangements. */
export interface LoadFacts {
  /** Requests per millisecond of busy time. */
  readonly perMs: number;
  /** Means. */
  readonly promptTokenCount: number;
  readonly outputTokenCount: number;
}

const countMax = 256;
/** A pause longer than this many mean gaps is none of the load: Poisson arrivals have one in 20,000. */
const gapRatioMax = 10;
/** A change is looked for in so many of the latest. */
const latestCounts = [32, 96] as const;
const earlierCountMin = 8;
/** Standard errors that are more than chance; it is looked for often. */
const deviationsMax = 3.5;

interface Entry {
  readonly busyMs: number;
  readonly request: RememberedRequest;
}

export class RecentRequests {
  #entries: Entry[] = [];
  #lastMs = 0;

  get count(): number {
    return this.#entries.length;
  }

  /** It may be corrected later, from outside. */
  add(request: RememberedRequest): void {
    const last = this.#entries.at(-1);
    const gapMs = Math.max(0, request.arrivalMs - this.#lastMs);
    const meanMs = this.#entries.length < 8 ? Number.POSITIVE_INFINITY : spanMs(this.#entries) / (this.#entries.length - 1);
    this.#entries.push({ busyMs: last === undefined ? 0 : last.busyMs + Math.min(gapMs, gapRatioMax * meanMs), request });
    this.#lastMs = request.arrivalMs;
    if (this.#entries.length > countMax) this.#entries.shift();
  }

  /** Forgets what came under another load. True when it has forgotten something. */
  forgetOthers(): boolean {
    for (const latestCount of latestCounts) {
      const earlier = this.#entries.slice(0, -latestCount);
      const latest = this.#entries.slice(-latestCount);
      if (earlier.length < earlierCountMin || !differ(earlier, latest)) continue;
      this.#entries = latest;
      return true;
    }
    return false;
  }

  /** With arrivals in busy time; copies. */
  get requests(): readonly RememberedRequest[] {
    return this.#entries.map(({ busyMs, request }) => ({ ...request, arrivalMs: busyMs }));
  }

  get load(): LoadFacts {
    const mean = (pick: (request: RememberedRequest) => number) => meanOf(this.#entries.map(({ request }) => pick(request)));
    return {
      perMs: Math.max(0, this.#entries.length - 1) / Math.max(1, spanMs(this.#entries)),
      promptTokenCount: mean(({ promptTokenCount }) => promptTokenCount),
      outputTokenCount: mean(({ outputTokenCount }) => outputTokenCount),
    };
  }
}

function spanMs(entries: readonly Entry[]): number {
  return (entries.at(-1)?.busyMs ?? 0) - (entries[0]?.busyMs ?? 0);
}

/** Gaps of a Poisson process have a standard deviation of their mean; prompts have what they have. */
function differ(earlier: readonly Entry[], latest: readonly Entry[]): boolean {
  const gapMs = (entries: readonly Entry[]) => Math.max(1e-3, spanMs(entries)) / (entries.length - 1);
  const rateError = Math.sqrt(1 / earlier.length + 1 / latest.length);
  if (Math.abs(Math.log(gapMs(earlier) / gapMs(latest))) > deviationsMax * rateError) return true;
  const prompts = (entries: readonly Entry[]) => entries.map(({ request }) => request.promptTokenCount);
  const [a, b] = [prompts(earlier), prompts(latest)];
  const promptError = Math.sqrt(varianceOf(a) / a.length + varianceOf(b) / b.length);
  return Math.abs(meanOf(a) - meanOf(b)) > deviationsMax * promptError;
}

function meanOf(values: readonly number[]): number {
  return values.length === 0 ? 0 : values.reduce((sum, value) => sum + value, 0) / values.length;
}

function varianceOf(values: readonly number[]): number {
  const mean = meanOf(values);
  return values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / Math.max(1, values.length - 1);
}
