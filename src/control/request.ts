/** One request on its way through the workers: what it asks, what it has got so far, when what happened. Used
 *  by coordinator.ts and paths.ts. Invariants: tokens are appended in order and exactly once, whichever
 *  worker they come from; after it has settled nothing is emitted; `outputs` is always enough to continue on
 *  another worker. */
import { assert, at } from '../base/assert.js';
import type { Clock, TimerHandle } from '../base/clock.js';
import { fromWire, TwostrokeError } from '../base/errors.js';
import type { RequestId, TokenId } from '../base/ids.js';
import type { TokenDeadlines } from '../engine/generation-request.js';
import type { TokenEvent } from '../engine/token-event.js';
import type { RoutePlace } from '../router/route.js';
import type { Slo } from '../router/slo.js';
import type { RequestBody } from '../worker/messages.js';
import { packTokens } from '../worker/token-list.js';
import type { RequestInput } from './gateway-api.js';
import { EventQueue, type GenerationStream } from './generation-stream.js';
import type { HandOverFailure, RequestOutcome, RequestRecord, RouteSummary } from './request-record.js';
import { servingOrder } from './service-class.js';
import { sloVerdictOf } from './slo-verdict.js';
import { Suspicion } from './suspicion.js';

type TokensEvent = Extract<TokenEvent, { kind: 'tokens' }>;
type ChoiceEnd = 'stop' | 'length' | 'stop_string';
type Times = Partial<
  Record<'routedMs' | 'prefillStartedMs' | 'firstTokenMs' | 'landedMs' | 'resumedMs', number>
>;

/** The part of an Attempt that follows the tokens. */
interface AttemptProgress {
  onStarted(): void;
  onTokens(tokenCount: number): void;
}

export class Request {
  readonly id: RequestId;
  readonly input: RequestInput;
  readonly arrivalMs: number;
  /** When it ends, however far it is. */
  readonly deadlineAtMs: number;
  readonly outputs: TokenId[][];
  readonly ended: (ChoiceEnd | null)[];
  readonly routes: RouteSummary[] = [];
  readonly times: Times = {};
  /** Resolves once the request has finished, failed or been cancelled. */
  readonly settled: Promise<void>;
  /** Over all choices. */
  outputTokenCount = 0;
  /** What it is to be served within; null: it has not been routed yet. */
  slo: Slo | null = null;
  /** Its first token will be late: it waits for those who can be in time, */
  isLate = false;
  /** until then. */
  servedFromMs: number | null = null;
  cachedTokenCount = 0;
  transferBytes = 0;
  reservationWaitMs = 0;
  /** Workers that died under it. */
  lossCount = 0;
  readonly suspicion = new Suspicion();
  /** Why hand-overs came to nothing: after one, it stays on one worker. */
  readonly handOverFailures: HandOverFailure[] = [];
  /** Called when a choice is stopped from outside; set by whoever drives the request now. */
  onStopChoice: ((choiceIndex: number) => void) | null = null;
  /** Hears what comes of it; null: it has not been routed yet. */
  attempt: AttemptProgress | null = null;
  readonly #clock: Clock;
  readonly #queue: EventQueue;
  readonly #deadline: TimerHandle;
  #outcome: {
    readonly kind: RequestOutcome;
    readonly error: TwostrokeError | null;
    readonly doneMs: number;
  } | null = null;
  #promptText: string | null = null;
  /** Of its tokens, from the first on. */
  #promptLogprobCount = 0;
  #hasCached = false;
  #resolveSettled: () => void = () => {};
  #resolveRoute: (summary: RouteSummary) => void = () => {};
  #rejectRoute: (error: Error) => void = () => {};
  readonly #route: Promise<RouteSummary>;
  /** Who waits for something or its end. */
  readonly #waits = new Set<() => void>();
  #openChoiceCount: number;

  constructor(input: RequestInput, clock: Clock, defaultDeadlineMs: number) {
    this.id = input.id;
    this.input = input;
    this.#clock = clock;
    this.arrivalMs = clock.nowMs();
    this.outputs = Array.from({ length: input.sampling.choiceCount }, () => []);
    this.ended = this.outputs.map(() => null);
    this.#openChoiceCount = this.outputs.length;
    this.#queue = new EventQueue(() => this.cancel(), input.kept);
    this.settled = new Promise((resolve) => {
      this.#resolveSettled = resolve;
    });
    this.#route = new Promise((resolve, reject) => {
      this.#resolveRoute = resolve;
      this.#rejectRoute = reject;
    });
    this.#route.catch(() => {}); // whoever wants it gets the rejection; nobody has to want it
    const deadlineMs = input.deadlineMs ?? defaultDeadlineMs;
    this.deadlineAtMs = this.arrivalMs + deadlineMs;
    this.#deadline = clock.after(deadlineMs, () =>
      this.fail(
        new TwostrokeError(
          'deadline_exceeded',
          `request ${this.id} did not end within ${Math.round(deadlineMs)} ms`,
        ),
      ),
    );
  }

  /** Lower first. */
  get priority(): number {
    return servingOrder(this.input.priority ?? 0, this.input.serviceClass);
  }

  get isSettled(): boolean {
    return this.#outcome !== null;
  }

  /** Every choice ended by itself or by its stop string: the workers know, and hold nothing of it. */
  get isFinished(): boolean {
    return this.#outcome?.kind === 'finished';
  }

  /** Nobody asked it: nothing is to be learned from its length or its coming. */
  get isMeasurement(): boolean {
    return this.input.measuredRoute !== undefined;
  }

  /** The way that its first attempt must take. */
  get pinnedPlace(): RoutePlace | undefined {
    return this.routes.length === 0 ? this.input.measuredRoute : undefined;
  }

  get endedChoices(): readonly number[] {
    return this.ended.flatMap((end, index) => (end === null ? [] : [index]));
  }

  /** The client's end. */
  get stream(): GenerationStream {
    return {
      [Symbol.asyncIterator]: () => this.#queue,
      cancel: () => this.cancel(),
      stopChoice: (choiceIndex) => this.stopChoice(choiceIndex),
      route: this.#route,
    };
  }

  /** Gives the client what an engine said about this request. What comes after an end, or a second time after
   *  a recovery, is dropped. */
  emit(event: TokenEvent): void {
    if (this.isSettled) return;
    if (event.kind === 'tokens') this.#acceptTokens(event);
    else if (event.kind === 'failed') this.fail(fromWire(event.error));
    else if (event.kind === 'cached') this.#acceptCached(event);
    else this.#acceptPromptLogprobs(event);
  }

  /** What no worker that computes this request can have to say of it. Null: the event may be accepted. */
  objectionTo(event: TokenEvent): string | null {
    if (event.kind !== 'tokens') return null;
    const { choiceCount, maxTokenCount } = this.input.sampling;
    const { choiceIndex, tokens } = event;
    const output = this.outputs[choiceIndex];
    if (output === undefined)
      return `tokens of choice ${choiceIndex} of request ${this.id}, which has ${choiceCount}`;
    if (this.ended[choiceIndex] !== null || output.length + tokens.length <= maxTokenCount) return null;
    return `more than the ${maxTokenCount} tokens that request ${this.id} asked for`;
  }

  stopChoice(choiceIndex: number): void {
    this.#queue.drop(choiceIndex);
    if (this.isSettled || at(this.ended, choiceIndex) !== null) return;
    this.#end(choiceIndex, 'stop_string');
    this.onStopChoice?.(choiceIndex);
  }

  cancel(): void {
    this.#settle('cancelled', null);
  }

  fail(error: TwostrokeError): void {
    this.#settle('failed', error);
  }

  /** `work`'s result, or null when the request settles first. A late rejection of `work` is swallowed.
   *  Nothing is kept of a wait that is over, however many there were. */
  orSettled<T>(work: Promise<T>): Promise<T | null> {
    return new Promise((resolve, reject) => {
      const onSettled = () => resolve(null);
      if (this.isSettled) onSettled();
      else this.#waits.add(onSettled);
      work.then(resolve, reject).finally(() => this.#waits.delete(onSettled));
    });
  }

  routed(summary: RouteSummary): void {
    this.routes.push(summary);
    delete this.times.prefillStartedMs; // of an attempt that came to nothing
    this.stamp('routedMs');
    this.#resolveRoute(summary);
  }

  /** The first time counts. */
  stamp(name: keyof Times): void {
    this.times[name] ??= this.#clock.nowMs();
  }

  toBody(): RequestBody {
    const { id, sampling, cacheSalt } = this.input;
    return {
      id,
      promptIds: this.#packedPrompt(),
      sampling: this.#hasPromptLogprobs ? { ...sampling, promptLogprobCount: null } : sampling,
      outputs: this.outputTokenCount === 0 ? [] : this.outputs.map(packTokens),
      priority: this.priority,
      ...(cacheSalt === undefined ? {} : { cacheSalt }),
      endedChoices: this.endedChoices,
      ...this.deadlines,
    };
  }

  /** A late one is due at once: it is late already, and what it has waited outside gives it no right on a
   *  worker. */
  firstTokenDueMs({ ttftMs }: Slo): number {
    return this.isLate ? (this.servedFromMs ?? this.arrivalMs) : this.arrivalMs + ttftMs;
  }

  /** As of now; empty: nothing is promised. */
  get deadlines(): { readonly deadlines?: TokenDeadlines } {
    if (this.slo === null || this.isMeasurement) return {};
    const nowMs = this.#clock.nowMs();
    const { ttftMs, tpotMs } = this.slo;
    const firstTokenInMs = this.firstTokenDueMs(this.slo) - nowMs;
    const { firstTokenMs } = this.times;
    const since = firstTokenMs === undefined ? {} : { sinceFirstTokenMs: nowMs - firstTokenMs };
    return { deadlines: { firstTokenInMs, ttftMs, tpotMs, ...since } };
  }

  /** Packed once: it goes to the prefill worker, to the decode worker, and again when that had no room. */
  #packedPrompt(): string {
    this.#promptText ??= packTokens(this.input.promptIds);
    return this.#promptText;
  }

  toRecord(): RequestRecord {
    assert(this.#outcome !== null, 'a record is made of a settled request');
    const { kind, error, doneMs } = this.#outcome;
    const { firstTokenMs, resumedMs } = this.times;
    const record: RequestRecord = {
      id: this.id,
      ...(this.input.owner === undefined ? {} : { owner: this.input.owner }),
      ...(this.input.serviceClass === undefined ? {} : { serviceClass: this.input.serviceClass.name }),
      outcome: kind,
      isMeasurement: this.isMeasurement,
      ...(error === null ? {} : { errorCode: error.code }),
      routes: this.routes,
      ...(this.slo === null ? {} : { slo: this.slo }),
      isLate: this.isLate,
      promptTokenCount: this.input.promptIds.length,
      cachedTokenCount: this.cachedTokenCount,
      outputTokenCount: this.outputTokenCount,
      finishReasons: this.ended,
      arrivalMs: this.arrivalMs,
      ...this.times,
      doneMs,
      transferBytes: this.transferBytes,
      exposedTransferMs:
        firstTokenMs === undefined || resumedMs === undefined ? 0 : Math.max(0, resumedMs - firstTokenMs),
      reservationWaitMs: this.reservationWaitMs,
      handOverFailures: this.handOverFailures,
      lossCount: this.lossCount,
    };
    const sloMet = this.slo === null ? null : sloVerdictOf(record, this.slo);
    return sloMet === null ? record : { ...record, sloMet };
  }

  /** Those of the next tokens; of others it has them, from before a recovery. */
  #acceptPromptLogprobs(event: Extract<TokenEvent, { kind: 'promptLogprobs' }>): void {
    const count = this.#promptLogprobCount + event.logprobs.length;
    if ((event.start ?? 0) !== this.#promptLogprobCount || count > this.input.promptIds.length - 1) return;
    this.#promptLogprobCount = count;
    this.#queue.push(event);
  }

  get #hasPromptLogprobs(): boolean {
    return this.#promptLogprobCount >= this.input.promptIds.length - 1;
  }

  #acceptTokens(event: TokensEvent): void {
    const { choiceIndex, tokens, finishReason } = event;
    if (at(this.ended, choiceIndex) !== null) return;
    const output = at(this.outputs, choiceIndex);
    for (const { tokenId } of tokens) output.push(tokenId);
    this.outputTokenCount += tokens.length;
    this.stamp('firstTokenMs');
    this.suspicion.tokens(tokens.length);
    this.attempt?.onTokens(tokens.length);
    this.#queue.push(event);
    if (finishReason !== undefined) this.#end(choiceIndex, finishReason);
  }

  /** A recovered request finds its own blocks in the cache; only the first answer is the client's. */
  #acceptCached(event: Extract<TokenEvent, { kind: 'cached' }>): void {
    this.suspicion.started();
    this.attempt?.onStarted();
    if (this.#hasCached) return;
    this.#hasCached = true;
    this.cachedTokenCount = event.cachedTokenCount;
    this.#queue.push(event);
  }

  #end(choiceIndex: number, reason: ChoiceEnd): void {
    this.ended[choiceIndex] = reason;
    this.#openChoiceCount--;
    if (this.#openChoiceCount === 0) this.#settle('finished', null);
  }

  #settle(kind: RequestOutcome, error: TwostrokeError | null): void {
    if (this.#outcome !== null) return;
    this.#outcome = { kind, error, doneMs: this.#clock.nowMs() };
    this.#deadline.cancel();
    if (kind === 'cancelled') this.#queue.clear();
    if (this.routes.length === 0) {
      this.#rejectRoute(
        error ?? new TwostrokeError('cancelled', `request ${this.id} ended before it was routed`),
      );
    }
    this.#queue.end(error);
    this.#resolveSettled();
    for (const wake of this.#waits) wake();
    this.#waits.clear();
  }
}
