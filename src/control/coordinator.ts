/** Takes requests in, finds each a route, drives it along, and starts again elsewhere when a worker dies. Used by gateway.ts.
 *  Invariants: every accepted request settles within its deadline (I1); a new attempt starts only when the last one's workers hold
 *  nothing of the request any more (I2); tokens already emitted are never emitted again (I5). */
import type { Clock } from '../base/clock.js';
import { InvalidRequestError, messageOf, TwostrokeError } from '../base/errors.js';
import type { RequestId, WorkerId } from '../base/ids.js';
import type { Logger } from '../base/log.js';
import { chooseRoute } from '../router/choose-route.js';
import { fillShare } from '../router/load.js';
import type { Route, Strategy } from '../router/route.js';
import type { RequestFacts, WorkerSnapshot } from '../router/snapshot.js';
import { Admission } from './admission.js';
import type { RequestInput, TransferFailurePolicy } from './gateway-api.js';
import type { GatewayLimits } from './gateway-options.js';
import type { GenerationStream } from './generation-stream.js';
import { runCollocated, runDisaggregated } from './paths.js';
import { PrefixAffinity } from './prefix-affinity.js';
import { Request } from './request.js';
import type { RequestRecord, RouteSummary } from './request-record.js';
import { Reservations, type ReservationTiming } from './reservations.js';
import { HandOverError, type WorkerClient, WorkerLostError } from './worker-client.js';

/** What a worker looks like to the coordinator before its own load is added: numbers from the worker's last report. */
export type WorkerFacts = Omit<WorkerSnapshot, 'queuedPromptTokenCount' | 'decodingCount'>;

/** Who is there; see registry.ts. */
export interface WorkerDirectory {
  workers(): readonly WorkerFacts[];
  client(id: WorkerId): WorkerClient | null;
  /** Resolves when a worker has come or gone. */
  changed(): Promise<void>;
}

export interface CoordinatorOptions {
  readonly directory: WorkerDirectory;
  readonly strategy: Strategy;
  readonly onTransferFailure: TransferFailurePolicy;
  readonly limits: GatewayLimits;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly onDone: (record: RequestRecord) => void;
  /** Requests wait for it: before, the roles that are loaded first would get everything. Its rejection fails them. */
  readonly ready: Promise<void>;
}

/** A request and where it is now. */
interface Placed {
  readonly request: Request;
  route: Route | null;
  uncachedTokenCount: number;
}

export class Coordinator {
  readonly #options: CoordinatorOptions;
  readonly #admission: Admission;
  readonly #reservations: Reservations;
  readonly #affinity = new PrefixAffinity();
  readonly #placed = new Map<RequestId, Placed>();

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
    if (this.#placed.has(input.id)) throw new InvalidRequestError(`request id ${input.id} is in use`, 'id');
    this.#admission.enter();
    const { clock, limits } = this.#options;
    const request = new Request(input, clock, limits.requestDeadlineMs);
    const placed: Placed = { request, route: null, uncachedTokenCount: 0 };
    this.#placed.set(request.id, placed);
    void this.#run(placed).finally(() => this.#end(request));
    return request.stream;
  }

  cancelAll(): void {
    for (const { request } of this.#placed.values()) request.cancel();
  }

  /** What a worker held in its prefix cache is gone. */
  forgetWorker(id: WorkerId): void {
    this.#affinity.forget(id);
  }

  async #run(placed: Placed): Promise<void> {
    const { request } = placed;
    await request.orSettled(this.#options.ready).catch((error) => this.#afterFailure(request, error));
    while (!request.isSettled) {
      try {
        const route = await this.#chooseRoute(placed);
        if (route !== null) await this.#follow(route, request);
      } catch (error) {
        this.#afterFailure(request, error);
      }
      placed.route = null;
    }
  }

  /** Waits while no worker is live. Null when the request settles first. */
  async #chooseRoute(placed: Placed): Promise<Route | null> {
    const { request } = placed;
    const { directory, strategy } = this.#options;
    while (!request.isSettled) {
      const facts = this.#facts(request);
      const route =
        request.pinnedRoute ??
        chooseRoute(facts, this.#snapshots(), request.handOverFailures.length > 0 ? 'collocated' : strategy);
      if (route !== null) {
        const worker = route.path === 'collocated' ? route.worker : route.prefillWorker;
        placed.route = route;
        placed.uncachedTokenCount = Math.max(1, facts.promptTokenCount - (facts.prefixTokenCounts.get(worker) ?? 0));
        this.#affinity.record(request.input.promptIds, request.input.cacheSalt, worker);
        request.routed(summaryOf(route));
        this.#options.logger.debug({ request: request.id, route }, 'routed');
        return route;
      }
      await request.orSettled(directory.changed());
    }
    return null;
  }

  async #follow(route: Route, request: Request): Promise<void> {
    if (route.path === 'collocated') return runCollocated(request, this.#client(route.worker));
    const prefill = this.#client(route.prefillWorker);
    const decode = this.#client(route.decodeWorker);
    await runDisaggregated(request, prefill, decode, this.#reservations.open(request, decode, this.#timing(request, decode.id)));
  }

  /** Decode without room, or with others waiting for room: nothing is computed before there is a place for it. */
  #timing(request: Request, decode: WorkerId): ReservationTiming {
    const worker = this.#snapshots().find((each) => each.id === decode);
    const isShort = worker === undefined || fillShare(this.#facts(request), worker) > 1;
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

  #end(request: Request): void {
    this.#placed.delete(request.id);
    this.#admission.leave();
    this.#options.onDone(request.toRecord());
  }

  #client(id: WorkerId): WorkerClient {
    const client = this.#options.directory.client(id);
    if (client === null) throw new WorkerLostError(id, 'it went away while the request was routed');
    return client;
  }

  #facts(request: Request): RequestFacts {
    const { promptIds, sampling, cacheSalt } = request.input;
    return {
      promptTokenCount: promptIds.length,
      outputTokenCount: request.outputTokenCount,
      maxTokenCount: sampling.maxTokenCount,
      choiceCount: sampling.choiceCount,
      prefixTokenCounts: this.#affinity.lookup(promptIds, cacheSalt),
    };
  }

  /** Reports lag behind; what has been routed is known at once, so the load is counted from the requests themselves. */
  #snapshots(): readonly WorkerSnapshot[] {
    const queued = new Map<WorkerId, number>();
    const decoding = new Map<WorkerId, number>();
    const add = (counts: Map<WorkerId, number>, id: WorkerId, count: number) => counts.set(id, (counts.get(id) ?? 0) + count);
    for (const { request, route, uncachedTokenCount } of this.#placed.values()) {
      if (route === null) continue;
      const isPrefilled = request.times.firstTokenMs !== undefined;
      const [prefillWorker, decodeWorker] =
        route.path === 'collocated' ? [route.worker, route.worker] : [route.prefillWorker, route.decodeWorker];
      if (!isPrefilled) add(queued, prefillWorker, uncachedTokenCount);
      add(decoding, decodeWorker, request.input.sampling.choiceCount);
    }
    return this.#options.directory.workers().map((worker) => ({
      ...worker,
      queuedPromptTokenCount: queued.get(worker.id) ?? 0,
      decodingCount: decoding.get(worker.id) ?? 0,
    }));
  }
}

function summaryOf(route: Route): RouteSummary {
  const workers = route.path === 'collocated' ? [route.worker] : [route.prefillWorker, route.decodeWorker];
  return { path: route.path, workers, reason: route.reason, estimates: route.estimates };
}
