/** What is known of one request when it has ended; given to onRequestDone, read by server/metrics. All times
 *  are Clock.nowMs(). */
import type { ErrorCode } from '../base/errors.js';
import type { RequestId, WorkerId } from '../base/ids.js';
import type { Route } from '../router/route.js';
import type { Slo } from '../router/slo.js';

/** The route a request took, for headers, logs and `twostroke route`. */
export interface RouteSummary {
  readonly path: Route['path'];
  /** Collocated: the worker. Disaggregated: prefill worker, decode worker. */
  readonly workers: readonly WorkerId[];
  readonly reason: string;
  /** Who may do what, by name: see router/plan.ts. */
  readonly plan: string;
  /** What was known of the request and of the workers, by name with unit. */
  readonly inputs: Readonly<Record<string, number>>;
  /** Of this route; those of the best route of the other path, if it was weighed, under `other…`. */
  readonly estimates: Readonly<Record<string, number>>;
  readonly otherWorkers?: readonly WorkerId[];
}

export type RequestOutcome = 'finished' | 'cancelled' | 'failed';

/** Of each part of an SLO whether it was met. */
export interface SloVerdict {
  readonly ttft: boolean;
  /** An answer of one token has no TPOT and cannot miss it. */
  readonly tpot: boolean;
  /** True where none was asked for and the request has ended in order. */
  readonly e2el: boolean;
  /** All of it. */
  readonly all: boolean;
}

/** no_room: decode had none for too long. lease_expired: the prefill did not start in time. overdue: the
 *  bytes did not land in time. transfer: the way, or what arrived over it, was wrong. unwanted: the request
 *  had ended. */
export type HandOverFailure = 'no_room' | 'lease_expired' | 'overdue' | 'transfer' | 'unwanted';

export interface RequestRecord {
  readonly id: RequestId;
  /** As the request said. */
  readonly owner?: string;
  /** Its name; absent: the server has no classes. */
  readonly serviceClass?: string;
  readonly outcome: RequestOutcome;
  /** Made to measure the workers, not asked by anybody: no part of what is learned from, or reported about,
   *  requests. */
  readonly isMeasurement: boolean;
  readonly errorCode?: ErrorCode;
  /** One per attempt; several when a worker died or decode had no room. */
  readonly routes: readonly RouteSummary[];
  /** What it was to be served within; absent: it was never routed. */
  readonly slo?: Slo;
  /** Its first token was predicted to come too late when it came: it was refused, or served behind all who
   *  could be in time. */
  readonly isLate: boolean;
  /** Absent: not known, or nothing was promised. */
  readonly sloMet?: SloVerdict;
  readonly promptTokenCount: number;
  /** Of the prompt, found in a prefix cache at the first attempt. */
  readonly cachedTokenCount: number;
  readonly outputTokenCount: number;
  /** Why each choice ended; null: it was cut short. */
  readonly finishReasons: readonly ('stop' | 'length' | 'stop_string' | null)[];
  readonly arrivalMs: number;
  readonly routedMs?: number;
  readonly prefillStartedMs?: number;
  readonly firstTokenMs?: number;
  /** Disaggregated: every byte was at the decode side. */
  readonly landedMs?: number;
  /** Disaggregated: the sequence was schedulable at the decode side. */
  readonly resumedMs?: number;
  readonly doneMs: number;
  readonly transferBytes: number;
  /** From the first token until the sequence was schedulable at the decode side; 0 when nothing was handed
   *  over. */
  readonly exposedTransferMs: number;
  /** How long decode had no room for the prompt. */
  readonly reservationWaitMs: number;
  /** Why hand-overs of it came to nothing, each of which was followed by a recompute or the end. */
  readonly handOverFailures: readonly HandOverFailure[];
  readonly lossCount: number;
}
