/** Everything the router knows while requests come and go: loads, costs, lengths, prefixes, the plan; and its
 *  decisions. Used by coordinator.ts, which drives requests along what is decided here.
 *  Invariant: what is decided is counted in the workers' loads before the next decision. */
import { assert } from '../base/assert.js';
import type { Clock } from '../base/clock.js';
import type { WorkerId } from '../base/ids.js';
import type { Logger } from '../base/log.js';
import { chooseRoute, comfortableTtftUse, hasTimeToSpare, pinnedRoute } from '../router/choose-route.js';
import { defaultSlo, unloadedMs } from '../router/default-slo.js';
import { demandOf, growthOf } from '../router/kv-growth.js';
import type { LengthDistribution } from '../router/length-distribution.js';
import { samplePrefixes } from '../router/length-levels.js';
import { type LengthFacts, LengthPredictor } from '../router/length-predictor.js';
import { Placement } from '../router/placement.js';
import { alone, type Plan, planOf } from '../router/plan.js';
import { Planner } from '../router/planner.js';
import type { UnloadedFacts } from '../router/prediction.js';
import type { Route, Strategy } from '../router/route.js';
import type { Slo } from '../router/slo.js';
import type { SloSpec } from '../router/slo-spec.js';
import type { RequestFacts, WorkerSnapshot } from '../router/snapshot.js';
import { prefillPairCountOf } from '../router/step-work.js';
import type { WorkerCosts } from '../router/worker-costs.js';
import { WorkerLoad } from '../router/worker-load.js';
import { Attempt } from './attempt.js';
import { Claim } from './decode-room.js';
import { FairShares } from './fair-shares.js';
import type { OverloadPolicy } from './gateway-api.js';
import { lateAfterMs, refuseLate, refuseLongWait } from './overload.js';
import { outcomeTimesOf, PredictionErrors, type RoutingStatus } from './prediction-errors.js';
import { PrefixAffinity, type StrideKey, strideKeys } from './prefix-affinity.js';
import type { Request } from './request.js';
import type { RequestRecord } from './request-record.js';
import { sidesOf, summaryOf } from './route-summary.js';
import { LoneRequests, unloadedCostsOf, unloadedRatiosOf } from './unloaded-requests.js';
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

/** What is known of a request from its arrival on. */
interface Known {
  /** Of the prompt's beginnings. */
  readonly keys: readonly StrideKey[];
  readonly lengths: LengthDistribution;
}

/** A request, and everything that a decision about it looks at. */
interface Question extends Known {
  readonly request: Request;
  readonly facts: RequestFacts;
  readonly workers: readonly WorkerSnapshot[];
  readonly plan: Plan | null;
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
  readonly #shares: FairShares;
  readonly #loneRequests = new LoneRequests();
  /** From `admit` to `learn`. */
  readonly #requests = new Map<Request, Known>();

  constructor(options: RoutingOptions) {
    this.#options = options;
    this.#shares = new FairShares(options.clock);
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

  admit(request: Request): Known {
    const keys = strideKeys(request.input.promptIds, request.input.cacheSalt);
    const known = { keys, lengths: this.#lengths.predict(lengthFacts(request, keys)) };
    this.#requests.set(request, known);
    this.#loneRequests.enter(request);
    return known;
  }

  /** Null: no worker is live. Late: it is to wait for those who can be in time. Throws OverloadedError.
   *  The request knows its route, and is counted, before this returns. */
  choose(request: Request): Attempt | Late | null {
    const question = this.#question(request);
    const { facts, workers, plan } = question;
    const route =
      request.pinnedPlace === undefined
        ? plan && chooseRoute(facts, plan)
        : pinnedRoute(facts, workers, request.pinnedPlace);
    if (route === null) return null;
    request.slo = facts.slo;
    const isNew = request.routes.length === 0 && !request.isMeasurement;
    if (isNew) {
      this.#planner.observe(facts);
      this.#shares.ask(request.input);
      const late = this.#lateOf(request, route, facts, workers);
      if (late !== null) return late;
    }
    return this.#attempt(question, route);
  }

  /** For one that waits because it is late: null while it would take from those who can be in time.
   *  `isForced`: it has waited long enough. */
  chooseLate(request: Request, isForced: boolean): Attempt | null {
    const question = this.#question(request);
    const { facts, workers, plan } = question;
    const route = plan && chooseRoute(facts, plan);
    if (route === null) return null;
    const unloadedTtftMs = unloadedMs(unloadedFacts(request), workers).ttftMs;
    if (!isForced && !hasTimeToSpare(route, facts, workers, unloadedTtftMs)) return null;
    request.servedFromMs = facts.nowMs;
    return this.#attempt(question, afterWaiting(route, facts.nowMs - request.arrivalMs, facts.slo));
  }

  #question(request: Request): Question {
    const known = this.#requests.get(request);
    assert(known !== undefined, `request ${request.id} was admitted and has not ended`);
    const workers = this.#snapshots();
    const facts = this.#facts(request, known, workers);
    return { request, ...known, facts, workers, plan: this.#planFor(request, workers) };
  }

  /** Null: it is routed at once. Throws OverloadedError: it is refused. */
  #lateOf(
    request: Request,
    { estimate }: Route,
    facts: RequestFacts,
    workers: readonly WorkerSnapshot[],
  ): Late | null {
    const { onOverload, clock, waitMsMax } = this.#options;
    const aloneMs =
      estimate.ttftUse <= comfortableTtftUse ? 0 : unloadedMs(unloadedFacts(request), workers).ttftMs;
    const dueMs = lateAfterMs(facts.slo, aloneMs, this.#shares.isBeyondShare(request.input));
    request.isLate = estimate.ttftMs > dueMs;
    if (onOverload === 'shed') refuseLate(estimate, dueMs, aloneMs);
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

  /** It has settled: what it took and how long it became, for predictions to come. Once for each that was
   *  admitted. `attempt`: its last, if there was one. */
  learn(request: Request, attempt: Attempt | null, record: RequestRecord): void {
    const known = this.#requests.get(request);
    assert(known !== undefined, `request ${request.id} ends once`);
    this.#requests.delete(request);
    const wasAlone = this.#loneRequests.leave(request);
    const isComputed = !request.isLate || request.routes.length > 0;
    if (request.isMeasurement || !isComputed) return;
    const observations = request.outputs.map(({ length: tokenCount }, index) => {
      const end = request.ended[index] ?? null;
      return { tokenCount, isCensored: end === null || end === 'length' };
    });
    this.#lengths.observeAll(lengthFacts(request, known.keys), observations);
    this.#errors.observe(record);
    if (attempt === null) return;
    const { corrections, unloaded } = attempt.predicted;
    const times = outcomeTimesOf(record, corrections);
    const [prefill, decode = prefill] = record.routes[0]?.workers ?? [];
    if (times === null || prefill === undefined || decode === undefined) return;
    this.#options.costs.observeRequest([prefill, decode], times);
    if (!wasAlone || unloaded === null) return;
    this.#options.costs.observeUnloaded([prefill, decode], unloadedRatiosOf(unloaded, times, record));
  }

  /** From here on the workers' loads count it. */
  #attempt(question: Question, route: Route): Attempt {
    const { request, facts, workers, plan } = question;
    const summary = summaryOf(route, facts, workers, plan?.name ?? 'as asked');
    if (request.routes.length === 0 && !request.isMeasurement)
      this.#shares.give(request.input, facts.promptTokenCount + facts.choiceCount * facts.expectedTokenCount);
    const sides = sidesOf(route);
    const [, decodeWorker] = sides;
    const { blockTokenCount = 1 } = workers.find(({ id }) => id === decodeWorker) ?? {};
    const claim = claimOf(question, route, blockTokenCount);
    const attempt = new Attempt({
      request,
      route,
      placement: this.#place(question, route, claim),
      claim,
      predicted: {
        corrections: this.#options.costs.correctionsFor(sides),
        unloaded: unloadedCostsOf(route, facts, workers),
      },
      clock: this.#options.clock,
      onPromptDone: this.#options.onPromptDone,
    });
    request.attempt = attempt;
    request.routed(summary);
    this.#options.logger.debug({ request: request.id, summary }, 'routed');
    return attempt;
  }

  #place({ request, keys, lengths, facts }: Question, route: Route, claim: Claim): Placement {
    const [prefillWorker, decodeWorker] = sidesOf(route);
    const { tokenCount, prefillMs, addedMs } = route.prefill;
    const cachedTokenCount = facts.promptTokenCount + facts.outputTokenCount - tokenCount;
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
    // both will hold its KV
    for (const worker of new Set([prefillWorker, decodeWorker])) this.#affinity.record(keys, worker);
    return placement;
  }

  #facts(request: Request, { keys, lengths }: Known, workers: readonly WorkerSnapshot[]): RequestFacts {
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
function sloOf(request: Request, workers: readonly WorkerSnapshot[], spec: SloSpec | undefined): Slo {
  return { ...defaultSlo(unloadedFacts(request), workers, spec), ...request.input.slo };
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

function claimOf({ request, lengths }: Question, route: Route, blockTokenCount: number): Claim {
  const { promptIds, sampling } = request.input;
  const { choiceCount } = sampling;
  const isCollocated = route.path === 'collocated';
  const promptTokenCount = isCollocated
    ? Math.min(route.prefill.tokenCount, promptIds.length)
    : promptIds.length;
  const demandNow = () => {
    const generatedTokenCount = request.outputTokenCount;
    return demandOf({ promptTokenCount, choiceCount, generatedTokenCount, lengths }, blockTokenCount);
  };
  return new Claim({ choiceCount, priority: request.priority, needsSlots: !isCollocated, demandNow });
}

function lengthFacts({ input }: Request, keys: readonly StrideKey[]): LengthFacts {
  const { promptIds, sampling } = input;
  return {
    promptTokenCount: promptIds.length,
    maxTokenCount: sampling.maxTokenCount,
    prefixIds: samplePrefixes(keys),
  };
}
