/** The gateway as server/ and cli/ see it: an interface, so that a fake can stand in. Made by Gateway.start
 *  (gateway.ts). */
import type { RequestId, TokenId, WorkerId } from '../base/ids.js';
import type { SamplingParams } from '../engine/sampling-params.js';
import type { LoadProgress } from '../model/model.js';
import type { RoutePlace } from '../router/route.js';
import type { Slo } from '../router/slo.js';
import type { Bundle, Place } from './admission.js';
import type { GenerationStream, Kept } from './generation-stream.js';
import type { RoutingStatus } from './prediction-errors.js';
import type { RequestRecord } from './request-record.js';
import type { ServiceClass } from './service-class.js';
import type { Health, WorkerStatus } from './worker-status.js';

/** What happens to a request whose SLO cannot be met: refused at once, or served behind all others. */
export type OverloadPolicy = 'shed' | 'late';

/** Recompute: the prompt is computed again where it decodes, and the client sees a pause. Fail: the client
 *  gets the error. */
export type TransferFailurePolicy = 'recompute' | 'fail';

export interface RequestInput {
  readonly id: RequestId;
  readonly promptIds: readonly TokenId[];
  readonly sampling: SamplingParams;
  /** Lower first, then arrival order. Default 0. */
  readonly priority?: number;
  /** From now; the request ends with `deadline_exceeded` after it. */
  readonly deadlineMs?: number;
  /** Prefixes are shared within one salt. Absent: with all others that have none. */
  readonly cacheSalt?: string;
  /** Whose request it is, in the caller's words; its record says so. */
  readonly owner?: string;
  /** Absent: of no class. */
  readonly serviceClass?: ServiceClass;
  /** What is absent follows its class, else the gateway's default. */
  readonly slo?: Partial<Slo>;
  /** When its KV does not get from prefill to decode (no room is not a failure, nor is a worker that died).
   *  Absent: what the gateway says. */
  readonly onTransferFailure?: TransferFailurePolicy;
  /** For measurements: it is tried this way first, whatever the router thinks, and its record says so. */
  readonly measuredRoute?: RoutePlace;
  /** It was admitted before, alone or with others. Absent: `submit` does that. */
  readonly place?: Place;
  /** Learns how much waits to be read of its stream. */
  readonly kept?: Kept;
}

export interface GatewayApi {
  readonly state: 'loading' | 'ready' | 'degraded' | 'stopping';
  /** Resolves when every worker has loaded once; rejects with what made a worker give up (model_error,
   *  device_error, …). */
  readonly ready: Promise<void>;
  /** Throws OverloadedError when nothing is taken in now: for whoever wants to know before it works. */
  checkRoom(serviceClass?: ServiceClass): void;
  /** Takes in what a client asks for, before it is known to the last token: all of it or nothing. Throws
   *  OverloadedError, `unavailable`, or InvalidRequestError for more choices than a worker has batch slots.
   *  Whoever gets a place leaves it. */
  admit(bundle: Bundle): Place;
  /** Choices that may be in flight. */
  readonly choiceCountMax: number;
  /** Throws at once: InvalidRequestError (can never fit, id in use), OverloadedError (`retryAfterMs`),
   *  `unavailable` (stopping). While workers load or restart, requests wait within their deadline. */
  submit(input: RequestInput): GenerationStream;
  workers(): readonly WorkerStatus[];
  health(): Health;
  /** How the router stands: its plan, errors of its predictions, how well it knows the workers. */
  routing(): RoutingStatus;
  /** Requests accepted and not finished. */
  readonly requestCount: number;
  onLoadProgress(listener: (workerId: WorkerId, progress: LoadProgress) => void): void;
  onRequestDone(listener: (record: RequestRecord) => void): void;
  /** Asks every live worker; rejects naming the worker and what is wrong: blocks that are accounted for
   *  wrongly, or something kept of a request that has ended. May be asked at any time, under load too. */
  checkIntegrity(): Promise<void>;
  /** Refuses new requests, waits up to `drainMs` (default 0) for those running, cancels the rest, ends the
   *  workers. */
  stop(options?: { readonly drainMs?: number }): Promise<void>;
}
