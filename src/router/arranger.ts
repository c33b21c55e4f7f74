/** Keeps the arrangement that would have served the last requests best, and never one that would have served them worse than the better
 *  static mode. Used by control/coordinator for the adaptive strategy.
 *
 *  The rule: replay the last requests under every arrangement. The better of the static modes (whole, split) is the yardstick. Another
 *  arrangement is fit to be used when it keeps more requests within their limits and makes neither first tokens nor token rates slower (means
 *  of the worst tenth, with a little tolerance). The best of the fit ones is taken; if there is none, the yardstick itself. Each is kept until
 *  another is clearly better.
 *  Invariant: bounded memory; a comparison is made in steps of about a millisecond. */
import { at } from '../base/assert.js';
import { type Arrangement, arrangementsOf, free, isUniform, nameOf, routeWithin } from './arrangement.js';
import { candidatesOf } from './candidates.js';
import { type ReplayRequest, replayInTurns } from './replay.js';
import type { Candidates } from './route.js';
import type { WorkerSnapshot } from './snapshot.js';

/** Requests that are remembered: few, so that a change of load is seen soon. */
const windowCount = 96;
const windowCountMin = 48;
/** They are replayed again and again, one window after the other, about this many requests: so that queues build up that an arrangement
 *  cannot work off. The last window counts. */
const replayedCount = 256;
/** Arrivals between two comparisons. */
const everyCount = 12;
/** By what factor the yardstick's tails may be exceeded, to be chosen and to be kept. */
const tolerance = { chosen: 1.03, kept: 1.12 };
/** Weight of the latest comparison in what is known of an arrangement. */
const newShare = 0.4;

export interface Standing {
  readonly arrangement: Arrangement;
  readonly name: string;
  /** Mean of withinLimits over the requests. */
  readonly score: number;
  /** Means of the worst tenth. */
  readonly ttftMsTail: number;
  readonly tpotMsTail: number;
  readonly isFit: boolean;
}

/** A request as it is remembered: its output's length is what was expected until it is known. */
export interface RememberedRequest {
  readonly arrivalMs: number;
  readonly promptTokenCount: number;
  readonly expectedTokenCount: number;
  outputTokenCount: number;
}

export class Arranger {
  readonly #window: RememberedRequest[] = [];
  #yardstick: Arrangement = { kind: 'whole' };
  #current: Arrangement | null = null;
  /** What the last comparisons in a row have picked. */
  #pickedName = '';
  #pickedCount = 0;
  #standings: readonly Standing[] = [];
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

  get isDue(): boolean {
    return this.#newCount >= everyCount && this.#window.length >= windowCountMin;
  }

  /** The comparison in small steps, so that the caller can let others go first in between. */
  *comparison(workers: readonly WorkerSnapshot[]): Generator<void, void, void> {
    this.#newCount = 0;
    const requests = this.#window.map((request) => ({ ...request }));
    const candidates = candidatesOf(workers);
    if (candidates === null || candidates.fallback !== undefined) return;
    const measured: Measured[] = [];
    for (const arrangement of arrangementsOf(candidates)) {
      measured.push(yield* measure(arrangement, requests, workers));
    }
    this.#choose(measured);
  }

  #choose(latest: readonly Measured[]): void {
    const measured = latest.map((each) => blended(each, this.#standings));
    const gainMin = gainMinOf(this.#window.length);
    const statics = measured.filter(({ arrangement }) => isStatic(arrangement));
    const yardstick = this.#yardstickOf(statics.length > 0 ? statics : measured, gainMin);
    const isCurrent = ({ name }: Measured) => this.#current !== null && name === nameOf(this.#current);
    this.#standings = measured.map((each) => {
      const times = isCurrent(each) ? tolerance.kept : tolerance.chosen;
      const isNoSlower = each.ttftMsTail <= yardstick.ttftMsTail * times && each.tpotMsTail <= yardstick.tpotMsTail * times;
      const gain = each.score - yardstick.score;
      return { ...each, isFit: each === yardstick || (isNoSlower && gain > (isCurrent(each) ? gainMin / 2 : gainMin)) };
    });
    const fit = this.#standings.filter(({ isFit }) => isFit);
    const better = fit.filter(({ arrangement }) => !isStatic(arrangement));
    const usedName = this.#current === null ? '' : nameOf(this.#current);
    this.#adopt(better.length === 0 ? yardstick : keptOrBest(better, usedName, gainMin), yardstick);
  }

  /** Back to whole at once; anywhere else only when several comparisons in a row say the same. */
  #adopt(picked: Measured, yardstick: Measured): void {
    this.#pickedCount = picked.name === this.#pickedName ? this.#pickedCount + 1 : 1;
    this.#pickedName = picked.name;
    const isUsed = this.#current !== null && picked.name === nameOf(this.#current);
    if (!isUsed && picked.arrangement.kind !== 'whole' && this.#pickedCount < confirmationCount) return;
    this.#current = picked.arrangement;
    this.#yardstick = yardstick.arrangement;
  }

  /** Whole, unless a split is clearly better; a split in use stays while it is still better. */
  #yardstickOf(all: readonly Measured[], gainMin: number): Measured {
    const whole = all.find(({ arrangement: { kind } }) => kind === 'whole');
    const best = keptOrBest(all, nameOf(this.#yardstick), gainMin);
    if (whole === undefined || best === whole) return best;
    const gainNeeded = best.name === nameOf(this.#yardstick) ? gainMin : splitCaution * gainMin;
    return best.score > whole.score + gainNeeded ? best : whole;
  }
}

/** A replay knows nothing of what hand-overs meet on a busy machine, and a split that fails, fails for all: it must gain this many times more. */
const splitCaution = 1.5;
/** Comparisons in a row that must agree before another arrangement than whole is tried: the first few may be luck. */
const confirmationCount = 3;

function isStatic({ kind }: Arrangement): boolean {
  return kind === 'whole' || kind === 'split';
}

/** A mean over few requests is worth less. */
function gainMinOf(requestCount: number): number {
  return 0.3 / Math.sqrt(requestCount);
}

type Measured = Omit<Standing, 'isFit'>;

/** With what earlier comparisons said of it. */
function blended(latest: Measured, earlier: readonly Measured[]): Measured {
  const before = earlier.find(({ name }) => name === latest.name) ?? latest;
  const blend = (pick: (each: Measured) => number) => newShare * pick(latest) + (1 - newShare) * pick(before);
  return {
    ...latest,
    score: blend(({ score }) => score),
    ttftMsTail: blend(({ ttftMsTail }) => ttftMsTail),
    tpotMsTail: blend(({ tpotMsTail }) => tpotMsTail),
  };
}

/** The best, unless the one named is nearly as good. */
function keptOrBest<Each extends { readonly name: string; readonly score: number }>(
  all: readonly Each[],
  keptName: string,
  gainMin: number,
): Each {
  const best = all.reduce((a, b) => (b.score > a.score ? b : a));
  const kept = all.find(({ name }) => name === keptName);
  return kept !== undefined && kept.score >= best.score - gainMin ? kept : best;
}

function* measure(
  arrangement: Arrangement,
  requests: readonly ReplayRequest[],
  workers: readonly WorkerSnapshot[],
): Generator<void, Measured, void> {
  const live = workers.filter(({ isLive }) => isLive);
  const all = yield* replayInTurns(repeated(requests), live, (facts, snapshots) => {
    const candidates = candidatesOf(snapshots);
    return candidates === null ? null : routeWithin(arrangement, facts, candidates);
  });
  const outcomes = all.slice(-requests.length);
  return {
    arrangement,
    name: nameOf(arrangement),
    score: outcomes.reduce((sum, { ttftUse, tpotUse }) => sum + withinLimits(Math.max(ttftUse, tpotUse)), 0) / outcomes.length,
    ttftMsTail: tailMean(outcomes.map(({ ttftMs }) => ttftMs)),
    tpotMsTail: tailMean(outcomes.map(({ tpotMs }) => tpotMs)),
  };
}

/** 1 for a request well within its limits, ¾ at them, ¼ at twice their size, 0 far beyond. */
function withinLimits(use: number): number {
  return (1 / (1 + use ** 8) + 1 / (1 + (use / 2) ** 8)) / 2;
}

/** Mean of the worst tenth: what a 99th percentile is made of, with less luck in it. */
function tailMean(values: readonly number[]): number {
  const worst = [...values].sort((a, b) => b - a).slice(0, Math.max(1, Math.ceil(values.length / 10)));
  return worst.reduce((sum, value) => sum + value, 0) / worst.length;
}

/** The window, one after the other, a little faster than it came: by one and a half standard errors of a rate seen that often. A queue that is only just
 *  stable by the luck of the window is none to rely on. */
function repeated(requests: readonly ReplayRequest[]): readonly ReplayRequest[] {
  const pace = 1 + 1.5 / Math.sqrt(requests.length);
  const firstMs = at(requests, 0).arrivalMs;
  const spanMs = (at(requests, requests.length - 1).arrivalMs - firstMs) / pace;
  const periodMs = (spanMs * requests.length) / (requests.length - 1);
  const copies = Math.max(1, Math.round(replayedCount / requests.length));
  return Array.from({ length: copies }, (_, copy) =>
    requests.map((request) => ({ ...request, arrivalMs: (request.arrivalMs - firstMs) / pace + copy * periodMs })),
  ).flat();
}
