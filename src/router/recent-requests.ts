/** The requests that arrangements are judged by: as many of the last ones as came under one load. Used by arranger.ts.
 *
 *  Idle time is cut short: a load that comes in bouts is judged by its bouts, not by their mean with the nights between. When rate or prompts have
 *  changed by more than chance would, older requests are forgotten.
 *  Invariant: at most `windowCountMax` requests; their times never go back. */
import { at } from '../base/assert.js';
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

export const windowCountMax = 256;
/** A pause longer than this many of the gaps around it is none of the load: Poisson arrivals have one in 20,000. */
const gapRatioMax = 10;
/** Gaps around one, on either side. */
const aroundCount = 8;
/** A change is looked for in so many of the latest. */
const latestCounts = [48, 128] as const;
const earlierCountMin = 8;
/** Standard errors that are more than chance; it is looked for often. */
const deviationsMax = 4;

/** A request, and when it came in time without idle times. */
interface Placed {
  readonly busyMs: number;
  readonly request: RememberedRequest;
}

export class RecentRequests {
  #requests: RememberedRequest[] = [];

  get count(): number {
    return this.#requests.length;
  }

  /** It may be corrected later, from outside. */
  add(request: RememberedRequest): void {
    this.#requests.push(request);
    if (this.#requests.length > windowCountMax) this.#requests.shift();
  }

  /** Forgets what came under another load. True when it has forgotten something. */
  forgetOthers(): boolean {
    const placed = placedOf(this.#requests);
    for (const latestCount of latestCounts) {
      const earlier = placed.slice(0, -latestCount);
      const latest = placed.slice(-latestCount);
      if (earlier.length < earlierCountMin || !differ(earlier, latest)) continue;
      this.#requests = this.#requests.slice(-latestCount);
      return true;
    }
    return false;
  }

  /** Copies, with arrivals in busy time. */
  get requests(): readonly RememberedRequest[] {
    return placedOf(this.#requests).map(({ busyMs, request }) => ({ ...request, arrivalMs: busyMs }));
  }

  get load(): LoadFacts {
    const mean = (pick: (request: RememberedRequest) => number) => meanOf(this.#requests.map(pick));
    return {
      perMs: Math.max(0, this.#requests.length - 1) / Math.max(1, spanMs(placedOf(this.#requests))),
      promptTokenCount: mean(({ promptTokenCount }) => promptTokenCount),
      outputTokenCount: mean(({ outputTokenCount }) => outputTokenCount),
    };
  }
}

function placedOf(requests: readonly RememberedRequest[]): readonly Placed[] {
  const gapsMs = requests.slice(1).map(({ arrivalMs }, index) => arrivalMs - at(requests, index).arrivalMs);
  let busyMs = 0;
  return requests.map((request, index) => {
    if (index > 0) busyMs += Math.min(at(gapsMs, index - 1), gapRatioMax * aroundMs(gapsMs, index - 1));
    return { busyMs, request };
  });
}

/** Mean of the gaps around one, without it. */
function aroundMs(gapsMs: readonly number[], index: number): number {
  const from = Math.max(0, index - aroundCount);
  const around = gapsMs.slice(from, index + aroundCount + 1);
  if (around.length < aroundCount) return Number.POSITIVE_INFINITY;
  return (meanOf(around) * around.length - at(gapsMs, index)) / (around.length - 1);
}

function spanMs(placed: readonly Placed[]): number {
  return (placed.at(-1)?.busyMs ?? 0) - (placed[0]?.busyMs ?? 0);
}

/** Gaps of a Poisson process have a standard deviation of their mean; prompts have what they have. */
function differ(earlier: readonly Placed[], latest: readonly Placed[]): boolean {
  const gapMs = (placed: readonly Placed[]) => Math.max(1e-3, spanMs(placed)) / (placed.length - 1);
  const rateError = Math.sqrt(1 / earlier.length + 1 / latest.length);
  if (Math.abs(Math.log(gapMs(earlier) / gapMs(latest))) > deviationsMax * rateError) return true;
  const prompts = (placed: readonly Placed[]) => placed.map(({ request }) => request.promptTokenCount);
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
