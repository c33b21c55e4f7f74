/** Answers the gateway's messages with an engine and its hand-overs. Made by worker.ts; messages.ts has the protocol.
 *  Invariants: an answer to `release` comes when nothing of the request runs, is held or is written from here any more; every request
 *  here came from the gateway and ends by itself or by `release`. */
import { messageOf, TwostrokeError } from '../base/errors.js';
import type { RequestId } from '../base/ids.js';
import type { Logger } from '../base/log.js';
import type { Body, BusHandlers } from '../bus/bus.js';
import type { EngineSnapshot } from '../engine/engine-options.js';
import type { GenerationRequest } from '../engine/generation-request.js';
import type { StepCost } from '../router/step-cost.js';
import type { HandOverSource } from './hand-over-source.js';
import type { HandOverTarget, ReservingEngine } from './hand-over-target.js';
import type {
  ForgetPeerBody,
  HeldBody,
  IdBody,
  OpenPeerBody,
  PushToBody,
  RequestBody,
  ReserveBody,
  ResumeBody,
  StepCostBody,
  StopChoiceBody,
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
  readonly #onStepCost: (cost: StepCost) => void;

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
  }) {
    this.#engine = parts.engine;
    this.#source = parts.source;
    this.#target = parts.target;
    this.#received = parts.received;
    this.#logger = parts.logger;
    this.#wake = parts.wake;
    this.#onStepCost = parts.onStepCost;
  }

  async onRequest(kind: string, body: unknown): Promise<Body> {
    try {
      return await this.#answer(kind, body);
    } finally {
      this.#wake();
    }
  }

  onEvent(kind: string, body: unknown): void {
    if (kind === 'stopChoice') this.#stopChoice(body as StopChoiceBody);
    else if (kind === 'openPeer') this.#openPeer(body as OpenPeerBody);
    else if (kind === 'forgetPeer') this.#forgetPeer(body as ForgetPeerBody);
    else if (kind === 'stepCost') this.#onStepCost((body as StepCostBody).cost);
    this.#wake();
  }

  async #answer(kind: string, body: unknown): Promise<Body> {
    switch (kind) {
      case 'generate':
        return this.#generate(body as RequestBody);
      case 'prefill':
        return this.#prefill(body as RequestBody);
      case 'pushTo':
        await this.#source.pushTo(body as PushToBody);
        return null;
      case 'reserve':
        return this.#target.reserve(body as ReserveBody);
      case 'resume':
        await this.#target.resume(body as ResumeBody);
        return null;
      case 'release':
        return this.#release((body as IdBody).id);
      case 'integrity':
        return this.#held();
      default:
        throw new TwostrokeError('internal', `unknown message '${kind}'`);
    }
  }

  /** Throws AssertionError when the engine's accounting is wrong. */
  #held(): HeldBody {
    this.#engine.checkIntegrity();
    return { engine: this.#engine.requestIds, ...this.#source.requestIds, reservations: this.#target.requestIds };
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

  /** Quiet first: the source's blocks are read, and the target's written, until the transfer has ended. What a dead writer has left on the
   *  network is refused from here on; what was taken before is waited for. */
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
    void this.#source.forgetPeer(workerId, incarnation).catch(() => {}); // unmapping fails only with the device itself
  }
}
