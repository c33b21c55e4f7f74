/** The line of requests whose first token will be late, before anything is computed for them: they are let
 *  in when workers have time to spare, so that they take nothing from those who can be in time. Used by
 *  coordinator.ts.
 *  Order is priority, then whose turn it is (fair-shares.ts), then arrival. Whose turn comes next whatever
 *  its priority is let in all the same once it has waited for `agingTtfts` of its TTFT, while fewer of
 *  these are under way than workers are live: everybody's wait ends. Who is predicted to wait too long is
 *  refused.
 *  Invariants: who has joined is let in or leaves, once; nothing is kept of who has left. */
import { assert } from '../base/assert.js';
import type { Clock, TimerHandle } from '../base/clock.js';
import { OrderedQueue } from '../base/ordered-queue.js';
import { FairTurns } from './fair-shares.js';
import { refuseLongWait } from './overload.js';
import type { Request } from './request.js';

type Waits = Pick<Request, 'priority' | 'slo' | 'deadlineAtMs' | 'input'>;

interface Way {
  /** For those who are on the workers already. */
  readonly waitMs: number;
  /** What its first token takes without anybody. */
  readonly aloneMs: number;
  /** False: it would take from those who can be in time. `isForced`: it need not look at them. */
  readonly enter: (isForced: boolean) => boolean;
}

interface Waiting extends Way {
  readonly request: Waits;
  readonly turn: number;
  readonly place: number;
  readonly joinedMs: number;
}

interface LateLineOptions {
  readonly clock: Clock;
  /** That are live. */
  readonly workerCount: () => number;
  readonly waitMsMax: number;
}

const agingTtfts = 4;
/** The line is looked at when a prompt is done or a request has ended, and as often besides: for workers
 *  that come back, and for age. */
const lookEveryMs = 50;
/** A wait is predicted from how fast the last ones were let in; fewer say nothing. */
const recentCount = 16;

const compareTurns = (a: Waiting, b: Waiting) => a.turn - b.turn || a.place - b.place;
const compareWaiting = (a: Waiting, b: Waiting) =>
  a.request.priority - b.request.priority || compareTurns(a, b);

export class LateLine {
  readonly #options: LateLineOptions;
  readonly #line = new OrderedQueue<Waiting>(compareWaiting);
  /** The same, whatever their priority. */
  readonly #byTurn = new OrderedQueue<Waiting>(compareTurns);
  readonly #waiting = new Map<Waits, Waiting>();
  readonly #turns = new FairTurns();
  /** Let in for their age, and not ended. */
  readonly #aged = new Set<Waits>();
  /** When the last ones were let in, since the line began. */
  readonly #enteredMs: number[] = [];
  #aloneMs = 0;
  #placeCount = 0;
  #timer: TimerHandle | null = null;

  constructor(options: LateLineOptions) {
    this.#options = options;
  }

  get count(): number {
    return this.#waiting.size;
  }

  /** Throws OverloadedError when it would wait too long. */
  join(request: Waits, way: Way): void {
    assert(!this.#waiting.has(request), 'a request joins the line once');
    const { clock } = this.#options;
    const [turn, place] = [this.#turns.turnOf(request.input), this.#placeCount++];
    const waiting = { ...way, request, turn, place, joinedMs: clock.nowMs() };
    if (this.#waiting.size === 0) this.#enteredMs.length = 0;
    this.#refuseLongWait(waiting);
    this.#turns.join(request.input, way.aloneMs);
    this.#waiting.set(request, waiting);
    this.#line.insert(waiting);
    this.#byTurn.insert(waiting);
    this.#aloneMs += way.aloneMs;
    if (this.#line.first === waiting) this.look();
  }

  /** It has ended, wherever it was. */
  leave(request: Waits): void {
    const waiting = this.#waiting.get(request);
    const isBehind = waiting !== undefined && this.#line.first !== waiting;
    if (waiting !== undefined) this.#forget(waiting);
    this.#aged.delete(request);
    if (!isBehind) this.look(); // from behind another it leaves no more time than there was
  }

  /** Lets in whom there is time for. */
  look(): void {
    while (this.#letInAged() || this.#letInFirst());
    this.#timer?.cancel();
    this.#timer = this.#waiting.size === 0 ? null : this.#options.clock.after(lookEveryMs, () => this.look());
  }

  #letInFirst(): boolean {
    const { first } = this.#line;
    return first !== undefined && this.#letIn(first, false);
  }

  #letInAged(): boolean {
    const { clock, workerCount } = this.#options;
    const next = this.#byTurn.first;
    if (next === undefined || this.#aged.size >= workerCount()) return false;
    if (clock.nowMs() < next.joinedMs + agingTtfts * (next.request.slo?.ttftMs ?? 0)) return false;
    if (!this.#letIn(next, true)) return false;
    this.#aged.add(next.request);
    return true;
  }

  #letIn(waiting: Waiting, isForced: boolean): boolean {
    if (!waiting.enter(isForced)) return false;
    this.#turns.letIn(waiting.turn);
    this.#forget(waiting);
    this.#enteredMs.push(this.#options.clock.nowMs());
    if (this.#enteredMs.length > recentCount) this.#enteredMs.shift();
    return true;
  }

  #forget(waiting: Waiting): void {
    this.#waiting.delete(waiting.request);
    this.#line.remove(waiting);
    this.#byTurn.remove(waiting);
    if (this.#waiting.size === 0) this.#turns.clear();
    // so that rounding does not pile up
    this.#aloneMs = this.#waiting.size === 0 ? 0 : this.#aloneMs - waiting.aloneMs;
  }

  /** Those before it are let in as fast as the last ones were, and not faster than the workers can compute
   *  their prompts. */
  #refuseLongWait(waiting: Waiting): void {
    const { clock, waitMsMax, workerCount } = this.#options;
    const nowMs = clock.nowMs();
    const beforeCount = this.#line.countBefore(waiting);
    const share = beforeCount / Math.max(1, this.#waiting.size);
    const [firstMs = nowMs] = this.#enteredMs;
    const paceMs = this.#enteredMs.length < recentCount ? 0 : (nowMs - firstMs) / recentCount;
    const atLeastMs = waiting.waitMs + (share * this.#aloneMs) / Math.max(1, workerCount());
    const waitMs = Math.max(beforeCount * paceMs, atLeastMs);
    refuseLongWait(
      { waitMs, ttftMs: waitMs + waiting.aloneMs },
      waiting.request.deadlineAtMs - nowMs,
      waitMsMax,
    );
  }
}
