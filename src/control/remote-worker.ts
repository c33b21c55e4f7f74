/** A worker process as a WorkerClient, over the bus. One per incarnation of a worker; made by worker-slot.ts
 *  when it is ready.
 *  Invariant: it says "lost" only when the process has been reaped (the supervisor calls `lose`); until then
 *  an unanswered question or a broken connection only asks for the process to be killed. */

import { fromWire, messageOf, TwostrokeError } from '../base/errors.js';
import type { RequestId, WorkerId } from '../base/ids.js';
import { type NextChange, Signal } from '../base/signal.js';
import { BusClosedError, type BusConnection, BusDeadlineError } from '../bus/bus.js';
import type { AnswerBody, Asked } from '../bus/message-types.js';
import { BusProtocolError } from '../bus/protocol.js';
import type { StepCost } from '../router/step-cost.js';
import type { KvTarget } from '../transfer/connector.js';
import type {
  HandOverFailedBody,
  LandedBody,
  PrefillStartedBody,
  PushToBody,
  ReserveBody,
  ResumeBody,
  SnapshotBody,
  TokensBody,
  WorkerMessages,
} from '../worker/messages.js';
import { packTokens } from '../worker/token-list.js';
import type { GatewayLimits } from './gateway-options.js';
import { Lifeline } from './lifeline.js';
import type { Request } from './request.js';
import type { Blame } from './suspicion.js';
import {
  type Emit,
  HandOverError,
  type Reserved,
  type WorkerClient,
  WorkerLostError,
} from './worker-client.js';

type Asks = WorkerMessages['requests'];

/** Whoever answers so is of no use any more. */
const noAnswer = [BusDeadlineError, BusClosedError, BusProtocolError];

interface Prefilling {
  readonly request: Request;
  readonly reserve: () => Promise<Reserved>;
  readonly resolve: (landed: LandedBody) => void;
  readonly reject: (error: Error) => void;
}

interface RemoteWorkerOptions {
  readonly target: KvTarget;
  readonly connection: Pick<BusConnection<WorkerMessages>, 'request' | 'send'>;
  readonly limits: GatewayLimits;
  /** Asks the supervisor to kill the process; `lose` follows when it has been reaped. */
  readonly kill: (reason: string) => void;
}

export class RemoteWorker implements WorkerClient {
  readonly id: WorkerId;
  readonly target: KvTarget;
  readonly #options: RemoteWorkerOptions;
  readonly #life = new Lifeline();
  readonly #requests = new Map<RequestId, { readonly request: Request; readonly emit: Emit }>();
  readonly #prefillings = new Map<RequestId, Prefilling>();
  readonly #room = new Signal();
  #lastSnapshot: SnapshotBody | null = null;

  constructor(options: RemoteWorkerOptions) {
    this.id = options.target.workerId;
    this.target = options.target;
    this.#options = options;
  }

  async generate(request: Request, emit: Emit): Promise<void> {
    this.#watch(request, emit);
    await this.#ask('generate', request.toBody());
  }

  prefill(request: Request, emit: Emit, reserve: () => Promise<Reserved>): Promise<LandedBody> {
    this.#watch(request, emit);
    const landed = new Promise<LandedBody>((resolve, reject) => {
      this.#prefillings.set(request.id, { request, reserve, resolve, reject });
      this.#ask('prefill', request.toBody()).catch(reject);
    });
    return this.orLost(landed);
  }

  async reserve(request: Request, growthTokenCount: number): Promise<Reserved | null> {
    // the prompt's place: what has been sampled since it was computed comes with resume
    const body: ReserveBody = { request: { ...request.toBody(), outputs: [] }, growthTokenCount };
    const reservation = await this.#ask('reserve', body);
    return reservation === null ? null : { target: this.target, reservation };
  }

  nextRoom(): NextChange {
    return this.#room.next();
  }

  async resume(request: Request, landed: LandedBody, emit: Emit): Promise<void> {
    this.#watch(request, emit);
    const { outputs, endedChoices } = request;
    const body: ResumeBody = {
      handle: landed.handle,
      outputs: outputs.map(packTokens),
      endedChoices,
      ...request.deadlines,
    };
    await this.#ask('resume', body).catch(asHandOverError);
  }

  orLost<T>(work: Promise<T>): Promise<T> {
    return this.#life.guard(work);
  }

  stopChoice(id: RequestId, choiceIndex: number): void {
    this.#options.connection.send('stopChoice', { id, choiceIndex });
  }

  async release(id: RequestId): Promise<void> {
    this.#requests.delete(id);
    this.#endPrefilling(
      id,
      new HandOverError('unwanted', 'cancelled', `request ${id} was released on ${this.id}`),
    );
    try {
      await this.#ask('release', { id }, this.#options.limits.releaseDeadlineMs);
      this.#room.fire();
    } catch (error) {
      if (!(error instanceof WorkerLostError)) this.#kill(`release of ${id} failed: ${messageOf(error)}`);
      await this.#reaped();
    }
  }

  /** Rejects naming what is wrong with the worker's accounting, or what is kept, there or here, of requests
   *  that are not among `known` any more. Messages arrive in order, so what is not known when it is asked has
   *  been released. */
  async checkIntegrity(known: ReadonlySet<RequestId>): Promise<void> {
    const here = { requests: [...this.#requests.keys()], prefillings: [...this.#prefillings.keys()] };
    const held = await this.#ask('integrity', null);
    for (const [holder, ids] of Object.entries({ ...here, ...held })) {
      const ended = ids.filter((id) => !known.has(id));
      if (ended.length > 0)
        throw new TwostrokeError(
          'internal',
          `${holder} keeps what has ended: ${ended.slice(0, 5).join(', ')}`,
        );
    }
  }

  /** What its steps are known to take. */
  useStepCost(cost: StepCost): void {
    this.#options.connection.send('stepCost', { cost });
  }

  openPeer(target: KvTarget): void {
    this.#options.connection.send('openPeer', { target });
  }

  forgetPeer(workerId: WorkerId, incarnation: number): void {
    this.#options.connection.send('forgetPeer', { workerId, incarnation });
  }

  /** The process has been reaped. */
  lose(reason: string, blame: Blame): void {
    const error = new WorkerLostError(this.id, reason, blame);
    this.#life.cut(error);
    this.#requests.clear();
    for (const id of this.#prefillings.keys()) this.#endPrefilling(id, error);
    this.#room.fire();
  }

  onTokens(body: TokensBody): void {
    for (const event of body.events) {
      const heard = this.#requests.get(event.requestId);
      const objection = heard?.request.objectionTo(event) ?? null;
      if (objection !== null) {
        this.#kill(`it sent ${objection}`);
        return;
      }
      heard?.emit(event);
      if (event.kind === 'tokens' && event.finishReason !== undefined) this.#room.fire();
    }
  }

  onSnapshot(body: SnapshotBody): void {
    if (mayHaveMoreRoom(this.#lastSnapshot, body)) this.#room.fire();
    this.#lastSnapshot = body;
  }

  onPrefillStarted(body: PrefillStartedBody): void {
    const prefilling = this.#prefillings.get(body.id);
    if (prefilling === undefined) return; // released meanwhile
    prefilling.request.stamp('prefillStartedMs');
    void this.#sendReservation(prefilling).catch(prefilling.reject);
  }

  onLanded(body: LandedBody): void {
    this.#prefillings.get(body.handle.requestId)?.resolve(body);
  }

  onHandOverFailed(body: HandOverFailedBody): void {
    const error = fromWire(body.error);
    this.#prefillings.get(body.id)?.reject(new HandOverError('transfer', error.code, error.message));
  }

  async #sendReservation({ request, reserve }: Prefilling): Promise<void> {
    const { target, reservation } = await reserve();
    // released meanwhile: nobody may write there
    if (this.#prefillings.get(request.id)?.request !== request) return;
    const body: PushToBody = { id: request.id, target, reservation };
    await this.#ask('pushTo', body).catch(asHandOverError);
  }

  /** Whoever waits for it hears of the end: what never settles is kept for ever. */
  #endPrefilling(id: RequestId, error: Error): void {
    this.#prefillings.get(id)?.reject(error);
    this.#prefillings.delete(id);
  }

  #watch(request: Request, emit: Emit): void {
    this.#requests.set(request.id, { request, emit });
    void request.settled.then(() => {
      if (this.#requests.get(request.id)?.request === request) this.#requests.delete(request.id);
    });
  }

  async #ask<K extends keyof Asks>(
    kind: K,
    body: Asked<Asks, K>,
    deadlineMs = this.#options.limits.replyDeadlineMs,
  ): Promise<AnswerBody<Asks, K>> {
    try {
      return await this.orLost(this.#options.connection.request(kind, body, deadlineMs));
    } catch (error) {
      const isWorthless = noAnswer.some((NoAnswer) => error instanceof NoAnswer);
      if (!isWorthless)
        throw error instanceof TwostrokeError ? error : new TwostrokeError('internal', messageOf(error));
      this.#kill(messageOf(error));
      return this.orLost(new Promise<never>(() => {}));
    }
  }

  #kill(reason: string): void {
    if (!this.#life.isCut) this.#options.kill(reason);
  }

  async #reaped(): Promise<void> {
    await this.orLost(new Promise<never>(() => {})).catch(() => {});
  }
}

/** Something was given back, or nothing has changed (a heartbeat): what came and went between two snapshots
 *  does not show in them. */
function mayHaveMoreRoom(before: SnapshotBody | null, { engine: now }: SnapshotBody): boolean {
  if (before === null) return true;
  const names = ['ownedBlockCount', 'runningCount', 'waitingCount', 'reservedCount'] as const;
  const isSame = now.stepCount === before.engine.stepCount;
  return (
    names.some((name) => now[name] < before.engine[name]) ||
    (isSame && names.every((name) => now[name] === before.engine[name]))
  );
}

/** What is wrong with a hand-over is not wrong with the request: it goes on by recomputing. */
function asHandOverError(error: unknown): never {
  const isOfTransfer =
    error instanceof TwostrokeError &&
    ['transfer_error', 'layout_mismatch', 'device_error'].includes(error.code);
  throw isOfTransfer ? new HandOverError('transfer', error.code, error.message) : error;
}
