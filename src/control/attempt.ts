/** One way of a request through the workers, from the router's choice until it has ended there: its route,
 *  what it counts for in the loads of its workers, and its place before the memory of the one it decodes on.
 *  Made by routing.ts, driven by coordinator.ts; a failed one is followed by another.
 *  Invariant: it is counted from when it is made until `end`, which takes everything back, once. */
import { assert } from '../base/assert.js';
import type { Clock } from '../base/clock.js';
import type { WorkerId } from '../base/ids.js';
import type { Placement } from '../router/placement.js';
import type { Corrections } from '../router/request-correction.js';
import type { Route } from '../router/route.js';
import type { Claim, DecodeRoom, RoomSize } from './decode-room.js';
import type { Request } from './request.js';
import { sidesOf } from './route-summary.js';
import type { UnloadedCosts } from './unloaded-requests.js';

/** What was predicted of an attempt when it was chosen: what came of it is compared with that. */
interface Predicted {
  /** That were in its route's estimates. */
  readonly corrections: Corrections;
  /** What the costs say of it if it is alone. */
  readonly unloaded: UnloadedCosts | null;
}

interface AttemptOptions {
  readonly request: Request;
  readonly route: Route;
  readonly placement: Placement;
  readonly claim: Claim;
  readonly predicted: Predicted;
  readonly clock: Clock;
  /** Its prompt has been computed. */
  readonly onPromptDone: () => void;
}

export class Attempt {
  readonly request: Request;
  readonly route: Route;
  readonly predicted: Predicted;
  readonly #options: AttemptOptions;
  #admitted: Promise<true> | null = null;
  #leaveRoom: (() => void) | null = null;
  #isEnded = false;

  constructor(options: AttemptOptions) {
    this.#options = options;
    this.request = options.request;
    this.route = options.route;
    this.predicted = options.predicted;
  }

  /** Where it decodes. */
  get decodeWorker(): WorkerId {
    return sidesOf(this.route)[1];
  }

  /** Resolves when it may go to its workers: there is memory where it decodes. */
  get admitted(): Promise<true> {
    assert(this.#admitted !== null, 'who waits has entered');
    return this.#admitted;
  }

  /** Enters the line before the memory of the worker it decodes on. */
  enter(room: DecodeRoom, size: RoomSize): void {
    const { claim, placement, clock } = this.#options;
    const worker = this.decodeWorker;
    this.#leaveRoom = () => room.leave(worker, claim);
    this.#admitted = new Promise((resolve) => {
      room.enter(worker, claim, size, () => {
        placement.onAdmitted(clock.nowMs());
        resolve(true);
      });
    });
  }

  /** A worker has begun with it. */
  onStarted(): void {
    this.#options.placement.onStarted(this.#options.clock.nowMs());
  }

  /** So many tokens have come, and have been appended. */
  onTokens(tokenCount: number): void {
    const { request, placement, clock, onPromptDone } = this.#options;
    placement.onTokens(tokenCount, clock.nowMs());
    if (request.outputTokenCount === tokenCount) onPromptDone();
  }

  end(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#leaveRoom?.();
    this.#options.placement.leave(this.#options.clock.nowMs());
  }
}
