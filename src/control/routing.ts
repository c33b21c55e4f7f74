/** Everything the router knows while requests come and go: loads, costs, lengths, prefixes, the plan; and its
 *  decisions. Used by coordinator.ts, which drives requests along what is decided here.
 *  Invariant: a attempt's placement is counted from `choose` until `leave`, and never twice. */
import type { Clock } from '../base/clock.js';
import type { WorkerId } from '../base/ids.js';
import type { Logger } from '../base/log.js';
import { chooseRoute, hasTimeToSpare, pinnedRoute } from '../router/choose-route.js';
import { defaultSlo, unloadedMs } from '../router/default-slo.js';
import { demandOf, growthOf } from '../router/kv-growth.js';
import type { LengthDistribution } from '../router/length-distribution.js';
import { samplePrefixes } from '../router/length-levels.js';
import { type LengthFacts, LengthPredictor } from '../router/length-predictor.js';
import { Placement } from '../router/placement.js';
import { alone, type Plan, planOf } from '../router/plan.js';
import { Planner } from '../router/planner.js';
import type { UnloadedFacts } from '../router/prediction.js';
import { type Corrections, uncorrected } from '../router/request-correction.js';
import type { Route, Strategy } from '../router/route.js';
import type { Slo } from '../router/slo.js';
import type { SloSpec } from '../router/slo-spec.js';
import type { RequestFacts, WorkerSnapshot } from '../router/snapshot.js';
import { prefillPairCountOf } from '../router/step-work.js';
import type { WorkerCosts } from '../router/worker-costs.js';
import { WorkerLoad } from '../router/worker-load.js';
import { Claim } from './decode-room.js';
import type { OverloadPolicy } from './gateway-api.js';
import { refuseLate, refuseLongWait } from './overload.js';
import { outcomeTimesOf, PredictionErrors, type RoutingStatus } from './prediction-errors.js';
import { PrefixAffinity, type StrideKey, strideKeys } from './prefix-affinity.js';
import type { Request } from './request.js';
import type { RequestRecord } from './request-record.js';
import { sidesOf, summaryOf } from './route-summary.js';
import { LoneRequests, type UnloadedCosts, unloadedCostsOf, unloadedRatiosOf } from './unloaded-requests.js';
import type { WorkerFacts } from './worker-directory.js';

interface RoutingOptions {
  readonly workers: () => readonly WorkerFacts[];
  readonly costs: WorkerCosts;
  readonly strategy: Strategy;
  readonly onOverload: OverloadPolicy;
  /** Of requests that bring none, or not all of it. Absent: the usual multiples. */
  readonly slo?: SloSpec;
  /** See GatewayLimits. */
  readonly waitMsMax: number;
  /** A prompt has been computed: whoever waits for the workers may find room. */
  readonly onPromptDone: () => void;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** A request on its way, and what was known of it when it came. */
export interface Attempt {
  readonly request: Request;
  /** Of the prompt's beginnings. */
  readonly keys: readonly StrideKey[];
  readonly lengths: LengthDistribution;
  /** Where it is now. */
  placement: Placement | null;
  /** What it will hold where it decodes. */
  claim: Claim | null;
  /** That were in its route's estimates. */
  corrections: Corrections;
  /** What the costs say of it if it is alone. */
  unloaded: UnloadedCosts | null;
}

/** Its first token will be late. */
export interface Late {
  readonly path: 'late';
  /** For those who are on the workers already. */
  readonly waitMs: number;
  /** What its first token takes without anybody. */
  readonly aloneMs: number;
}

export class Routing {
  readonly #options: RoutingOptions;
  readonly #affinity = new PrefixAffinity();
  readonly #loads = new Map<WorkerId, WorkerLoad>();
  readonly #known = new Map<WorkerId, { readonly facts: WorkerFacts; readonly snapshot: WorkerSnapshot }>();
  readonly #lengths = new LengthPredictor();
  readonly #planner = new Planner();
  /** As the planner last had it. */
  #prefillFirst: ReadonlySet<WorkerId> = new Set();
  readonly #errors = new PredictionErrors();
  readonly #loneRequests = new LoneRequests();

  constructor(options: RoutingOptions) {
    this.#options = options;
  }

  get status(): RoutingStatus {
    const { workers, costs, strategy } = this.#options;
    const plan = this.#plan(this.#snapshots());
    const workersInPlan = plan === null || plan.collocated.length === 0 ? [] : plan.prefill;
    return {
      strategy,
      plan: plan?.name ?? null,
      prefillFirst: workersInPlan.map(({ id }) => id),
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

  admit(request: Request): Attempt {
    const keys = strideKeys(request.input.promptIds, request.input.cacheSalt);
    const lengths = this.#lengths.predict(lengthFacts(request, keys));
    const nothingYet = { placement: null, claim: null, unloaded: null };
    const attempt: Attempt = { request, keys, lengths, ...nothingYet, corrections: uncorrected };
    this.#loneRequests.enter(attempt);
    return attempt;
  }

  /** Null: no worker is live. Late: it is to wait for those who can be in time. Throws OverloadedError.
   *  The request knows its route, and is counted, before this returns. */
  choose(attempt: Attempt): Route | Late | null {
    const { request } = attempt;
    const workers = this.#snapshots();
    const facts = this.#facts(attempt, workers);
    const plan = this.#planFor(request, workers);
    const route =
      request.pinnedPlace === undefined
        ? plan && chooseRoute(facts, plan)
        : pinnedRoute(facts, workers, request.pinnedPlace);
    if (route === null) return null;
    request.slo = facts.slo;
    const isNew = request.routes.length === 0 && !request.isMeasurement;
    if (isNew) {
      this.#planner.observe(facts);
      const late = this.#lateOf(request, route, facts, workers);
      if (late !== null) return late;
    }
    return this.#take(attempt, route, facts, { workers, plan });
  }

  /** For one that waits because it is late: null while it would take from those who can be in time.
   *  `isForced`: it has waited long enough. */
  chooseLate(attempt: Attempt, isForced: boolean): Route | null {
    const { request } = attempt;
    const workers = this.#snapshots();
    const facts = this.#facts(attempt, workers);
    const plan = this.#planFor(request, workers);
    const route = plan && chooseRoute(facts, plan);
    if (route === null) return null;
    const unloadedTtftMs = unloadedMs(unloadedFacts(request), workers).ttftMs;
    if (!isForced && !hasTimeToSpare(route, facts, workers, unloadedTtftMs)) return null;
    request.servedFromMs = facts.nowMs;
    return this.#take(attempt, afterWaiting(route, facts.nowMs - request.arrivalMs, facts.slo), facts, {
      workers,
      plan,
    });
  }

  #take(
    attempt: Attempt,
    route: Route,
    facts: RequestFacts,
    { workers, plan }: { readonly workers: readonly WorkerSnapshot[]; readonly plan: Plan | null },
  ): Route {
    const { request } = attempt;
    const summary = summaryOf(route, facts, workers, plan?.name ?? 'as asked');
    this.#place(attempt, facts, route, workers);
    request.routed(summary);
    this.#options.logger.debug({ request: request.id, summary }, 'routed');
    return route;
  }

  /** Null: it is routed at once. Throws OverloadedError: it is refused. */
  #lateOf(
    request: Request,
    { estimate }: Route,
    facts: RequestFacts,
    workers: readonly WorkerSnapshot[],
  ): Late | null {
    const { onOverload, clock, waitMsMax } = this.#options;
    request.isLate = estimate.ttftUse > 1;
    const aloneMs = request.isLate ? unloadedMs(unloadedFacts(request), workers).ttftMs : 0;
    if (request.isLate && onOverload === 'shed') refuseLate(estimate, facts.slo, aloneMs);
    const isPaced = workers.every(({ pacing }) => pacing !== 'off');
    if (request.isLate && onOverload === 'late' && isPaced)
      return { path: 'late', waitMs: estimate.waitMs, aloneMs };
    refuseLongWait(estimate, request.deadlineAtMs - clock.nowMs(), waitMsMax);
    return null;
  }

  #plan(workers: readonly WorkerSnapshot[]): Plan | null {
    const { strategy, clock } = this.#options;
    if (strategy === 'adaptive') this.#prefillFirst = this.#planner.prefillFirst(workers, clock.nowMs());
    return planOf(workers, strategy, this.#prefillFirst);
  }

  /** After a failed hand-over it stays on one worker; with tokens already, on one that decodes, which
   *  computes them again. */
  #planFor(request: Request, workers: readonly WorkerSnapshot[]): Plan | null {
    const plan = this.#plan(workers);
    if (plan === null) return null;
    const { collocated, decode } = plan;
    if (request.outputTokenCount > 0) return alone(decode.length > 0 ? decode : collocated, 'recompute');
    if (request.handOverFailures.length > 0)
      return alone(collocated.length > 0 ? collocated : decode, 'recompute');
    return plan;
  }

  /** It has memory to decode in. */
  admitted({ placement }: Attempt): void {
    placement?.onAdmitted(this.#options.clock.nowMs());
  }

  leave(attempt: Attempt): void {
    attempt.placement?.leave(this.#options.clock.nowMs());
    attempt.placement = null;
  }

  /** It has settled: what it took and how long it became, for predictions to come. Once for each that was
   *  welcomed. */
  learn(attempt: Attempt, record: RequestRecord): void {
    const { request, keys, corrections, unloaded } = attempt;
    const wasAlone = this.#loneRequests.leave(attempt);
    const isComputed = !request.isLate || request.routes.length > 0;
    if (request.isMeasurement || !isComputed) return;
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
  #place(attempt: Attempt, facts: RequestFacts, route: Route, workers: readonly WorkerSnapshot[]): void {
    const { request, keys, lengths } = attempt;
    const { clock } = this.#options;
    const [prefillWorker, decodeWorker] = sidesOf(route);
    const { tokenCount, prefillMs, addedMs } = route.prefill;
    const cachedTokenCount = facts.promptTokenCount + facts.outputTokenCount - tokenCount;
    const claim = claimOf(
      attempt,
      route,
      workers.find(({ id }) => id === decodeWorker)?.blockTokenCount ?? 1,
    );
    const placement = new Placement({
      id: request.id,
      prompt: {
        tokenCount,
        pairCount: prefillPairCountOf(cachedTokenCount, tokenCount),
        prefillMs,
        addedMs,
        dueMs: request.firstTokenDueMs(facts.slo),
        priority: request.priority,
      },
      promptTokenCount: facts.promptTokenCount,
      choiceCount: facts.choiceCount,
      lengths,
      generatedTokenCount: facts.outputTokenCount,
      demandNow: () => claim.look(),
      prefill: this.#load(prefillWorker),
      decode: this.#load(decodeWorker),
    });
    for (const worker of [prefillWorker, decodeWorker]) this.#load(worker).give(facts.nowMs);
    attempt.placement = placement;
    attempt.claim = claim;
    attempt.unloaded = unloadedCostsOf(route, facts, workers);
    attempt.corrections = this.#options.costs.correctionsFor([prefillWorker, decodeWorker]);
    request.onStarted = () => placement.onStarted(clock.nowMs());
    request.onTokens = (tokenCount) => {
      const isFirst = request.outputTokenCount === tokenCount;
      placement.onTokens(tokenCount, clock.nowMs());
      if (isFirst) this.#options.onPromptDone();
    };
    // both will hold its KV
    for (const worker of new Set([prefillWorker, decodeWorker])) this.#affinity.record(keys, worker);
  }

  #facts({ request, keys, lengths }: Attempt, workers: readonly WorkerSnapshot[]): RequestFacts {
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
      slo: request.slo ?? sloOf(request, workers, request.input.serviceClass?.slo ?? this.#options.slo),
      priority: request.priority,
      isLate: request.isLate,
      nowMs: this.#options.clock.nowMs(),
    };
  }

  /** Reports lag behind; what has been routed is known at once, so the load is counted from the requests
   *  themselves. */
  #snapshots(): readonly WorkerSnapshot[] {
    return this.#options.workers().map((facts) => this.#snapshotOf(facts));
  }

  /** The last one as long as it is true: among many workers most of a decision would go into making them. */
  #snapshotOf(facts: WorkerFacts): WorkerSnapshot {
    const { id } = facts;
    const { costs: all } = this.#options;
    if (facts.kind !== undefined)
      all.describe(id, { kind: facts.kind, use: this.#prefillFirst.has(id) ? 'prefill' : facts.role });
    const [costs, corrections, unloaded] = [
      all.parametersOf(id, facts.shape),
      all.correctionsOf(id),
      all.unloadedOf(id),
    ];
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

/** As the client asked; for what it has not said, as the operator did. */
function sloOf(request: Request, workers: readonly WorkerSnapshot[], targets: SloSpec | undefined): Slo {
  return { ...defaultSlo(unloadedFacts(request), workers, targets), ...request.input.slo };
}

/** Its estimates count from its arrival. */
function afterWaiting(route: Route, waitedMs: number, slo: Slo): Route {
  const { ttftMs, waitMs, e2elMs } = route.estimate;
  const later = { ttftMs: ttftMs + waitedMs, waitMs: waitMs + waitedMs, e2elMs: e2elMs + waitedMs };
  return { ...route, estimate: { ...route.estimate, ...later, ttftUse: later.ttftMs / slo.ttftMs } };
}

function unloadedFacts({ input, outputTokenCount }: Request): UnloadedFacts {
  return { promptTokenCount: input.promptIds.length, outputTokenCount };
}

function claimOf({ request, lengths }: Attempt, route: Route, blockTokenCount: number): Claim {
  const { promptIds, sampling } = request.input;
  const { choiceCount } = sampling;
  const isWhole = route.path === 'collocated';
  const promptTokenCount = isWhole ? Math.min(route.prefill.tokenCount, promptIds.length) : promptIds.length;
  const demandNow = () => {
    const generatedTokenCount = request.outputTokenCount;
    return demandOf({ promptTokenCount, choiceCount, generatedTokenCount, lengths }, blockTokenCount);
  };
  return new Claim({ choiceCount, priority: request.priority, needsSlots: !isWhole, demandNow });
}

function lengthFacts({ input }: Request, keys: readonly StrideKey[]): LengthFacts {
  const { promptIds, sampling } = input;
  return {
    promptTokenCount: promptIds.length,
    maxTokenCount: sampling.maxTokenCount,
    prefixIds: samplePrefixes(keys),
  };
}
