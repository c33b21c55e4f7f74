/** A live worker as paths.ts sees it. Implemented by remote-worker.ts over the bus, and by fakes in tests.
 *  Invariants: every method settles within a deadline; WorkerLostError means that the process has been
 *  reaped, so that nothing of it touches anybody's memory any more; `release` never rejects. */
import { type ErrorCode, TwostrokeError } from '../base/errors.js';
import type { RequestId, WorkerId } from '../base/ids.js';
import type { NextChange } from '../base/signal.js';
import type { TokenEvent } from '../engine/token-event.js';
import type { KvTarget } from '../transfer/connector.js';
import type { LandedBody, ReservationBody } from '../worker/messages.js';
import type { Request } from './request.js';
import type { HandOverFailure } from './request-record.js';
import type { Blame } from './suspicion.js';

/** The worker died: its requests go on elsewhere. */
export class WorkerLostError extends TwostrokeError {
  readonly worker: WorkerId;
  readonly blame: Blame;

  constructor(worker: WorkerId, reason: string, blame: Blame) {
    super('unavailable', `worker ${worker} was lost: ${reason}`);
    this.worker = worker;
    this.blame = blame;
  }
}

/** The hand-over came to nothing (no room, failed transfer, nobody started it): the request goes on by
 *  recomputing. */
export class HandOverError extends TwostrokeError {
  readonly reason: HandOverFailure;

  constructor(reason: HandOverFailure, code: ErrorCode, message: string) {
    super(code, message);
    this.reason = reason;
  }
}

export interface Reserved {
  readonly target: KvTarget;
  readonly reservation: ReservationBody;
}

/** What is heard of a request: `tokens`, and what comes before and between them. */
export type Emit = (event: TokenEvent) => void;

export interface WorkerClient {
  readonly id: WorkerId;
  /** Runs the whole request, its tokens so far included. Resolves when it has been accepted; tokens go to
   *  `emit`. */
  generate(request: Request, emit: Emit): Promise<void>;
  /** Computes the prompt, emits the first token of every choice, and pushes K and V to where `reserve` says.
   *  `reserve` is called when the first chunk is about to run. Resolves when every byte has landed; rejects
   *  when it is released before. */
  prefill(request: Request, emit: Emit, reserve: () => Promise<Reserved>): Promise<LandedBody>;
  /** Null: no room now. Worth asking again after `nextRoom`. */
  reserve(request: Request, growthTokenCount: number): Promise<Reserved | null>;
  /** Happens when it may have more room for reservations than before, and when it is lost. */
  nextRoom(): NextChange;
  /** Takes over a request whose K and V have landed here. Resolves when it is schedulable. */
  resume(request: Request, landed: LandedBody, emit: Emit): Promise<void>;
  /** `work`, unless the worker is lost first. */
  orLost<T>(work: Promise<T>): Promise<T>;
  stopChoice(id: RequestId, choiceIndex: number): void;
  /** Resolves when nothing of the request runs, is held or is written here or from here any more. Idempotent;
   *  a worker that does not answer is killed and reaped first. */
  release(id: RequestId): Promise<void>;
}
