/** Lets requests onto the worker they will decode on when its memory is expected to hold them all to their end; the others wait in line, first
 *  come, first served, nobody overtakes. Used by coordinator.ts, for both paths, before anything is computed.
 *  What is expected is a quantile: now and then memory runs out all the same, and the engine preempts.
 *  Invariants: a worker that holds nobody takes anybody, so that the line always moves; whoever entered leaves once. */
import type { WorkerId } from '../base/ids.js';
import { type KvClaim, kvTokensNeeded } from '../router/kv-growth.js';

/** KV memory of one worker. */
interface RoomMemory {
  readonly blockTokenCount: number;
  readonly blockCount: number;
}

interface Waiting {
  readonly claim: KvClaim;
  readonly admit: () => void;
}

interface Room {
  readonly admitted: Set<KvClaim>;
  readonly line: Waiting[];
  memory: RoomMemory;
}

export class DecodeRoom {
  readonly #rooms = new Map<WorkerId, Room>();

  /** `admit` is called once, when there is room: now, or when enough others have left. The claim is read again whenever somebody asks, so what
   *  it tells may change. */
  enter(worker: WorkerId, claim: KvClaim, memory: RoomMemory, admit: () => void): void {
    const room = this.#rooms.get(worker) ?? { admitted: new Set(), line: [], memory };
    this.#rooms.set(worker, room);
    room.memory = memory;
    room.line.push({ claim, admit });
    this.#pump(room);
  }

  /** In whatever state it is. */
  leave(worker: WorkerId, claim: KvClaim): void {
    const room = this.#rooms.get(worker);
    if (room === undefined) return;
    room.admitted.delete(claim);
    const place = room.line.findIndex((waiting) => waiting.claim === claim);
    if (place >= 0) room.line.splice(place, 1);
    this.#pump(room);
  }

  #pump({ admitted, line, memory }: Room): void {
    for (let head = line[0]; head !== undefined; head = line[0]) {
      const tokenCount = memory.blockCount * memory.blockTokenCount;
      if (admitted.size > 0 && kvTokensNeeded([...admitted, head.claim], memory.blockTokenCount) > tokenCount) return;
      line.shift();
      admitted.add(head.claim);
      head.admit();
    }
  }
}
