/** Everything the router knows while requests come and go: loads, costs, lengths, prefixes, arrangements; and its decisions. Used by
 *  coordinator.ts, which drives requests along what is decided here.
 *  Invariant: a traveller's placement is counted from `choose` until `leave`, and never twice. */
import type { Clock } from '../base/clock.js';
import type { WorkerId } from '../base/ids.js';
import type { Logger } from '../base/log.js';
import { type Arrangement, nameOf } from '../router/arrangement.js';
import { withinLimits } from '../router/arranger.js';
import { candidatesOf } from '../router/candidates.js';
import { chooseRoute, pinnedRoute } from '../router/choose-route.js';
import { tpotLimitMs, ttftLimitMs } from '../router/estimate.js';
import { demandOf, growthOf } from '../router/kv-growth.js';
import type { LengthDistribution } from '../router/length-distribution.js';
import { samplePrefixes } from '../router/length-levels.js';
import { type LengthFacts, LengthPredictor } from '../router/length-predictor.js';
import { Placement } from '../router/placement.js';
import type { RememberedRequest } from '../router/recent-requests.js';
import { type Corrections, uncorrected } from '../router/request-correction.js';
import type { Candidates, Route, Strategy } from '../router/route.js';
import type { RequestFacts, WorkerSnapshot } from '../router/snapshot.js';
import { prefillPairCountOf } from '../router/step-work.js';
import type { WorkerCosts } from '../router/worker-costs.js';
import { WorkerLoad } from '../router/worker-load.js';
import { Arranging } from './arranging.js';
import { Claim } from './decode-room.js';
import { outcomeTimesOf, PredictionErrors, type RoutingStatus, realTimesOf } from './prediction-errors.js';
import { PrefixAffinity, type StrideKey, strideKeys } from './prefix-affinity.js';
import type { Request } from './request.js';
import type { RequestRecord } from './request-record.js';
import { sidesOf, summaryOf } from './route-summary.js';
import { Company, type UnloadedCosts, unloadedCostsOf, unloadedRatiosOf } from './unloaded-requests.js';
import type { WorkerFacts } from './worker-directory.js';

interface RoutingOptions {
  readonly workers: () => readonly WorkerFacts[];
  readonly costs: WorkerCosts;
  readonly strategy: Strategy;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Of a comparison of arrangements, see arranging.ts. */
  readonly turnPasses?: (workerCount: number) => Promise<void>;
}

/** A request on its way, and what was known of it when it came. */
export interface Traveller {
  readonly request: Request;
  /** Of the prompt's beginnings. */
  readonly keys: readonly StrideKey[];
  readonly lengths: LengthDistribution;
  /** Where it is now. */
  placement: Placement | null;
  /** What it will hold where it decodes. */
  claim: Claim | null;
  remembered: RememberedRequest | null;
  /** Of its first token, and of its time per token there, milliseconds. */
  limits: { readonly ttftMs: number; readonly tpotMs: number } | null;
  /** That were in its route's estimates. */
  corrections: Corrections;
  /** What the costs say of it if it is alone. */
  unloaded: UnloadedCosts | null;
}

export class Routing {
  readonly #options: RoutingOptions;
  readonly #affinity = new PrefixAffinity();
  readonly #loads = new Map<WorkerId, WorkerLoad>();
  readonly #known = new Map<WorkerId, { readonly facts: WorkerFacts; readonly snapshot: WorkerSnapshot }>();
  readonly #lengths = new LengthPredictor();
  readonly #arranging: Arranging;
  readonly #errors = new PredictionErrors();
  readonly #company = new Company();

  constructor(options: RoutingOptions) {
    this.#options = options;
    this.#arranging = new Arranging({ ...options, snapshots: () => this.#snapshots() });
  }

  get status(): RoutingStatus {
    const { workers, costs, strategy } = this.#options;
    const candidates = strategy === 'adaptive' ? candidatesOf(this.#snapshots()) : null;
    return {
      strategy,
      arrangement: candidates === null ? null : nameOf(this.#arranging.current(candidates)),
      comparedAgoMs: this.#arranging.comparedAgoMs,
      standings: this.#arranging.standings,
      errors: this.#errors.summary,
      workers: workers().map(({ id }) => costs.statusOf(id)),
    };
  }

  /** What a worker held in its prefix cache is gone. */
  forgetWorker(id: WorkerId): void {
    this.#affinity.forget(id);
  }

  /** KV memory that is expected to be needed there by all that were routed and have not ended. */
  claimedTokenCount(workers: readonly WorkerFacts[]): number {
    return workers.reduce((sum, { id }) => sum + this.#load(id).claimed.tokenCount, 0);
  }

  welcome(request: Request): Traveller {
    const keys = strideKeys(request.input.promptIds, request.input.cacheSalt);
    const lengths = this.#lengths.predict(lengthFacts(request, keys));
    const nothingYet = { placement: null, claim: null, remembered: null, limits: null, unloaded: null };
    const traveller: Traveller = { request, keys, lengths, ...nothingYet, corrections: uncorrected };
    this.#company.enter(traveller);
    return traveller;
  }

  /** Null: no worker is live. The request is told, and counted, before this returns. */
  choose(traveller: Traveller): Route | null {
    const { request } = traveller;
    const { strategy, logger } = this.#options;
    const facts = this.#facts(traveller);
    const workers = this.#snapshots();
    const rule = request.handOverFailures.length > 0 ? 'collocated' : strategy;
    let arrangement: Arrangement | undefined;
    const arrangementFor = (candidates: Candidates) => {
      arrangement = this.#arranging.current(candidates);
      return arrangement;
    };
    const route =
      request.pinnedPlace === undefined
        ? chooseRoute(facts, workers, rule, arrangementFor)
        : pinnedRoute(facts, workers, request.pinnedPlace);
    if (route === null) return null;
    const summary = { ...summaryOf(route, facts, workers), ...(arrangement && { arrangement: nameOf(arrangement) }) };
    this.#place(traveller, facts, route, workers);
    this.#remember(traveller, facts, route, workers, arrangement);
    request.routed(summary);
    logger.debug({ request: request.id, summary }, 'routed');
    return route;
  }

  /** It has memory to decode in. */
  admitted({ placement }: Traveller): void {
    placement?.onAdmitted(this.#options.clock.nowMs());
  }

  leave(traveller: Traveller): void {
    traveller.placement?.leave(this.#options.clock.nowMs());
    traveller.placement = null;
  }

  /** It has settled: what it took and how long it became, for predictions to come. Once for each that was welcomed. */
  learn(traveller: Traveller, record: RequestRecord): void {
    const { request, keys, remembered, limits, corrections, unloaded } = traveller;
    const wasAlone = this.#company.leave(traveller);
    if (request.isMeasurement) return;
    if (remembered !== null && request.isFinished) {
      remembered.outputTokenCount = Math.max(1, Math.round(request.outputTokenCount / request.outputs.length)); // of one choice
      const { ttftMs = 0, tpotMs = 0 } = realTimesOf(record);
      if (limits !== null) remembered.realScore = withinLimits(Math.max(ttftMs / limits.ttftMs, tpotMs / limits.tpotMs));
    }
    const observations = request.outputs.map(({ length: tokenCount }, index) => {
      const end = request.ended[index] ?? null;
      return { tokenCount, isCensored: end === null || end === 'length' };
    });
    this.#lengths.observeAll(lengthFacts(request, keys), observations);
    this.#errors.observe(record);
    const times = outcomeTimesOf(record, corrections);
    const [prefill, decode = prefill] = record.routes[0]?.workers ?? [];
    if (times === null || prefill === undefined || decode === undefined) return;
    this.#options.costs.observeRequest([prefill, decode], times);
    if (!wasAlone || unloaded === null) return;
    this.#options.costs.observeUnloaded([prefill, decode], unloadedRatiosOf(unloaded, times, record));
  }

  /** From here on the workers' loads count it. */
  #place(traveller: Traveller, facts: RequestFacts, route: Route, workers: readonly WorkerSnapshot[]): void {
    const { request, keys, lengths } = traveller;
    const { clock } = this.#options;
    const [prefillWorker, decodeWorker] = sidesOf(route);
    const { tokenCount, roomTokenCount, addedMs, unloadedTtftMs } = route.prefill;
    const cachedTokenCount = facts.promptTokenCount + facts.outputTokenCount - tokenCount;
    const claim = claimOf(traveller, route, workers.find(({ id }) => id === decodeWorker)?.blockTokenCount ?? 1);
    const placement = new Placement({
      id: request.id,
      prompt: {
        tokenCount,
        pairCount: prefillPairCountOf(cachedTokenCount, tokenCount),
        roomTokenCount,
        addedMs,
        unloadedTtftMs,
      },
      promptTokenCount: facts.promptTokenCount,
      choiceCount: facts.choiceCount,
      lengths,
      generatedTokenCount: facts.outputTokenCount,
      demandNow: () => claim.look(),
      prefill: this.#load(prefillWorker),
      decode: this.#load(decodeWorker),
    });
    traveller.placement = placement;
    traveller.claim = claim;
    traveller.unloaded = unloadedCostsOf(route, facts, workers);
    traveller.corrections = this.#options.costs.correctionsFor([prefillWorker, decodeWorker]);
    request.onStarted = () => placement.onStarted(clock.nowMs());
    request.onTokens = (tokenCount) => placement.onTokens(tokenCount, clock.nowMs());
    for (const worker of new Set([prefillWorker, decodeWorker])) this.#affinity.record(keys, worker); // both will hold its KV
  }

  /** For comparisons of arrangements. Only first attempts: others are not arrivals. */
  #remember(
    traveller: Traveller,
    { promptTokenCount, expectedTokenCount, nowMs, outputTokenCount }: RequestFacts,
    route: Route,
    workers: readonly WorkerSnapshot[],
    arrangement: Arrangement | undefined,
  ): void {
    if (arrangement === undefined || traveller.request.isMeasurement || outputTokenCount > 0 || traveller.remembered !== null)
      return;
    const decodeWorker = workers.find(({ id }) => id === sidesOf(route)[1]);
    if (decodeWorker === undefined) return;
    traveller.limits = { ttftMs: ttftLimitMs(route.prefill), tpotMs: tpotLimitMs(decodeWorker, promptTokenCount) };
    traveller.remembered = {
      arrivalMs: nowMs,
      promptTokenCount: route.prefill.tokenCount,
      expectedTokenCount,
      outputTokenCount: Math.max(1, Math.round(expectedTokenCount)),
      arrangementName: nameOf(arrangement),
    };
    this.#arranging.remember(traveller.remembered);
  }

  #facts({ request, keys, lengths }: Traveller): RequestFacts {
    const { promptIds, sampling } = request.input;
    const { choiceCount } = sampling;
    return {
      promptTokenCount: promptIds.length,
      outputTokenCount: request.outputTokenCount,
      maxTokenCount: sampling.maxTokenCount,
      choiceCount,
      expectedTokenCount: lengths.mean,
      growth: growthOf({ choiceCount, generatedTokenCount: request.outputTokenCount, lengths }),
      prefixTokenCounts: this.#affinity.lookup(keys),
      ttftWeight: 1,
      nowMs: this.#options.clock.nowMs(),
    };
  }

  /** Reports lag behind; what has been routed is known at once, so the load is counted from the requests themselves. */
  #snapshots(): readonly WorkerSnapshot[] {
    return this.#options.workers().map((facts) => this.#snapshotOf(facts));
  }

  /** The last one as long as it is true: among many workers most of a decision would go into making them. */
  #snapshotOf(facts: WorkerFacts): WorkerSnapshot {
    const { id } = facts;
    const { costs: all } = this.#options;
    const [costs, corrections, unloaded] = [all.parametersOf(id, facts.shape), all.correctionsOf(id), all.unloadedOf(id)];
    const known = this.#known.get(id);
    if (
      known?.facts === facts &&
      known.snapshot.costs === costs &&
      known.snapshot.corrections === corrections &&
      known.snapshot.unloaded === unloaded
    )
      return known.snapshot;
    const snapshot = { ...facts, load: this.#load(id), costs, corrections, unloaded };
    this.#known.set(id, { facts, snapshot });
    return snapshot;
  }

  #load(id: WorkerId): WorkerLoad {
    const load = this.#loads.get(id) ?? new WorkerLoad();
    this.#loads.set(id, load);
    return load;
  }
}

function claimOf({ request, lengths }: Traveller, route: Route, blockTokenCount: number): Claim {
  const { promptIds, priority = 0, sampling } = request.input;
  const { choiceCount } = sampling;
  const isWhole = route.path === 'collocated';
  const promptTokenCount = isWhole ? Math.min(route.prefill.tokenCount, promptIds.length) : promptIds.length;
  const demandNow = () => {
    const generatedTokenCount = request.outputTokenCount;
    return demandOf({ promptTokenCount, choiceCount, generatedTokenCount, lengths }, blockTokenCount);
  };
  return new Claim({ choiceCount, priority, needsSlots: !isWhole, demandNow });
}

function lengthFacts({ input }: Request, keys: readonly StrideKey[]): LengthFacts {
  const { promptIds, sampling } = input;
  return { promptTokenCount: promptIds.length, maxTokenCount: sampling.maxTokenCount, prefixIds: samplePrefixes(keys) };
}
