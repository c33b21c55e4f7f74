/** The memory that request bodies take together, from when they arrive until what they ask for has ended.
 *  Made by app.ts, used by request-body.ts.
 *  Invariants: bodies that are not small take no more than `largestBodiesMax` of the largest would, whatever
 *  many clients begin to send at once; of large ones, and those that come compressed, one at a time is
 *  unpacked and parsed, and others are served in between. */
import type { Clock } from '../base/clock.js';
import { OverloadedError } from '../control/admission.js';

/** Of the largest size, together. */
const largestBodiesMax = 16;
/** What one connection may have in the kernel's buffers anyway: read even when there is no room, or few large
 *  bodies would keep all others out. */
export const smallByteCount = 65_536;
const retryAfterMs = 1000;

export class BodyRoom {
  /** Of one body, unpacked too. */
  readonly bodyBytesMax: number;
  readonly #clock: Clock;
  #byteCount = 0;
  #lastTurn: Promise<unknown> = Promise.resolve();

  constructor(bodyBytesMax: number, clock: Clock) {
    this.bodyBytesMax = bodyBytesMax;
    this.#clock = clock;
  }

  get byteCount(): number {
    return this.#byteCount;
  }

  /** Runs `read` with room for its body, and takes the room back however that ends. */
  async with<Result>(read: (share: BodyShare) => Promise<Result>): Promise<Result> {
    let ownByteCount = 0;
    const grow = (byteCount: number) => {
      ownByteCount += byteCount;
      this.#byteCount += byteCount;
      if (ownByteCount <= smallByteCount || this.#byteCount <= largestBodiesMax * this.bodyBytesMax) return;
      throw new OverloadedError(
        `the bodies of the requests that are under way have ${this.#byteCount} bytes`,
        retryAfterMs,
      );
    };
    try {
      return await read({ grow });
    } finally {
      this.#byteCount -= ownByteCount;
    }
  }

  nextTurn(): Promise<void> {
    return this.#clock.yield();
  }

  /** One after another, each in a later turn of the event loop. */
  inTurn<Result>(unpack: () => Promise<Result>): Promise<Result> {
    const turn = this.#lastTurn.then(() => this.nextTurn()).then(unpack);
    this.#lastTurn = turn.catch(() => undefined);
    return turn;
  }
}

export interface BodyShare {
  /** Throws OverloadedError when there is no room for so much more of it. */
  grow(byteCount: number): void;
}
