/** A clock that jumps to the next timer when nothing else is left to do, and a completion client that answers
 *  on it. */
import type { Clock } from '../../src/base/clock.js';
import type { CompletionAnswer, CompletionClient } from '../../src/bench/completion-client.js';
import type { Outcome, PlannedRequest } from '../../src/bench/load-record.js';

export class VirtualClock implements Clock {
  #nowMs = 1000;
  readonly #timers: { atMs: number; fire: () => void }[] = [];

  nowMs(): number {
    return this.#nowMs;
  }

  wallMs(): number {
    return 1_700_000_000_000 + this.#nowMs;
  }

  sleep(delayMs: number): Promise<void> {
    return new Promise((resolve) => this.after(delayMs, resolve));
  }

  after(delayMs: number, fire: () => void) {
    const timer = { atMs: this.#nowMs + Math.max(0, delayMs), fire };
    this.#timers.push(timer);
    return {
      cancel: () => {
        const index = this.#timers.indexOf(timer);
        if (index !== -1) this.#timers.splice(index, 1);
      },
    };
  }

  async yield(): Promise<void> {}

  /** Runs timers in order until `done` settles. */
  async drive<T>(done: Promise<T>): Promise<T> {
    let isSettled = false;
    const settle = () => {
      isSettled = true;
    };
    done.then(settle, settle);
    for (;;) {
      for (let i = 0; i < 50 && !isSettled; i++) await Promise.resolve();
      if (isSettled) return done;
      this.#timers.sort((a, b) => a.atMs - b.atMs);
      const next = this.#timers.shift();
      if (next === undefined) throw new Error('nothing left to wait for');
      this.#nowMs = Math.max(this.#nowMs, next.atMs);
      next.fire();
    }
  }
}

export interface FakeService {
  readonly ttftMs: number;
  readonly gapMs: number;
  readonly outcome?: Outcome;
}

/** Each request is answered on its own, as on a server without limits. */
export class FakeClient implements CompletionClient {
  readonly sent: { readonly index: number; readonly atMs: number }[] = [];
  readonly #clock: VirtualClock;
  readonly #service: (request: PlannedRequest) => FakeService;

  constructor(clock: VirtualClock, service: (request: PlannedRequest) => FakeService) {
    this.#clock = clock;
    this.#service = service;
  }

  prepare(request: PlannedRequest) {
    return { send: (signal: AbortSignal) => this.#answer(request, signal) };
  }

  async #answer(request: PlannedRequest, signal: AbortSignal): Promise<CompletionAnswer> {
    const sentMs = this.#clock.nowMs();
    this.sent.push({ index: request.index, atMs: sentMs });
    const { ttftMs, gapMs, outcome = 'completed' } = this.#service(request);
    const cut = new Promise<void>((resolve) =>
      signal.addEventListener('abort', () => resolve(), { once: true }),
    );
    const count = outcome === 'completed' ? request.wantedTokenCount : 0;
    const chunkMs: number[] = [];
    for (let i = 0; i < Math.max(1, count) && !signal.aborted; i++) {
      await Promise.race([this.#clock.sleep(i === 0 ? ttftMs : gapMs), cut]);
      if (!signal.aborted && count > 0) chunkMs.push(this.#clock.nowMs());
    }
    const ended = signal.aborted ? 'unfinished' : outcome;
    return { outcome: ended, sentMs, endMs: this.#clock.nowMs(), chunkMs, outputTokenCount: chunkMs.length };
  }
}
