/** Lets requests onto the worker they will decode on when its memory is expected to hold them all to their
 *  end, and hand-overs when it has a batch slot for each of their choices as well; the others wait in line,
 *  by priority, then arrival. Nobody overtakes the head. Used by coordinator.ts, for both paths, before
 *  anything is computed. What is expected is a quantile: now and then memory runs out all the same, and the
 *  engine preempts.
 *  Invariants: a worker that holds nobody takes anybody, so that the line always moves; whoever entered
 *  leaves once; what those hold who were let in is kept as a sum, so that an event takes the same work
 *  however many are there. */

import type { WorkerId } from '../base/ids.js';
import { OrderedQueue } from '../base/ordered-queue.js';
import { type KvDemand, tokensFor } from '../router/kv-growth.js';

/** What one worker has for those who decode there. */
export interface RoomSize {
  readonly blockTokenCount: number;
  readonly blockCount: number;
  /** Batch slots. Absent: not known, no limit. */
  readonly batchSlotCount?: number;
}

interface ClaimOptions {
  readonly choiceCount: number;
  /** Lower first. */
  readonly priority: number;
  /** A hand-over reserves its slots before it begins, and is computed twice when there are none; who stays on
   *  one worker may as well wait there, where the engine has the next prompt at hand when a slot becomes
   *  free. */
  readonly needsSlots: boolean;
  /** Memory that it is expected to need, as things are now. */
  readonly demandNow: () => KvDemand;
}

/** What one request takes of the worker that it will decode on. */
export class Claim {
  readonly options: ClaimOptions;
  /** As last looked at. */
  demand: KvDemand;
  /** Set while it is counted somewhere. */
  onDemand: ((before: KvDemand, now: KvDemand) => void) | null = null;

  constructor(options: ClaimOptions) {
    this.options = options;
    this.demand = options.demandNow();
  }

  /** To be called now and then while tokens come. */
  look(): KvDemand {
    const before = this.demand;
    this.demand = this.options.demandNow();
    this.onDemand?.(before, this.demand);
    return this.demand;
  }
}

interface Waiting {
  readonly claim: Claim;
  readonly place: number;
  readonly admit: () => void;
}

const compareWaiting = (a: Waiting, b: Waiting) =>
  a.claim.options.priority - b.claim.options.priority || a.place - b.place;

class Room {
  size: RoomSize;
  readonly #line = new OrderedQueue<Waiting>(compareWaiting);
  readonly #waiting = new Map<Claim, Waiting>();
  readonly #admitted = new Set<Claim>();
  #choiceCount = 0;
  #demand: KvDemand = { tokenCount: 0, variance: 0 };
  #placeCount = 0;

  constructor(size: RoomSize) {
    this.size = size;
  }

  enter(claim: Claim, admit: () => void): void {
    const waiting = { claim, place: this.#placeCount++, admit };
    this.#waiting.set(claim, waiting);
    this.#line.insert(waiting);
    this.#pump();
  }

  leave(claim: Claim): void {
    const waiting = this.#waiting.get(claim);
    if (waiting !== undefined) this.#leaveLine(waiting);
    else if (this.#admitted.delete(claim)) this.#discount(claim);
    this.#pump();
  }

  #pump(): void {
    for (let head = this.#line.first; head !== undefined && this.#fits(head.claim); head = this.#line.first) {
      this.#leaveLine(head);
      this.#admitted.add(head.claim);
      this.#count(head.claim);
      head.admit();
    }
  }

  #fits({ demand, options: { choiceCount, needsSlots } }: Claim): boolean {
    if (this.#admitted.size === 0) return true;
    const { blockCount, blockTokenCount, batchSlotCount = Number.POSITIVE_INFINITY } = this.size;
    if (needsSlots && this.#choiceCount + choiceCount > batchSlotCount) return false;
    return tokensFor(plus(this.#demand, demand, 1)) <= blockCount * blockTokenCount;
  }

  #leaveLine(waiting: Waiting): void {
    this.#waiting.delete(waiting.claim);
    this.#line.remove(waiting);
  }

  #count(claim: Claim): void {
    this.#choiceCount += claim.options.choiceCount;
    this.#demand = plus(this.#demand, claim.demand, 1);
    claim.onDemand = (before, now) => {
      this.#demand = plus(plus(this.#demand, before, -1), now, 1);
      this.#pump(); // it may be less than was expected
    };
  }

  #discount(claim: Claim): void {
    claim.onDemand = null;
    this.#choiceCount -= claim.options.choiceCount;
    const isEmpty = this.#admitted.size === 0; // so that rounding does not pile up
    this.#demand = isEmpty ? { tokenCount: 0, variance: 0 } : plus(this.#demand, claim.demand, -1);
  }
}

export class DecodeRoom {
  readonly #rooms = new Map<WorkerId, Room>();

  /** `admit` is called once, when there is room: now, or when enough others have left. */
  enter(worker: WorkerId, claim: Claim, size: RoomSize, admit: () => void): void {
    const room = this.#rooms.get(worker) ?? new Room(size);
    this.#rooms.set(worker, room);
    room.size = size;
    room.enter(claim, admit);
  }

  /** In whatever state it is. */
  leave(worker: WorkerId, claim: Claim): void {
    this.#rooms.get(worker)?.leave(claim);
  }
}

function plus(a: KvDemand, b: KvDemand, sign: 1 | -1): KvDemand {
  return { tokenCount: a.tokenCount + sign * b.tokenCount, variance: a.variance + sign * b.variance };
}
