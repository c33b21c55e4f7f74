/** Keeps the arrangement that serves the present load best, and hardly ever worse than the better static mode would. Used by control/coordinator
 *  for the adaptive strategy.
 *
 *  The rule: replay the last requests under every arrangement, and remember the means for every kind of load. What counts first is how many
 *  requests keep within their limits. The static modes (whole, split) set the mark, each by how probably it is the better one: an arrangement
 *  that keeps fewer within limits than they, or makes first tokens or tokens slower, is to be regretted; the one with the least regret is used.
 *  Invariant: bounded memory; a comparison is made in steps of about a millisecond. */
import { at } from '../base/assert.js';
import { type Arrangement, arrangementsOf, free, isUniform, nameOf, routeWithin } from './arrangement.js';
import { candidatesOf } from './candidates.js';
import { type LoadFacts, RecentRequests, type RememberedRequest } from './recent-requests.js';
import { type Regime, Regimes, type Replayed } from './regimes.js';
import { type ReplayRequest, replayInTurns } from './replay.js';
import type { Candidates } from './route.js';
import type { WorkerSnapshot } from './snapshot.js';

/** Fewer requests tell too little. */
const windowCountMin = 48;
/** They are replayed again and again, at least twice, about this many requests: so that queues build up that an arrangement cannot work
 *  off. The last time counts. */
const replayedCount = 384;
/** Arrivals between two looks at the load. */
const everyCount = 12;
/** Real steps scatter, replayed ones do not: where prompts queue before fewer workers, their tails are longer than replayed by about this much more
 *  (simulated with true costs: a quarter longer, of whole a tenth shorter). */
const queueingMore = 1.35;
/** Where workers share processors with gateway and messages, hand-overs cost what no replay knows: by this much more of the requests within their
 *  limits anything must be better than whole there. */
const leadOnHost = 0.25;
/** Scores that differ by this much may well be the other way round: which of two static modes is the better one is not known exactly. */
const scoreError = 0.08;
/** Tails that are longer by this share are a loss of as much; by less, far less of one, and by more, far more, until a loss is a loss. */
const toleratedShare = 0.1;
/** Of requests within limits, lost and gained, against tails that are longer by their own length. */
const fewerWeight = 3;
const gainWeight = 0.5;
/** What another arrangement must be better by than the one in use; and by how much to be used without a second comparison that says the same. */
const keptRegret = 0.03;
/** Hand-overs can go wrong in ways that nobody has measured: whole is preferred to what is hardly better. */
const wholeRegret = 0.1;
const clearRegret = 0.2;
const confirmationCount = 2;

/** What is known of an arrangement under the present load. */
export interface Standing extends Replayed {
  /** replayedScore less what real requests fall short of that. */
  readonly score: number;
  /** Of using it, see regretOf. */
  readonly regret: number;
  /** The one that the last comparison would use. */
  readonly isPicked: boolean;
}

export class Arranger {
  readonly #recent = new RecentRequests();
  readonly #regimes = new Regimes();
  #regime: Regime | null = null;
  #standings: readonly Standing[] = [];
  /** Of the last comparison. */
  #compared: Regime | null = null;
  #workers = '';
  #newCount = 0;

  /** Before the first comparison: whole, where every worker may do that. */
  current(candidates: Candidates): Arrangement {
    return this.#regime?.current ?? (isUniform(candidates) ? { kind: 'whole' } : free);
  }

  /** Of the last comparison, for people. */
  get standings(): readonly Standing[] {
    return this.#standings;
  }

  /** The request's length may be corrected in what is given. */
  remember(request: RememberedRequest): void {
    this.#recent.add(request);
    this.#newCount++;
  }

  /** What load it is by now: if it has been seen before, what was learned of it with these workers is used from here on. */
  look(workers: readonly WorkerSnapshot[]): void {
    this.#newCount = 0;
    this.#know(workers);
    if (!this.#isEnough) return;
    this.#recent.forgetOthers();
    this.#regime = this.#regimes.of(this.#recent.load);
  }

  get rememberedCount(): number {
    return this.#recent.count;
  }

  /** Since the last comparison, which would go on with what is used, the load has not changed: the next one would say the same. */
  get isSteady(): boolean {
    const picked = this.#standings.find(({ isPicked }) => isPicked);
    return picked !== undefined && picked.name === usedNameOf(this.#compared) && this.#compared === this.#regime;
  }

  /** Enough has come since the last look for another. */
  get isDue(): boolean {
    return this.#newCount >= everyCount && this.#isEnough;
  }

  get #isEnough(): boolean {
    return this.#recent.count >= windowCountMin;
  }

  /** The comparison for the load of the last look, in small steps, so that the caller can let others go first in between. */
  *comparison(workers: readonly WorkerSnapshot[]): Generator<void, void, void> {
    const { requests, load } = this.#recent;
    const regime = this.#regime;
    const candidates = candidatesOf(workers);
    if (regime === null || candidates === null || candidates.fallback !== undefined) return;
    const latest: Replayed[] = [];
    for (const arrangement of arrangementsOf(candidates)) latest.push(yield* measure(arrangement, requests, workers));
    const isOnHost = isUniform(candidates) && workers.some((worker) => worker.isOnHost === true);
    this.#choose(regime, { latest, requests, load, lead: isOnHost ? leadOnHost : 0 });
  }

  /** What was learned holds for these workers alone. */
  #know(workers: readonly WorkerSnapshot[]): void {
    const live = workers.filter(({ isLive }) => isLive);
    const names = live.map(({ id, role }) => `${id} ${role}`).join();
    if (names === this.#workers) return;
    this.#workers = names;
    this.#regimes.clear();
    this.#regime = null;
  }

  #choose(regime: Regime, { latest, requests, load, lead }: Comparison): void {
    const usedName = usedNameOf(regime);
    const replayed = regime.learn(latest, requests.length, load);
    judge(
      regime,
      replayed.find(({ name }) => name === usedName),
      requests,
    );
    const measured = replayed.map((each) => ({ ...each, score: shareOf(each.replayedScore - regime.shortfalls.of(each.name)) }));
    const handicapped = (each: Measured) => (each.name === 'whole' ? each : { ...each, score: each.score - lead });
    const rivals = rivalsOf(measured.map(handicapped));
    const judged = measured.map((each) => ({ ...each, regret: regretOf(handicapped(each), rivals) }));
    const burdenOf = ({ name, regret }: { name: string; regret: number }) =>
      regret - (name === usedName ? keptRegret : 0) - (name === 'whole' ? wholeRegret : 0);
    const picked = judged.reduce((a, b) => (burdenOf(b) < burdenOf(a) ? b : a));
    this.#standings = judged.map((each) => ({ ...each, isPicked: each === picked }));
    this.#compared = regime;
    const used = judged.find(({ name }) => name === usedName);
    adopt(regime, picked, used === undefined ? Number.POSITIVE_INFINITY : burdenOf(used) - burdenOf(picked));
  }
}

function usedNameOf(regime: Regime | null): string {
  return regime === null || regime.current === null ? 'whole' : nameOf(regime.current);
}

interface Comparison {
  readonly latest: readonly Replayed[];
  readonly requests: readonly RememberedRequest[];
  readonly load: LoadFacts;
  /** What anything must be better than whole by. */
  readonly lead: number;
}

function judge(regime: Regime, used: Replayed | undefined, requests: readonly RememberedRequest[]): void {
  if (used === undefined) return;
  const real = requests.flatMap(({ arrangementName, realScore }) =>
    arrangementName === used.name && realScore !== undefined ? [realScore] : [],
  );
  regime.shortfalls.judge(used.name, used.replayedScore, real);
}

function shareOf(value: number): number {
  return Math.max(0, Math.min(1, value));
}

/** What is clearly better at once; what is a little better only when two comparisons in a row say the same. */
function adopt(regime: Regime, picked: Replayed, gain: number): void {
  regime.pickedCount = picked.name === regime.pickedName ? regime.pickedCount + 1 : 1;
  regime.pickedName = picked.name;
  if (gain < clearRegret && regime.pickedCount < confirmationCount) return;
  regime.current = picked.arrangement;
}

/** A static mode, and how probably it is the one that keeps most requests within their limits. */
interface Rival {
  readonly measured: Measured;
  readonly share: number;
}

/** The static modes; where roles allow none, everything. */
function rivalsOf(measured: readonly Measured[]): readonly Rival[] {
  const found = measured.filter(({ arrangement: { kind } }) => kind === 'whole' || kind === 'split');
  const statics = found.length > 0 ? found : measured;
  const best = Math.max(...statics.map(({ score }) => score));
  const weights = statics.map(({ score }) => Math.exp((score - best) / scoreError));
  const sum = weights.reduce((a, b) => a + b, 0);
  return statics.map((each, index) => ({ measured: each, share: at(weights, index) / sum }));
}

/** Of using it instead of the better static mode, whichever that is: what it keeps fewer within limits, and what its tails are longer by;
 *  what it keeps more is a gain. */
function regretOf({ score, ttftMsTail, tpotMsTail }: Measured, rivals: readonly Rival[]): number {
  let regret = 0;
  for (const { measured, share } of rivals) {
    const longer = Math.max(0, ttftMsTail / measured.ttftMsTail - 1, tpotMsTail / measured.tpotMsTail - 1);
    const fewer = measured.score - score;
    regret +=
      share * (Math.min(1, (longer / toleratedShare) ** 2 * toleratedShare) + (fewer > 0 ? fewerWeight : gainWeight) * fewer);
  }
  return regret;
}

type Measured = Omit<Standing, 'regret' | 'isPicked'>;

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

/** 1 for a request within its limits, 0.25 within twice those, 0 beyond: goodput, but for the luck of those near a limit. */
export function withinLimits(use: number): number {
  return 0.75 / (1 + use ** 32) + 0.25 / (1 + (use / 2) ** 32);
}

/** Mean of the worst tenth: what a 99th percentile is made of, with less luck in it. */
function tailMean(values: readonly number[]): number {
  const worst = [...values].sort((a, b) => b - a).slice(0, Math.max(1, Math.ceil(values.length / 10)));
  return worst.reduce((sum, value) => sum + value, 0) / worst.length;
}

/** The window, one time after the other. */
function repeated(requests: readonly ReplayRequest[]): readonly ReplayRequest[] {
  const firstMs = at(requests, 0).arrivalMs;
  const spanMs = at(requests, requests.length - 1).arrivalMs - firstMs;
  const periodMs = (spanMs * requests.length) / (requests.length - 1);
  const copies = Math.max(2, Math.round(replayedCount / requests.length));
  return Array.from({ length: copies }, (_, copy) =>
    requests.map((request) => ({ ...request, arrivalMs: request.arrivalMs - firstMs + copy * periodMs })),
  ).flat();
}
