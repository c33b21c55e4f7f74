/** One load test: sends the planned requests at their times, collects what came of each. Used by serve (open
 *  loop), static (serial) and sweep.
 *  Invariant: every request that was sent has exactly one record, however it ended, and no arrival waits for
 *  an answer unless a limit on concurrency was asked for. */
import { setMaxListeners } from 'node:events';
import type { Clock } from '../base/clock.js';
import type { CompletionAnswer, CompletionClient, PreparedRequest } from './completion-client.js';
import { type LoadRecord, lengthClassOf, type PlannedRequest } from './load-record.js';

export interface RunOptions {
  readonly clock: Clock;
  /** Infinity: no limit. */
  readonly concurrencyMax: number;
  /** Requests that arrive earlier are sent and recorded, but not measured. */
  readonly warmupMs: number;
  /** The same by count, for runs without arrival times. */
  readonly warmupRequestCount: number;
  /** How long open requests may go on after the last arrival. */
  readonly drainMs: number;
  /** No request is sent after this. */
  readonly durationMs: number;
  /** Ends the run early: open requests are recorded as unfinished. */
  readonly signal?: AbortSignal;
  readonly onChange?: (progress: RunProgress) => void;
}

export interface RunProgress {
  readonly elapsedMs: number;
  readonly sentCount: number;
  readonly inFlightCount: number;
  /** Since the start; newest last. */
  readonly records: readonly LoadRecord[];
}

/** An arrival at the very end of the duration may be sent this much later. */
const lateArrivalMs = 1000;

/** Records in the order of their sending. */
export async function runLoad(
  plan: Iterable<PlannedRequest>,
  client: CompletionClient,
  options: RunOptions,
): Promise<readonly LoadRecord[]> {
  const run = new Run(client, options);
  await run.sendAll(plan);
  return run.finish();
}

class Run {
  readonly #client: CompletionClient;
  readonly #options: RunOptions;
  readonly #startMs: number;
  readonly #cut = new AbortController();
  readonly #stop = () => this.#cut.abort();
  readonly #open = new Set<Promise<void>>();
  readonly #records: LoadRecord[] = [];
  /** Called at every end; whoever waits for one puts its own in place. */
  #ended: () => void = () => {};
  readonly #whenCut: Promise<void>;
  /** When the newest request could have been sent: its arrival, or the slot it waited for. */
  #readyMs = 0;
  #sentCount = 0;

  constructor(client: CompletionClient, options: RunOptions) {
    this.#client = client;
    this.#options = options;
    this.#startMs = options.clock.nowMs();
    setMaxListeners(0, this.#cut.signal); // one per open request
    this.#whenCut = new Promise((resolve) =>
      this.#cut.signal.addEventListener('abort', () => resolve(), { once: true }),
    );
    if (options.signal?.aborted === true) this.#cut.abort();
    options.signal?.addEventListener('abort', this.#stop);
  }

  async sendAll(plan: Iterable<PlannedRequest>): Promise<void> {
    const { concurrencyMax, durationMs, clock } = this.#options;
    for (const planned of plan) {
      const prepared = this.#client.prepare(planned);
      if (planned.at === 'asap') await clock.yield();
      else await this.#sleepUntil(planned.at);
      const dueMs = planned.at === 'asap' ? this.#elapsedMs() : planned.at;
      this.#readyMs = Math.max(this.#readyMs, dueMs);
      while (this.#open.size >= concurrencyMax && !this.#cut.signal.aborted) {
        await this.#nextEnd();
        this.#readyMs = this.#elapsedMs();
      }
      if (this.#cut.signal.aborted || this.#elapsedMs() > durationMs + lateArrivalMs) return;
      this.#send(planned, prepared, planned.at === 'asap' ? this.#readyMs : dueMs);
    }
  }

  #send(planned: PlannedRequest, prepared: PreparedRequest, dueMs: number): void {
    const facts = { dueMs, readyMs: this.#readyMs, inFlightCount: this.#open.size };
    this.#sentCount++;
    const answered = prepared.send(this.#cut.signal).then((answer) => {
      this.#open.delete(answered);
      this.#ended();
      this.#records.push(this.#record(planned, answer, facts));
      this.#tell();
    });
    this.#open.add(answered);
    this.#tell();
  }

  /** One of those that are open has ended. A race among them would leave a reaction on each, at every
   *  request. */
  #nextEnd(): Promise<void> {
    return new Promise((resolve) => {
      this.#ended = resolve;
    });
  }

  async finish(): Promise<readonly LoadRecord[]> {
    const { clock, drainMs } = this.#options;
    const timer = clock.after(drainMs, () => this.#cut.abort());
    await Promise.all(this.#open);
    timer.cancel();
    this.#options.signal?.removeEventListener('abort', this.#stop);
    return this.#records.sort((a, b) => a.sentMs - b.sentMs || a.index - b.index);
  }

  #elapsedMs(): number {
    return this.#options.clock.nowMs() - this.#startMs;
  }

  async #sleepUntil(elapsedMs: number): Promise<void> {
    const waitMs = elapsedMs - this.#elapsedMs();
    if (waitMs <= 0 || this.#cut.signal.aborted) return;
    await Promise.race([this.#options.clock.sleep(waitMs), this.#whenCut]);
  }

  #tell(): void {
    this.#options.onChange?.({
      elapsedMs: this.#elapsedMs(),
      sentCount: this.#sentCount,
      inFlightCount: this.#open.size,
      records: this.#records,
    });
  }

  #record(
    planned: PlannedRequest,
    answer: CompletionAnswer,
    { dueMs, readyMs, inFlightCount }: { dueMs: number; readyMs: number; inFlightCount: number },
  ): LoadRecord {
    const { warmupMs, warmupRequestCount } = this.#options;
    const { chunkMs, status, error, id, route } = answer;
    const since = (ms: number) => rounded(ms - this.#startMs);
    const [firstMs] = chunkMs;
    return {
      index: planned.index,
      phase: dueMs < warmupMs || planned.index < warmupRequestCount ? 'warmup' : 'measured',
      lengthClass: lengthClassOf(planned.promptTokenCount),
      promptTokenCount: answer.promptTokenCount ?? planned.promptTokenCount,
      wantedTokenCount: planned.wantedTokenCount,
      maxTokenCount: planned.maxTokenCount,
      outputTokenCount: answer.outputTokenCount,
      scheduledMs: rounded(dueMs),
      sentMs: since(answer.sentMs),
      delayMs: rounded(Math.max(0, answer.sentMs - this.#startMs - readyMs)),
      inFlightCount,
      ...(firstMs === undefined ? {} : { firstTokenMs: since(firstMs) }),
      endMs: since(answer.endMs),
      gapsMs: chunkMs.slice(1).map((ms, i) => rounded(ms - (chunkMs[i] ?? ms))),
      outcome: answer.outcome,
      ...(status === undefined ? {} : { status }),
      ...(error === undefined ? {} : { error }),
      ...(id === undefined ? {} : { id }),
      ...(route === undefined ? {} : { route }),
    };
  }
}

/** Microseconds are enough, and files stay small. */
function rounded(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}
