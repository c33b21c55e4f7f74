/** Answers the gateway's messages with an engine and its hand-overs. Made by worker.ts; messages.ts has the
 *  protocol.
 *  Invariants: an answer to `release` comes when nothing of the request runs, is held or is written from here
 *  any more; every request here came from the gateway and ends by itself or by `release`. */
import { messageOf } from '../base/errors.js';
import type { RequestId } from '../base/ids.js';
import type { Logger } from '../base/log.js';
import type { BusHandlers } from '../bus/bus.js';
import type { Body } from '../bus/message-types.js';
import { answering, type BusProtocolError, type EventHandlers, hearing } from '../bus/protocol.js';
import type { EngineSnapshot } from '../engine/engine-options.js';
import type { GenerationRequest } from '../engine/generation-request.js';
import type { StepCost } from '../router/step-cost.js';
import type { HandOverSource } from './hand-over-source.js';
import type { HandOverTarget, ReservingEngine } from './hand-over-target.js';
import { workerEventChecks, workerRequestChecks } from './message-checks.js';
import type {
  ForgetPeerBody,
  HeldBody,
  OpenPeerBody,
  RequestBody,
  ResumeBody,
  StopChoiceBody,
  WorkerMessages,
} from './messages.js';
import { toGenerationRequest } from './request-body.js';

/** What it needs of an Engine. */
interface ServedEngine extends ReservingEngine {
  add(request: GenerationRequest): void;
  addPrefill(request: GenerationRequest): void;
  abort(id: RequestId): void;
  checkIntegrity(): void;
  readonly requestIds: readonly RequestId[];
  snapshot(): EngineSnapshot;
}

export class WorkerService implements BusHandlers {
  readonly #engine: ServedEngine;
  readonly #source: HandOverSource;
  readonly #target: HandOverTarget;
  readonly #received: () => Promise<void>;
  readonly #logger: Logger;
  readonly #wake: () => void;
  readonly #answer = answering<WorkerMessages['requests']>(workerRequestChecks, {
    generate: (body) => this.#generate(body),
    prefill: (body) => this.#prefill(body),
    pushTo: (body) => this.#source.pushTo(body).then(() => null),
    reserve: (body) => this.#target.reserve(body),
    resume: (body) => this.#resume(body),
    release: ({ id }) => this.#release(id),
    integrity: () => this.#held(),
  });
  readonly #hear: BusHandlers['onEvent'];

  constructor(parts: {
    engine: ServedEngine;
    source: HandOverSource;
    target: HandOverTarget;
    /** Resolves when what has been taken off the network so far has been written. */
    received: () => Promise<void>;
    logger: Logger;
    wake: () => void;
    /** What its steps take is known now. */
    onStepCost: (cost: StepCost) => void;
    /** The gateway has sent something that no message is. */
    refuse: (error: BusProtocolError) => void;
  }) {
    this.#engine = parts.engine;
    this.#source = parts.source;
    this.#target = parts.target;
    this.#received = parts.received;
    this.#logger = parts.logger;
    this.#wake = parts.wake;
    const events: EventHandlers<WorkerMessages['events']> = {
      stopChoice: (body) => this.#stopChoice(body),
      openPeer: (body) => this.#openPeer(body),
      forgetPeer: (body) => this.#forgetPeer(body),
      stepCost: ({ cost }) => parts.onStepCost(cost),
    };
    this.#hear = hearing(workerEventChecks, events, parts.refuse);
  }

  async onRequest(kind: string, body: unknown): Promise<Body> {
    try {
      return await this.#answer(kind, body);
    } finally {
      this.#wake();
    }
  }

  onEvent(kind: string, body: unknown): void {
    this.#hear(kind, body);
    this.#wake();
  }

  /** Throws AssertionError when the engine's accounting is wrong. */
  #held(): HeldBody {
    this.#engine.checkIntegrity();
    return {
      engine: this.#engine.requestIds,
      ...this.#source.requestIds,
      reservations: this.#target.requestIds,
    };
  }

  #generate(body: RequestBody): null {
    this.#engine.add(toGenerationRequest(body));
    for (const choiceIndex of body.endedChoices) this.#engine.stopChoice(body.id, choiceIndex);
    return null;
  }

  #prefill(body: RequestBody): null {
    this.#source.add(body);
    try {
      this.#engine.addPrefill(toGenerationRequest(body));
    } catch (error) {
      void this.#source.release(body.id);
      throw error;
    }
    return null;
  }

  async #resume(body: ResumeBody): Promise<null> {
    await this.#target.resume(body);
    return null;
  }

  /** Quiet first: the source's blocks are read, and the target's written, until the transfer has ended. What
   *  a dead writer has left on the network is refused from here on; what was taken before is waited for. */
  async #release(id: RequestId): Promise<null> {
    this.#target.release(id);
    await Promise.all([this.#source.release(id), this.#received()]);
    this.#engine.abort(id);
    return null;
  }

  #stopChoice({ id, choiceIndex }: StopChoiceBody): void {
    if (!this.#target.defersStop(id, choiceIndex)) this.#engine.stopChoice(id, choiceIndex);
  }

  #openPeer({ target }: OpenPeerBody): void {
    void this.#source.openPeer(target).catch((error) => {
      this.#logger.warn({ peer: target.workerId, reason: messageOf(error) }, 'no hand-overs to this worker');
    });
  }

  #forgetPeer({ workerId, incarnation }: ForgetPeerBody): void {
    // unmapping fails only with the device itself
    void this.#source.forgetPeer(workerId, incarnation).catch(() => {});
  }
}
