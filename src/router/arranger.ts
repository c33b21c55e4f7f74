/** Keeps the arrangement that would have served the last requests best, and never one that would have served them worse than the better
 *  static mode. Used by control/coordinator for the adaptive strategy.
 *
 *  The rule: replay the last requests under every arrangement. What counts first is how many keep within their limits. The static modes (whole,
 *  split) set the mark: another arrangement is fit to be used when it keeps more within limits than the better of them, and makes neither
 *  first tokens nor tokens slower (means of the worst tenth, with a little tolerance) than that one; where the two are equals, than one of
 *  them. Of the fit ones that are as good as the best, the one is taken that falls least behind either static mode in tails.
 *  Invariant: bounded memory; a comparison is made in steps of about a millisecond. */
import { at } from '../base/assert.js';
import { type Arrangement, arrangementsOf, free, isUniform, nameOf, routeWithin } from './arrangement.js';
import { candidatesOf } from './candidates.js';
import { type ReplayRequest, replayInTurns } from './replay.js';
import type { Candidates } from './route.js';
import { Shortfalls } from './shortfall.js';
import type { WorkerSnapshot } from './snapshot.js';

/** Requests that are remembered: few, so that a change of load is seen soon. */
const windowCount = 128;
const windowCountMin = 48;
/** They are replayed again and again, one window after the other, about this many requests: so that queues build up that an arrangement
 *  cannot work off. The last window counts. */
const replayedCount = 384;
/** Arrivals between two comparisons. */
const everyCount = 12;
/** By what factor a static mode's tails may be exceeded, to be chosen and to be kept. */
const tolerance = { chosen: 1.06, kept: 1.12 };
/** Static modes whose scores differ by less are as good as each other: nobody could say which of them another arrangement must not fall behind. */
const tieMargin = 0.05;
/** Real steps scatter, replayed ones do not: where prompts queue before fewer workers, their tails are longer than replayed by more. */
const queueingMore = 1.15;
/** Where workers share processors with gateway and messages, hand-overs cost what no replay knows: by this much more of the requests within their
 *  limits anything must be better than whole there. */
const leadOnHost = 0.25;
/** A load is another one when its rate, or its prompts, are by this factor more or less. */
const changeFactor = 1.3;
/** Comparisons in a row that must agree before another arrangement than whole is tried: one may be luck. */
const confirmationCount = 2;
/** An arrangement in use is left only for one whose tails are this much shorter. */
const keptShare = 0.95;
/** Weight of the latest comparison in what is known of an arrangement. */
const newShare = 0.4;

export interface Standing {
  readonly arrangement: Arrangement;
  readonly name: string;
  /** Mean of withinLimits over the requests, as replayed; and less what real requests fall short of that. */
  readonly replayedScore: number;
  readonly score: number;
  /** Means of the worst tenth. */
  readonly ttftMsTail: number;
  readonly tpotMsTail: number;
  readonly isFit: boolean;
  /** The one that this comparison would use. */
  readonly isPicked: boolean;
}

/** A request as it is remembered: its output's length is what was expected until it is known. */
export interface RememberedRequest {
  readonly arrivalMs: number;
  readonly promptTokenCount: number;
  readonly expectedTokenCount: number;
  outputTokenCount: number;
  /** What it was routed within. */
  readonly arrangementName?: string;
  /** Its withinLimits in reality, once it has finished. */
  realScore?: number;
}

export class Arranger {
  readonly #window: RememberedRequest[] = [];
  #current: Arrangement | null = null;
  /** What the last comparisons in a row have picked. */
  #pickedName = '';
  #pickedCount = 0;
  #standings: readonly Standing[] = [];
  #comparedLoad: ReturnType<typeof loadOf> | null = null;
  readonly #shortfalls = new Shortfalls();
  #newCount = 0;

  /** Before the first comparison: whole, where every worker may do that. */
  current(candidates: Candidates): Arrangement {
    return this.#current ?? (isUniform(candidates) ? { kind: 'whole' } : free);
  }

  /** Of the last comparison, for people. */
  get standings(): readonly Standing[] {
    return this.#standings;
  }

  /** The request's length may be corrected in what is returned. */
  remember(request: RememberedRequest): void {
    this.#window.push(request);
    this.#newCount++;
    if (this.#window.length > windowCount) this.#window.shift();
  }

  get rememberedCount(): number {
    return this.#window.length;
  }

  /** Since the last comparison, which would go on with what is used, the load has not changed: the next one would say the same. */
  get isSteady(): boolean {
    const picked = this.#standings.find(({ isPicked }) => isPicked);
    if (picked === undefined || picked.name !== this.#usedName || this.#comparedLoad === null) return false;
    const { perMs, promptTokenCount } = loadOf(this.#window);
    const isNear = (a: number, b: number) => a < changeFactor * b && b < changeFactor * a;
    return isNear(perMs, this.#comparedLoad.perMs) && isNear(promptTokenCount, this.#comparedLoad.promptTokenCount);
  }

  get isDue(): boolean {
    return this.#newCount >= everyCount && this.#window.length >= windowCountMin;
  }

  /** The comparison in small steps, so that the caller can let others go first in between. */
  *comparison(workers: readonly WorkerSnapshot[]): Generator<void, void, void> {
    this.#newCount = 0;
    this.#comparedLoad = loadOf(this.#window);
    const requests = this.#window.map((request) => ({ ...request }));
    const candidates = candidatesOf(workers);
    if (candidates === null || candidates.fallback !== undefined) return;
    const measured: Replayed[] = [];
    for (const arrangement of arrangementsOf(candidates)) {
      measured.push(yield* measure(arrangement, requests, workers));
    }
    const isOnHost = isUniform(candidates) && workers.some((worker) => worker.isOnHost === true);
    this.#choose(measured, isOnHost ? leadOnHost : 0);
  }

  get #usedName(): string {
    return this.#current === null ? 'whole' : nameOf(this.#current);
  }

  /** `lead`: what anything must be better than whole by. */
  #choose(latest: readonly Replayed[], lead: number): void {
    const usedName = this.#usedName;
    const replayed = latest.map((each) => blended(each, this.#standings));
    this.#judge(replayed.find(({ name }) => name === usedName));
    const measured = replayed.map((each) => ({ ...each, score: each.replayedScore - this.#shortfalls.of(each.name) }));
    const gainMin = gainMinOf(this.#window.length);
    const wholeScore = measured.find(({ name }) => name === 'whole')?.score ?? 0;
    const eligible = measured.filter(({ name, score }) => name === 'whole' || lead === 0 || score >= wholeScore + lead);
    const found = eligible.filter(isStatic);
    const statics = found.length > 0 ? found : eligible;
    const best = Math.max(...statics.map(({ score }) => score));
    const rivals = statics.filter(({ score }) => score >= best - tieMargin);
    const fit = eligible.filter((each) => isFit(each, { best, rivals, gainMin, isUsed: each.name === usedName }));
    const top = Math.max(...fit.map(({ score }) => score));
    const equals = fit.filter(({ score }) => score >= top - gainMin);
    const regret = (each: Measured) => (each.name === usedName ? keptShare : 1) * regretOf(each, rivals);
    const picked = equals.reduce((a, b) => (regret(b) < regret(a) ? b : a));
    this.#standings = measured.map((each) => ({ ...each, isFit: fit.includes(each), isPicked: each === picked }));
    this.#adopt(picked);
  }

  #judge(used: Replayed | undefined): void {
    if (used === undefined) return;
    const real = this.#window.flatMap(({ arrangementName, realScore }) =>
      arrangementName === used.name && realScore !== undefined ? [realScore] : [],
    );
    this.#shortfalls.judge(used.name, used.replayedScore, real);
  }

  /** Back to whole at once; anywhere else only when two comparisons in a row say the same. */
  #adopt(picked: Measured): void {
    this.#pickedCount = picked.name === this.#pickedName ? this.#pickedCount + 1 : 1;
    this.#pickedName = picked.name;
    const isUsed = this.#current !== null && picked.name === nameOf(this.#current);
    if (!isUsed && picked.arrangement.kind !== 'whole' && this.#pickedCount < confirmationCount) return;
    this.#current = picked.arrangement;
  }
}

interface Field {
  /** Of the static modes' scores. */
  readonly best: number;
  /** The static modes that are as good as the best. */
  readonly rivals: readonly Measured[];
  readonly gainMin: number;
  readonly isUsed: boolean;
}

/** A static mode, when none is better. Another arrangement, when it is better than both, or as good where they are as good as each other;
 *  and no slower than one of them. */
function isFit(each: Measured, { best, rivals, gainMin, isUsed }: Field): boolean {
  if (rivals.includes(each)) return each.score >= best - gainMin;
  if (isStatic(each)) return false;
  const gainNeeded = rivals.length > 1 ? 0 : isUsed ? gainMin / 2 : gainMin;
  const times = isUsed ? tolerance.kept : tolerance.chosen;
  return each.score >= best + gainNeeded && rivals.some((rival) => isNoSlower(each, rival, times));
}

function isNoSlower(each: Measured, than: Measured, times: number): boolean {
  return each.ttftMsTail <= than.ttftMsTail * times && each.tpotMsTail <= than.tpotMsTail * times;
}

/** By what factor its tails are longer than the shortest there is among the rivals. */
function regretOf(each: Measured, rivals: readonly Measured[]): number {
  const ttftMs = Math.min(...rivals.map(({ ttftMsTail }) => ttftMsTail));
  const tpotMs = Math.min(...rivals.map(({ tpotMsTail }) => tpotMsTail));
  return Math.max(each.ttftMsTail / ttftMs, each.tpotMsTail / tpotMs);
}

function isStatic({ arrangement: { kind } }: Measured): boolean {
  return kind === 'whole' || kind === 'split';
}

/** Requests per millisecond, and tokens of one. */
function loadOf(window: readonly RememberedRequest[]): { readonly perMs: number; readonly promptTokenCount: number } {
  const [first, last] = [window[0], window.at(-1)];
  if (first === undefined || last === undefined) return { perMs: 0, promptTokenCount: 0 };
  const promptTokenCount = window.reduce((sum, request) => sum + request.promptTokenCount, 0) / window.length;
  return { perMs: window.length / Math.max(1, last.arrivalMs - first.arrivalMs), promptTokenCount };
}

/** A mean over few requests is worth less. */
function gainMinOf(requestCount: number): number {
  return 0.3 / Math.sqrt(requestCount);
}

type Measured = Omit<Standing, 'isFit' | 'isPicked'>;
type Replayed = Omit<Measured, 'score'>;

/** With what earlier comparisons said of it. */
function blended(latest: Replayed, earlier: readonly Replayed[]): Replayed {
  const before = earlier.find(({ name }) => name === latest.name) ?? latest;
  const blend = (pick: (each: Replayed) => number) => newShare * pick(latest) + (1 - newShare) * pick(before);
  return {
    ...latest,
    replayedScore: blend(({ replayedScore }) => replayedScore),
    ttftMsTail: blend(({ ttftMsTail }) => ttftMsTail),
    tpotMsTail: blend(({ tpotMsTail }) => tpotMsTail),
  };
}

function* measure(
  arrangement: Arrangement,
  requests: readonly ReplayRequest[],
  workers: readonly WorkerSnapshot[],
): Generator<void, Replayed, void> {
  const live = workers.filter(({ isLive }) => isLive);
  const all = yield* replayInTurns(repeated(requests), live, (facts, snapshots) => {
    const candidates = candidatesOf(snapshots);
    return candidates === null ? null : routeWithin(arrangement, facts, candidates);
  });
  const outcomes = all.slice(-requests.length);
  return {
    arrangement,
    name: nameOf(arrangement),
    replayedScore:
      outcomes.reduce((sum, { ttftUse, tpotUse }) => sum + withinLimits(Math.max(ttftUse, tpotUse)), 0) / outcomes.length,
    ttftMsTail: (arrangement.kind === 'whole' ? 1 : queueingMore) * tailMean(outcomes.map(({ ttftMs }) => ttftMs)),
    tpotMsTail: tailMean(outcomes.map(({ tpotMs }) => tpotMs)),
  };
}

/** 1 for a request within its limits, 0.1 beyond, 0 far beyond: goodput, but for the luck of those near a limit. */
export function withinLimits(use: number): number {
  return 0.9 / (1 + use ** 32) + 0.1 / (1 + (use / 2) ** 32);
}

/** Mean of the worst tenth: what a 99th percentile is made of, with less luck in it. */
function tailMean(values: readonly number[]): number {
  const worst = [...values].sort((a, b) => b - a).slice(0, Math.max(1, Math.ceil(values.length / 10)));
  return worst.reduce((sum, value) => sum + value, 0) / worst.length;
}

/** The window, one after the other, a little faster than it came: by one standard error of a rate seen that often. A queue that is only just
 *  stable by the luck of the window is none to rely on. */
function repeated(requests: readonly ReplayRequest[]): readonly ReplayRequest[] {
  const pace = 1 + 1 / Math.sqrt(requests.length);
  const firstMs = at(requests, 0).arrivalMs;
  const spanMs = (at(requests, requests.length - 1).arrivalMs - firstMs) / pace;
  const periodMs = (spanMs * requests.length) / (requests.length - 1);
  const copies = Math.max(1, Math.round(replayedCount / requests.length));
  return Array.from({ length: copies }, (_, copy) =>
    requests.map((request) => ({ ...request, arrivalMs: (request.arrivalMs - firstMs) / pace + copy * periodMs })),
  ).flat();
}
