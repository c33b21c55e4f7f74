/** Keeps the arrangement that would have served the last requests best, and never one that would have served them worse than the better
 *  static mode. Used by control/coordinator for the adaptive strategy.
 *
 *  The rule: replay the last requests under every arrangement. The better of the static modes (whole, split) is the yardstick. An
 *  arrangement is fit to be used when nobody's first token or token rate suffers by it (90th percentiles, 5 % of tolerance); of the fit ones
 *  the one with most requests within their limits is taken, and kept until another is clearly better.
 *  Invariant: bounded memory; a replay never takes longer than one arrangement's at a time. */
import { at } from '../base/assert.js';
import { percentile } from '../base/percentiles.js';
import { type Arrangement, arrangementsOf, free, nameOf, routeWithin } from './arrangement.js';
import { candidatesOf } from './candidates.js';
import { type ReplayRequest, replay } from './replay.js';
import type { WorkerSnapshot } from './snapshot.js';

/** Requests that are remembered: few, so that a change of load is seen soon. */
const windowCount = 96;
const windowCountMin = 24;
/** They are replayed again and again, one window after the other, up to this many requests: so that queues build up that an arrangement
 *  cannot work off. The last window counts. */
const replayedCount = 256;
/** Arrivals between two comparisons. */
const everyCount = 12;
/** What of the yardstick's 90th percentiles may be exceeded, to be chosen and to be kept. */
const tolerance = { chosen: 1.03, kept: 1.12 };
/** What another arrangement must gain: share of requests within their limits. */
const gainMin = 0.02;
/** Weight of the latest comparison in what is known of an arrangement. */
const newShare = 0.4;

export interface Standing {
  readonly arrangement: Arrangement;
  readonly name: string;
  /** Mean over requests of 1 / (1 + use⁴), use = the share of its limits that a request needs: near 1 when all is well. */
  readonly score: number;
  readonly ttftUseP90: number;
  readonly tpotUseP90: number;
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
  #current: Arrangement = free;
  #standings: readonly Standing[] = [];
  #newCount = 0;

  get current(): Arrangement {
    return this.#current;
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

  get isDue(): boolean {
    return this.#newCount >= everyCount && this.#window.length >= windowCountMin;
  }

  /** The comparison, one replay a step: they take a few milliseconds each, so that the caller can let others go first in between. */
  *comparison(workers: readonly WorkerSnapshot[]): Generator<void, void, void> {
    this.#newCount = 0;
    const requests = this.#window.map((request) => ({ ...request }));
    const candidates = candidatesOf(workers);
    if (candidates === null || candidates.fallback !== undefined) return;
    const measured: Measured[] = [];
    for (const arrangement of arrangementsOf(candidates)) {
      measured.push(measure(arrangement, requests, workers));
      yield;
    }
    this.#choose(measured);
  }

  #choose(latest: readonly Measured[]): void {
    const measured = latest.map((each) => blended(each, this.#standings));
    const statics = measured.filter(({ arrangement: { kind } }) => kind === 'whole' || kind === 'split');
    const yardstick = best(statics.length > 0 ? statics : measured);
    this.#standings = measured.map((each) => {
      const times = each.name === nameOf(this.#current) ? tolerance.kept : tolerance.chosen;
      const isNoSlower = each.ttftUseP90 <= yardstick.ttftUseP90 * times && each.tpotUseP90 <= yardstick.tpotUseP90 * times;
      return { ...each, isFit: each === yardstick || (isNoSlower && each.score > yardstick.score - gainMin / 2) };
    });
    const fit = this.#standings.filter(({ isFit }) => isFit);
    const winner = best(fit);
    const now = fit.find(({ name }) => name === nameOf(this.#current));
    if (now === undefined || winner.score > now.score + gainMin) this.#current = winner.arrangement;
  }
}

type Measured = Omit<Standing, 'isFit'>;

/** With what earlier comparisons said of it. */
function blended(latest: Measured, earlier: readonly Measured[]): Measured {
  const before = earlier.find(({ name }) => name === latest.name) ?? latest;
  const blend = (pick: (each: Measured) => number) => newShare * pick(latest) + (1 - newShare) * pick(before);
  return {
    ...latest,
    score: blend(({ score }) => score),
    ttftUseP90: blend(({ ttftUseP90 }) => ttftUseP90),
    tpotUseP90: blend(({ tpotUseP90 }) => tpotUseP90),
  };
}

function best<Each extends { readonly score: number }>(all: readonly Each[]): Each {
  return all.reduce((a, b) => (b.score > a.score ? b : a));
}

function measure(arrangement: Arrangement, requests: readonly ReplayRequest[], workers: readonly WorkerSnapshot[]): Measured {
  const live = workers.filter(({ isLive }) => isLive);
  const all = replay(repeated(requests), live, (facts, snapshots) => {
    const candidates = candidatesOf(snapshots);
    return candidates === null ? null : routeWithin(arrangement, facts, candidates);
  });
  const outcomes = all.slice(-requests.length);
  const p90 = (values: readonly number[]) =>
    percentile(
      [...values].sort((a, b) => a - b),
      0.9,
    );
  return {
    arrangement,
    name: nameOf(arrangement),
    score: outcomes.reduce((sum, { ttftUse, tpotUse }) => sum + 1 / (1 + Math.max(ttftUse, tpotUse) ** 4), 0) / outcomes.length,
    ttftUseP90: p90(outcomes.map(({ ttftUse }) => ttftUse)),
    tpotUseP90: p90(outcomes.map(({ tpotUse }) => tpotUse)),
  };
}

/** The window, one after the other, with its own mean gap in between. */
function repeated(requests: readonly ReplayRequest[]): readonly ReplayRequest[] {
  const first = at(requests, 0).arrivalMs;
  const lastMs = at(requests, requests.length - 1).arrivalMs - first;
  const periodMs = lastMs + lastMs / (requests.length - 1);
  const copies = Math.max(1, Math.round(replayedCount / requests.length));
  return Array.from({ length: copies }, (_, copy) =>
    requests.map((request) => ({ ...request, arrivalMs: request.arrivalMs - first + copy * periodMs })),
  ).flat();
}
