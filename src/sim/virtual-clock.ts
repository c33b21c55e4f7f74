/** Time that passes only when nobody has anything left to do: hours run in seconds, the same every time. Used
 *  by simulation.ts, and by everything that runs in it through the Clock interface.
 *  Invariant: timers fire in order of their time, those of one instant in the order they were set, and
 *  between two of them every promise that can go on has gone on. */
import { assert, at } from '../base/assert.js';
import { type Clock, systemClock, type TimerHandle } from '../base/clock.js';

interface Timer {
  readonly atMs: number;
  readonly order: number;
  /** null: cancelled. */
  fire: (() => void) | null;
}

/** A turn of the event loop takes time, or whoever asks again and again between turns would never see an
 *  answer. */
export const turnMs = 0.005;
/** Between timers nothing real is waited for; a turn of the real event loop, for signals and the like, comes
 *  once in so many. */
const realTurnEvery = 1024;
/** Cancelled timers stay in the heap until they are this many and most of it. */
const cancelledCountMax = 4096;

export class VirtualClock implements Clock {
  #nowMs = 0;
  #order = 0;
  #cancelledCount = 0;
  /** A binary heap: the parent of i is (i - 1) >> 1 and comes before it. */
  #heap: Timer[] = [];

  nowMs(): number {
    return this.#nowMs;
  }

  wallMs(): number {
    return this.#nowMs;
  }

  sleep(delayMs: number): Promise<void> {
    return new Promise((resolve) => this.after(delayMs, resolve));
  }

  after(delayMs: number, fire: () => void): TimerHandle {
    assert(!Number.isNaN(delayMs), 'a delay that is no number');
    const timer: Timer = { atMs: this.#nowMs + Math.max(0, delayMs), order: this.#order++, fire };
    this.#push(timer);
    return {
      cancel: () => {
        if (timer.fire === null) return;
        timer.fire = null;
        this.#cancelledCount++;
        if (this.#cancelledCount > cancelledCountMax && 2 * this.#cancelledCount > this.#heap.length)
          this.#sweep();
      },
    };
  }

  yield(): Promise<void> {
    return this.sleep(turnMs);
  }

  /** Lets time pass until `done` settles. Throws when nothing is left that could settle it. */
  async drive<T>(done: Promise<T>): Promise<T> {
    let isDone = false;
    const settle = () => {
      isDone = true;
    };
    done.then(settle, settle);
    for (let turnIndex = 0; ; turnIndex++) {
      await (turnIndex % realTurnEvery === 0 ? systemClock.yield() : allHaveGoneOn());
      if (isDone) return done;
      this.#advance();
    }
  }

  #advance(): void {
    for (;;) {
      const next = this.#pop();
      assert(next !== null, 'standstill: nothing left to wait for, and not done');
      if (next.fire === null) {
        this.#cancelledCount--;
        continue;
      }
      this.#nowMs = next.atMs;
      const { fire } = next;
      next.fire = null;
      fire();
      return;
    }
  }

  #sweep(): void {
    const kept = this.#heap.filter(({ fire }) => fire !== null);
    this.#heap = [];
    this.#cancelledCount = 0;
    for (const timer of kept) this.#push(timer);
  }

  #push(timer: Timer): void {
    const heap = this.#heap;
    let index = heap.length;
    heap.push(timer);
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (!isBefore(timer, at(heap, parent))) break;
      heap[index] = at(heap, parent);
      index = parent;
    }
    heap[index] = timer;
  }

  #pop(): Timer | null {
    const heap = this.#heap;
    const [first] = heap;
    const last = heap.pop();
    if (first === undefined || last === undefined) return null;
    if (heap.length === 0) return first;
    let index = 0;
    for (;;) {
      let child = 2 * index + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(at(heap, child + 1), at(heap, child))) child++;
      if (!isBefore(at(heap, child), last)) break;
      heap[index] = at(heap, child);
      index = child;
    }
    heap[index] = last;
    return first;
  }
}

/** Node runs what is next on its tick queue when no promise can go on any more; a turn of the event loop
 *  costs ten times that. */
function allHaveGoneOn(): Promise<void> {
  return new Promise((resolve) => process.nextTick(resolve));
}

function isBefore(a: Timer, b: Timer): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}
