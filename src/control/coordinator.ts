/** Takes requests in, finds each a route, drives it along, and starts again elsewhere when a worker dies. Used by gateway.ts.
 *  Invariants: every accepted request settles within its deadline (I1); a new attempt starts only when the last one's workers hold
 *  nothing of the request any more (I2); tokens already emitted are never emitted again (I5). */
import type { Clock } from '../base/clock.js';
import { InvalidRequestError, messageOf, TwostrokeError } from '../base/errors.js';
import type { RequestId, WorkerId } from '../base/ids.js';
import type { Logger } from '../base/log.js';
import { Arranger, type RememberedRequest } from '../router/arranger.js';
import { chooseRoute, pinnedRoute } from '../router/choose-route.js';
import type { PathEstimate } from '../router/estimate.js';
import type { LengthDistribution } from '../router/length-distribution.js';
import { samplePrefixes } from '../router/length-levels.js';
import { type LengthFacts, LengthPredictor } from '../router/length-predictor.js';
import { Placement } from '../router/placement.js';
import { type Route, type Strategy, workersOf } from '../router/route.js';
import type { RequestFacts, WorkerSnapshot } from '../router/snapshot.js';
import { prefillPairCountOf } from '../router/step-work.js';
import type { WorkerCosts, WorkerShape } from '../router/worker-costs.js';
import { WorkerLoad } from '../router/worker-load.js';
import { Admission } from './admission.js';
import type { RequestInput, TransferFailurePolicy } from './gateway-api.js';
import type { GatewayLimits } from './gateway-options.js';
import type { GenerationStream } from './generation-stream.js';
import { runCollocated, runDisaggregated } from './paths.js';
import { PrefixAffinity, type StrideKey, strideKeys } from './prefix-affinity.js';
import { Request } from './request.js';
import type { RequestRecord, RouteSummary } from './request-record.js';
import { Reservations, type ReservationTiming } from './reservations.js';
import { HandOverError, type WorkerClient, WorkerLostError } from './worker-client.js';

/** What a worker looks like to the coordinator before its load and its costs are added: numbers from the worker's last report. */
export interface WorkerFacts extends Omit<WorkerSnapshot, 'load' | 'costs'> {
  readonly shape?: WorkerShape;
}

/** Who is there; see registry.ts. */
export interface WorkerDirectory {
  workers(): readonly WorkerFacts[];
  client(id: WorkerId): WorkerClient | null;
  /** Resolves when a worker has come or gone. */
  changed(): Promise<void>;
}

export interface CoordinatorOptions {
  readonly directory: WorkerDirectory;
  readonly costs: WorkerCosts;
  readonly strategy: Strategy;
  readonly onTransferFailure: TransferFailurePolicy;
  readonly limits: GatewayLimits;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly onDone: (record: RequestRecord) => void;
  /** Requests wait for it: before, the roles that are loaded first would get everything. Its rejection fails them. */
  readonly ready: Promise<void>;
}

/** A request on its way, and what was known of it when it came. */
interface Traveller {
  readonly request: Request;
  /** Of the prompt's beginnings. */
  readonly keys: readonly StrideKey[];
  readonly lengths: LengthDistribution;
  /** Where it is now. */
  placement: Placement | null;
  remembered: RememberedRequest | null;
}

/** Between two comparisons of arrangements, which take some ten milliseconds of computing. */
const arrangeEveryMs = 1_000;

export class Coordinator {
  readonly #options: CoordinatorOptions;
  readonly #admission: Admission;
  readonly #reservations: Reservations;
  readonly #affinity = new PrefixAffinity();
  readonly #travellers = new Map<RequestId, Traveller>();
  readonly #loads = new Map<WorkerId, WorkerLoad>();
  readonly #lengths = new LengthPredictor();
  readonly #arranger = new Arranger();
  #isArranging = false;
  #arrangeAgainMs = 0;

  constructor(options: CoordinatorOptions) {
    this.#options = options;
    this.#admission = new Admission(options.clock, options.limits.requestCountMax);
    this.#reservations = new Reservations(options.clock, options.limits);
  }

  get requestCount(): number {
    return this.#admission.requestCount;
  }

  /** Throws OverloadedError, or InvalidRequestError when the id is in use. */
  submit(input: RequestInput): GenerationStream {
    if (this.#travellers.has(input.id)) throw new InvalidRequestError(`request id ${input.id} is in use`, 'id');
    this.#admission.enter();
    const { clock, limits } = this.#options;
    const request = new Request(input, clock, limits.requestDeadlineMs);
    const keys = strideKeys(input.promptIds, input.cacheSalt);
    const traveller: Traveller = {
      request,
      keys,
      lengths: this.#lengths.predict(lengthFacts(request, keys)),
      placement: null,
      remembered: null,
    };
    this.#travellers.set(request.id, traveller);
    void this.#run(traveller).finally(() => this.#end(traveller));
    return request.stream;
  }

  cancelAll(): void {
    for (const { request } of this.#travellers.values()) request.cancel();
  }

  /** What a worker held in its prefix cache is gone. */
  forgetWorker(id: WorkerId): void {
    this.#affinity.forget(id);
  }

  async #run(traveller: Traveller): Promise<void> {
    const { request } = traveller;
    await request.orSettled(this.#options.ready).catch((error) => this.#afterFailure(request, error));
    while (!request.isSettled) {
      try {
        const route = await this.#chooseRoute(traveller);
        if (route !== null) await this.#follow(route, request);
      } catch (error) {
        this.#afterFailure(request, error);
      }
      this.#leave(traveller);
    }
  }

  /** Waits while no worker is live. Null when the request settles first. */
  async #chooseRoute(traveller: Traveller): Promise<Route | null> {
    const { request } = traveller;
    const { directory, strategy } = this.#options;
    while (!request.isSettled) {
      const facts = this.#facts(traveller);
      const { pinnedPlace } = request;
      const workers = this.#snapshots();
      const rule = request.handOverFailures.length > 0 ? 'collocated' : strategy;
      const route =
        pinnedPlace === undefined
          ? chooseRoute(facts, workers, rule, (candidates) => this.#arranger.current(candidates))
          : pinnedRoute(facts, workers, pinnedPlace);
      if (route !== null) {
        this.#place(traveller, facts, route);
        request.routed(summaryOf(route, facts));
        this.#options.logger.debug({ request: request.id, route }, 'routed');
        return route;
      }
      await request.orSettled(directory.changed());
    }
    return null;
  }

  /** From here on the workers' loads count it. */
  #place(traveller: Traveller, facts: RequestFacts, route: Route): void {
    const { request, keys, lengths } = traveller;
    const { clock } = this.#options;
    const [prefillWorker, decodeWorker] = sidesOf(route);
    const { tokenCount, addedMs, unloadedTtftMs } = route.prefill;
    const cachedTokenCount = facts.promptTokenCount + facts.outputTokenCount - tokenCount;
    const placement = new Placement(
      {
        id: request.id,
        prompt: { tokenCount, pairCount: prefillPairCountOf(cachedTokenCount, tokenCount), addedMs, unloadedTtftMs },
        promptTokenCount: facts.promptTokenCount,
        choiceCount: facts.choiceCount,
        lengths,
        generatedTokenCount: facts.outputTokenCount,
        prefill: this.#load(prefillWorker),
        decode: this.#load(decodeWorker),
      },
      facts.nowMs,
    );
    traveller.placement = placement;
    this.#remember(traveller, facts, tokenCount);
    request.onTokens = (tokenCount) => placement.onTokens(tokenCount, clock.nowMs());
    for (const worker of new Set([prefillWorker, decodeWorker])) this.#affinity.record(keys, worker); // both will hold its KV
  }

  /** For the arranger, and its turn when it is due. Only first attempts: others are not arrivals. */
  #remember(traveller: Traveller, { expectedTokenCount, nowMs, outputTokenCount }: RequestFacts, promptTokenCount: number): void {
    const { strategy, clock } = this.#options;
    if (strategy !== 'adaptive' || outputTokenCount > 0 || traveller.remembered !== null) return;
    if (traveller.request.isMeasurement) return;
    const outputCount = Math.max(1, Math.round(expectedTokenCount));
    traveller.remembered = { arrivalMs: nowMs, promptTokenCount, expectedTokenCount, outputTokenCount: outputCount };
    this.#arranger.remember(traveller.remembered);
    if (!this.#arranger.isDue || this.#isArranging || nowMs < this.#arrangeAgainMs) return;
    this.#isArranging = true;
    void this.#arrange().finally(() => {
      this.#isArranging = false;
      this.#arrangeAgainMs = clock.nowMs() + arrangeEveryMs;
    });
  }

  /** A replay in each turn of the event loop, so that nobody waits long (I6). */
  async #arrange(): Promise<void> {
    const { clock, logger } = this.#options;
    for (const _ of this.#arranger.comparison(this.#snapshots())) await clock.yield();
    logger.debug({ standings: this.#arranger.standings }, 'arrangements compared');
  }

  #leave(traveller: Traveller): void {
    traveller.placement?.leave(this.#options.clock.nowMs());
    traveller.placement = null;
  }

  async #follow(route: Route, request: Request): Promise<void> {
    if (route.path === 'collocated') return runCollocated(request, this.#client(route.worker));
    const prefill = this.#client(route.prefillWorker);
    const decode = this.#client(route.decodeWorker);
    await runDisaggregated(request, prefill, decode, this.#reservations.open(request, decode, this.#timing(request, decode.id)));
  }

  /** Decode without room, or with others waiting for room: nothing is computed before there is a place for it. */
  #timing(request: Request, decode: WorkerId): ReservationTiming {
    const worker = this.#options.directory.workers().find((each) => each.id === decode);
    const tokenCount = request.input.promptIds.length + request.outputTokenCount;
    const isShort = worker === undefined || Math.ceil(tokenCount / worker.blockTokenCount) > worker.availableBlockCount;
    return isShort || this.#reservations.waitingCount(decode) > 0 ? 'before_prefill' : 'just_in_time';
  }

  #afterFailure(request: Request, error: unknown): void {
    const { logger, limits } = this.#options;
    if (request.isSettled) return;
    if (error instanceof WorkerLostError) {
      request.lossCount++;
      logger.warn(
        { request: request.id, tokens: request.outputTokenCount, reason: error.message },
        'request continues elsewhere',
      );
      if (request.lossCount > limits.lossCountMax) {
        request.fail(
          new TwostrokeError('unavailable', `request ${request.id} lost ${request.lossCount} workers; last: ${error.message}`),
        );
      }
    } else if (error instanceof HandOverError) {
      this.#afterHandOver(request, error);
    } else {
      if (!(error instanceof TwostrokeError)) logger.error({ request: request.id, err: error }, 'request failed unexpectedly');
      request.fail(error instanceof TwostrokeError ? error : new TwostrokeError('internal', messageOf(error)));
    }
  }

  #afterHandOver(request: Request, error: HandOverError): void {
    const policy = request.input.onTransferFailure ?? this.#options.onTransferFailure;
    request.handOverFailures.push(error.reason);
    if (policy === 'fail' && error.reason !== 'no_room') {
      request.fail(new TwostrokeError(error.code, `the hand-over of request ${request.id} failed: ${error.message}`));
      return;
    }
    const { logger } = this.#options;
    logger.warn({ request: request.id, reason: error.message }, 'hand-over failed, request continues on one worker');
  }

  #end({ request, keys, remembered }: Traveller): void {
    if (remembered !== null && request.isFinished) remembered.outputTokenCount = request.outputTokenCount;
    this.#travellers.delete(request.id);
    this.#admission.leave();
    for (const [index, output] of request.isMeasurement ? [] : request.outputs.entries()) {
      const end = request.ended[index] ?? null;
      const isCensored = end === null || end === 'length';
      this.#lengths.observe(lengthFacts(request, keys), { tokenCount: output.length, isCensored });
    }
    this.#options.onDone(request.toRecord());
  }

  #client(id: WorkerId): WorkerClient {
    const client = this.#options.directory.client(id);
    if (client === null) throw new WorkerLostError(id, 'it went away while the request was routed');
    return client;
  }

  #facts({ request, keys, lengths }: Traveller): RequestFacts {
    const { promptIds, sampling } = request.input;
    return {
      promptTokenCount: promptIds.length,
      outputTokenCount: request.outputTokenCount,
      maxTokenCount: sampling.maxTokenCount,
      choiceCount: sampling.choiceCount,
      expectedTokenCount: lengths.mean,
      prefixTokenCounts: this.#affinity.lookup(keys),
      nowMs: this.#options.clock.nowMs(),
    };
  }

  /** Reports lag behind; what has been routed is known at once, so the load is counted from the requests themselves. */
  #snapshots(): readonly WorkerSnapshot[] {
    const { directory, costs } = this.#options;
    return directory
      .workers()
      .map((facts) => ({ ...facts, load: this.#load(facts.id), costs: costs.parametersOf(facts.id, facts.shape) }));
  }

  #load(id: WorkerId): WorkerLoad {
    const load = this.#loads.get(id) ?? new WorkerLoad();
    this.#loads.set(id, load);
    return load;
  }
}

function sidesOf(route: Route): readonly [prefill: WorkerId, decode: WorkerId] {
  return route.path === 'collocated' ? [route.worker, route.worker] : [route.prefillWorker, route.decodeWorker];
}

function lengthFacts({ input }: Request, keys: readonly StrideKey[]): LengthFacts {
  const { promptIds, sampling } = input;
  return { promptTokenCount: promptIds.length, maxTokenCount: sampling.maxTokenCount, prefixIds: samplePrefixes(keys) };
}

function summaryOf(route: Route, facts: RequestFacts): RouteSummary {
  const { path, reason, estimate, other } = route;
  return {
    path,
    workers: workersOf(route),
    reason,
    estimates: {
      expectedTokenCount: facts.expectedTokenCount,
      ...estimate,
      ...(other === undefined ? {} : prefixed('other', other.estimate)),
    },
  };
}

/** `ttftMs` becomes `otherTtftMs`. */
function prefixed(prefix: string, estimate: PathEstimate): Record<string, number> {
  const named = Object.entries(estimate).map(([name, value]) => [
    `${prefix}${name.charAt(0).toUpperCase()}${name.slice(1)}`,
    value,
  ]);
  return Object.fromEntries(named) as Record<string, number>;
}
