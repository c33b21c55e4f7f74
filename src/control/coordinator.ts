/** Takes requests in, finds each a route, drives it along, and starts again elsewhere when a worker dies.
 *  Used by gateway.ts.
 *  Invariants: every accepted request settles within its deadline (I1); a new attempt starts only when the
 *  last one's workers hold nothing of the request any more (I2); tokens already emitted are never emitted
 *  again (I5). */
import { assert } from '../base/assert.js';
import type { Clock } from '../base/clock.js';
import { InvalidRequestError, messageOf, TwostrokeError } from '../base/errors.js';
import type { RequestId, WorkerId } from '../base/ids.js';
import type { Logger } from '../base/log.js';
import { Signal } from '../base/signal.js';
import type { Strategy } from '../router/route.js';
import type { SloSpec } from '../router/slo-spec.js';
import type { WorkerCosts } from '../router/worker-costs.js';
import { Admission, type Bundle, type Place } from './admission.js';
import { Attempt } from './attempt.js';
import { capacityOf, decodersOf } from './capacity.js';
import { DecodeRoom } from './decode-room.js';
import type { OverloadPolicy, RequestInput, TransferFailurePolicy } from './gateway-api.js';
import type { GatewayLimits } from './gateway-options.js';
import type { GenerationStream } from './generation-stream.js';
import { LateLine } from './late-line.js';
import { runCollocated, runDisaggregated } from './paths.js';
import type { RoutingStatus } from './prediction-errors.js';
import { Request } from './request.js';
import type { RequestRecord } from './request-record.js';
import { Reservations, type ReservationTiming } from './reservations.js';
import { type Late, Routing } from './routing.js';
import type { ServiceClass } from './service-class.js';
import { SuspectLine } from './suspicion.js';
import { HandOverError, type WorkerClient, WorkerLostError } from './worker-client.js';
import type { WorkerDirectory } from './worker-directory.js';

interface CoordinatorOptions {
  readonly directory: WorkerDirectory;
  readonly costs: WorkerCosts;
  readonly strategy: Strategy;
  readonly onTransferFailure: TransferFailurePolicy;
  readonly onOverload: OverloadPolicy;
  /** Absent: the usual multiples of what requests take alone. */
  readonly slo?: SloSpec;
  readonly limits: GatewayLimits;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly onDone: (record: RequestRecord) => void;
  /** Requests wait for it: before, the roles that are loaded first would get everything. Its rejection fails
   *  them. */
  readonly ready: Promise<void>;
}

export class Coordinator {
  readonly #options: CoordinatorOptions;
  readonly #admission: Admission;
  readonly #reservations: Reservations;
  readonly #room = new DecodeRoom();
  readonly #suspects = new SuspectLine();
  readonly #routing: Routing;
  readonly #late: LateLine;
  readonly #requests = new Map<RequestId, Request>();
  readonly #started = new Signal();
  /** Whether the workers have loaded, and what they failed with. */
  #start: { readonly error: unknown } | null = null;

  constructor(options: CoordinatorOptions) {
    this.#options = options;
    const { waitMsMax } = options.limits;
    const workers = () => options.directory.workers();
    this.#routing = new Routing({ ...options, waitMsMax, workers, onPromptDone: () => this.#late.look() });
    const workerCount = () => workers().filter(({ isLive }) => isLive).length;
    this.#late = new LateLine({ clock: options.clock, workerCount, waitMsMax });
    this.#admission = new Admission({
      choiceCountMax: options.limits.requestCountMax,
      capacity: () => capacityOf(workers()),
      claimedTokenCount: () => this.#routing.claimedTokenCount(decodersOf(workers())),
    });
    this.#reservations = new Reservations(options.clock, options.limits);
    const started = (error: unknown) => {
      this.#start = { error };
      this.#started.fire();
    };
    options.ready.then(() => started(null), started);
  }

  get requestCount(): number {
    return this.#requests.size;
  }

  get choiceCountMax(): number {
    return this.#admission.choiceCountMax;
  }

  /** Throws OverloadedError. */
  checkRoom(serviceClass?: ServiceClass): void {
    this.#admission.check(serviceClass);
  }

  /** Throws OverloadedError or InvalidRequestError. */
  admit(bundle: Bundle): Place {
    return this.#admission.enter(bundle);
  }

  /** Throws OverloadedError, or InvalidRequestError when the id is in use. */
  submit(input: RequestInput): GenerationStream {
    if (this.#requests.has(input.id)) throw new InvalidRequestError(`request id ${input.id} is in use`, 'id');
    const place = input.place ?? this.#admission.enter(bundleOf(input));
    place.begin();
    if (input.place === undefined) place.leave();
    const request = this.#admit(input, place);
    this.#requests.set(request.id, request);
    void this.#run(request).then((lastAttempt) => this.#end(request, lastAttempt, place));
    return request.stream;
  }

  /** Who cannot be taken in keeps neither a place nor a timer. */
  #admit(input: RequestInput, place: Place): Request {
    const { clock, limits } = this.#options;
    let request: Request | null = null;
    try {
      request = new Request(input, clock, limits.requestDeadlineMs);
      this.#routing.admit(request);
      return request;
    } catch (error) {
      request?.cancel();
      place.end();
      throw error;
    }
  }

  /** How the router stands: for metrics, GET /routes and people. */
  get routing(): RoutingStatus {
    return this.#routing.status;
  }

  failAll(error: TwostrokeError): void {
    for (const request of this.#requests.values()) request.fail(error);
  }

  /** Accepted and not ended. */
  get requestIds(): readonly RequestId[] {
    return [...this.#requests.keys()];
  }

  /** What a worker held in its prefix cache is gone. */
  forgetWorker(id: WorkerId): void {
    this.#routing.forgetWorker(id);
  }

  /** Attempt after attempt, until it has settled; the last one, if there was any. Never rejects. */
  async #run(request: Request): Promise<Attempt | null> {
    let last: Attempt | null = null;
    await this.#whenStarted(request);
    while (!request.isSettled) {
      let attempt: Attempt | null = null;
      try {
        await this.#suspects.turn(request);
        attempt = await this.#chooseAttempt(request);
        if (attempt !== null) await this.#follow(attempt);
      } catch (error) {
        this.#afterFailure(request, error);
      }
      attempt?.end();
      last = attempt ?? last;
      this.#suspects.leave(request);
    }
    return last;
  }

  async #whenStarted(request: Request): Promise<void> {
    if (this.#start === null) {
      const start = this.#started.next();
      await request.orSettled(start.happened).finally(start.forget);
    }
    if (this.#start?.error != null) this.#afterFailure(request, this.#start.error);
  }

  /** Waits while no worker is live. Null when the request settles first. */
  async #chooseAttempt(request: Request): Promise<Attempt | null> {
    while (!request.isSettled) {
      const chosen = this.#routing.choose(request);
      if (chosen instanceof Attempt) return this.#placed(chosen);
      if (chosen !== null) return this.#whenThereIsTime(request, chosen);
      const change = this.#options.directory.nextChange();
      await request.orSettled(change.happened).finally(change.forget);
    }
    return null;
  }

  /** Waits in line. Null when the request settles first. Throws OverloadedError. */
  async #whenThereIsTime(request: Request, late: Late): Promise<Attempt | null> {
    let attempt: Attempt | null = null;
    const entered = new Promise<void>((resolve) => {
      const enter = (isForced: boolean) => {
        const chosen = request.isSettled ? null : this.#routing.chooseLate(request, isForced);
        if (chosen === null) return false;
        attempt = this.#placed(chosen);
        resolve();
        return true;
      };
      this.#late.join(request, { ...late, enter });
    });
    await request.orSettled(entered);
    return attempt; // one that settles as it enters has been counted, and has to end
  }

  /** In the instant of the choice: whoever is routed next sees what is claimed, and whether it may go at
   *  once. */
  #placed(attempt: Attempt): Attempt {
    const size = this.#options.directory.workers().find(({ id }) => id === attempt.decodeWorker);
    assert(size !== undefined, 'who was routed has a worker that is there');
    attempt.enter(this.#room, size);
    return attempt;
  }

  /** Waits for memory to decode in, as far as can be predicted, then goes the attempt's way. */
  async #follow(attempt: Attempt): Promise<void> {
    const { clock } = this.#options;
    const { request, route } = attempt;
    const startMs = clock.nowMs();
    // nobody waits for the memory of a worker that is gone
    // orSettled inside: a worker keeps a wait until it is over, and whoever leaves the line is never admitted
    const decode = this.#client(attempt.decodeWorker);
    if ((await decode.orLost(request.orSettled(attempt.admitted))) === null) return;
    request.reservationWaitMs += clock.nowMs() - startMs;
    if (route.path === 'collocated') return runCollocated(request, decode);
    const reserving = this.#reservations.open(request, decode, this.#timing(request, decode.id));
    await runDisaggregated(request, this.#client(route.prefillWorker), decode, reserving);
  }

  /** Decode without room, or with others waiting for room: nothing is computed before there is a place for
   *  it. */
  #timing(request: Request, decode: WorkerId): ReservationTiming {
    const { directory } = this.#options;
    const worker = directory.workers().find((each) => each.id === decode);
    const tokenCount = request.input.promptIds.length + request.outputTokenCount;
    const isShort =
      worker === undefined ||
      Math.ceil(tokenCount / worker.blockTokenCount) > directory.availableBlockCount(decode);
    return isShort || this.#reservations.waitingCount(decode) > 0 ? 'before_prefill' : 'just_in_time';
  }

  #afterFailure(request: Request, error: unknown): void {
    const { logger } = this.#options;
    if (request.isSettled) return;
    if (error instanceof WorkerLostError) {
      this.#afterLoss(request, error);
    } else if (error instanceof HandOverError) {
      this.#afterHandOver(request, error);
    } else {
      if (!(error instanceof TwostrokeError))
        logger.error({ request: request.id, err: error }, 'request failed unexpectedly');
      request.fail(
        error instanceof TwostrokeError ? error : new TwostrokeError('internal', messageOf(error)),
      );
    }
  }

  /** It goes on elsewhere, unless it is what the workers die of. */
  #afterLoss(request: Request, error: WorkerLostError): void {
    const { logger, limits } = this.#options;
    const { suspicion } = request;
    request.lossCount++;
    suspicion.lost(error);
    if (suspicion.strikeCount > limits.lossCountMax) {
      const count = suspicion.strikeCount;
      const what = `request ${request.id} was on ${count} workers in a row when they died, so it is not tried again`;
      request.fail(new TwostrokeError('unavailable', `${what}; last: ${error.message}`));
      return;
    }
    logger.warn(
      { request: request.id, tokens: request.outputTokenCount, reason: error.message },
      'request continues elsewhere',
    );
  }

  #afterHandOver(request: Request, error: HandOverError): void {
    const policy = request.input.onTransferFailure ?? this.#options.onTransferFailure;
    request.handOverFailures.push(error.reason);
    if (policy === 'fail' && error.reason !== 'no_room') {
      request.fail(
        new TwostrokeError(error.code, `the hand-over of request ${request.id} failed: ${error.message}`),
      );
      return;
    }
    const { logger } = this.#options;
    logger.warn(
      { request: request.id, reason: error.message },
      'hand-over failed, request continues on one worker',
    );
  }

  #end(request: Request, lastAttempt: Attempt | null, place: Place): void {
    this.#requests.delete(request.id);
    const record = request.toRecord();
    place.end();
    // a refusal frees no room
    if (record.routes.length > 0) this.#admission.observe(record.doneMs - record.arrivalMs);
    this.#routing.learn(request, lastAttempt, record);
    this.#options.onDone(record);
    this.#late.leave(request);
  }

  #client(id: WorkerId): WorkerClient {
    const client = this.#options.directory.client(id);
    if (client === null)
      throw new WorkerLostError(id, 'it went away while the request was routed', 'outside');
    return client;
  }
}

function bundleOf({ sampling, serviceClass }: RequestInput): Bundle {
  return {
    promptCount: 1,
    choiceCount: sampling.choiceCount,
    ...(serviceClass === undefined ? {} : { serviceClass }),
  };
}
