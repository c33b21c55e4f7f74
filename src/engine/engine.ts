/** The engine: requests in, tokens out, on one device. Its loop is three words: schedule, launch, commit.
 *
 *  Used by worker/, which drives `step`; tests call `generate`. It does not know that other
 *  workers exist: a hand-over is a prompt whose blocks it holds (`addPrefill`), or blocks that someone else
 *  fills (`reserve`, `resume`).
 *
 *  Invariants, proved by checkIntegrity: every block is free, owned or cached; every reference has a holder;
 *  nothing is kept for a request that has ended once no step in flight touches it. */
import { assert } from '../base/assert.js';
import type { RequestId, TokenId } from '../base/ids.js';
import { topLogprobsMax } from '../device/device.js';
import { BlockManager } from '../kv/block-manager.js';
import { KvCache } from '../kv/kv-cache.js';
import { KvLayout } from '../kv/kv-layout.js';
import { PrefixHasher } from '../kv/prefix-index.js';
import { commitStep } from './commit.js';
import type { EngineConfig, EngineHooks, EngineSnapshot, Reservation } from './engine-options.js';
import { collectResults } from './generate.js';
import type { GenerationRequest, GenerationResult, TokenDeadlines } from './generation-request.js';
import { abortRequest, reserveRequest, resumeRequest, stopChoiceOf } from './hand-over.js';
import { checkAccounting } from './integrity.js';
import { MaskTurns } from './mask-turns.js';
import { type InFlight, ModelRunner } from './model-runner.js';
import { Pacer } from './pacer.js';
import { Scheduler } from './scheduler.js';
import type { Deadlines } from './sequence.js';
import { type RequestMode, RequestState } from './sequence.js';
import { SequenceMemory } from './sequence-memory.js';
import { takeSnapshot } from './snapshot.js';
import type { StepPlan } from './step-plan.js';
import { stepWorkOf } from './step-work.js';
import type { TokenEvent } from './token-event.js';
import { validateRequest } from './validate-request.js';

// The types its methods speak.
export type {
  EngineConfig,
  EngineHooks,
  EngineSnapshot,
  PrefillChunk,
  Reservation,
} from './engine-options.js';
export type { ChoiceResult, GenerationRequest, GenerationResult } from './generation-request.js';

export class Engine {
  readonly cache: KvCache;
  readonly #options: EngineConfig;
  readonly #hooks: EngineHooks;
  readonly #batchSlotCount: number;
  readonly #memory: SequenceMemory;
  readonly #scheduler: Scheduler;
  readonly #runner: ModelRunner;
  readonly #pacer: Pacer | null;
  readonly #masks: MaskTurns | null;
  readonly #requests = new Map<RequestId, RequestState>();
  readonly #inFlight: InFlight[] = [];
  readonly #counters = { step: 0, lastStepMs: 0, promptToken: 0, generatedToken: 0, arrival: 0 };
  /** When the device last became idle, or would have without the next step. */
  #lastEndMs = 0;
  #isStepping = false;
  #isClosed = false;

  /** Allocates the KV cache; throws DeviceError when the device has no room for it. Device and model stay the
   *  caller's. */
  constructor(options: EngineConfig, hooks: EngineHooks = {}) {
    const { device, model, kv, tokenBudget, prefillChunkTokenCount, depth } = options;
    const { config } = model;
    this.#options = options;
    this.#hooks = hooks;
    const sampleCountMax = Math.min(model.logits.shape[0] ?? 0, tokenBudget);
    this.#batchSlotCount = Math.min(options.sequenceCountMax, sampleCountMax);
    assert(
      this.#batchSlotCount > 0 && prefillChunkTokenCount > 0,
      'token budget, chunk and sequence count must be positive',
    );
    const modelName = `${config.architecture}/${config.hiddenCount}x${config.layerCount}/${config.vocabCount}`;
    const { layerCount, kvHeadCount, headDim } = config;
    const layout = new KvLayout({
      modelName,
      layerCount,
      kvHeadCount,
      headDim,
      blockTokenCount: kv.blockTokenCount,
      dtype: kv.dtype,
    });
    this.cache = new KvCache(device, layout, kv.blockCount);
    const hasher =
      options.prefixCaching === 'on' ? new PrefixHasher(layout.hash, kv.blockTokenCount) : undefined;
    this.#memory = new SequenceMemory(new BlockManager(kv.blockCount), kv.blockTokenCount, hasher);
    const { stepTimes, clock } = options;
    this.#pacer = stepTimes === undefined ? null : new Pacer(stepTimes, clock, tokenBudget);
    const limits = {
      rowCountMax: tokenBudget,
      sampleCountMax,
      prefillChunkTokenCount,
      batchSlotCount: this.#batchSlotCount,
    };
    this.#scheduler = new Scheduler(this.#memory, { ...limits, pacer: this.#pacer }, hooks);
    this.#masks =
      options.masks === undefined
        ? null
        : new MaskTurns(options.masks, this.#scheduler, this.#requests, (state) => this.#forgetEnded(state));
    const parts = { device, model, cache: this.cache, hooks };
    this.#runner = new ModelRunner({
      ...parts,
      batchSlotCount: this.#batchSlotCount,
      sampleCountMax,
      laneCount: depth,
    });
  }

  /** Queues a request. Throws InvalidRequestError when it can never fit. */
  add(request: GenerationRequest): void {
    this.#scheduler.enqueue(this.#register(request, 'generate'));
  }

  /** Prefill for a hand-over: computes the prompt, emits the first token of every choice, then holds the
   *  prompt's blocks until release(id). No decode. */
  addPrefill(request: GenerationRequest): void {
    this.#scheduler.enqueue(this.#register(request, 'prefill'));
  }

  /** Decode side of a hand-over: owns batch slots for all choices and blocks for the prompt and
   *  `growthTokenCount` tokens ahead; null when there is no room now, or a queued sequence comes first. */
  reserve(request: GenerationRequest, growthTokenCount: number): Reservation | null {
    const state = this.#register(request, 'reserved');
    const reservation = reserveRequest(state, growthTokenCount, this.#scheduler, this.#memory);
    if (reservation === null) this.#requests.delete(state.id);
    return reservation;
  }

  /** The other side has written K and V of positions 0..tokenCount-1 into the reserved blocks. `outputs`: all
   *  tokens each choice has. */
  resume(
    id: RequestId,
    outputs: readonly (readonly TokenId[])[],
    tokenCount: number,
    deadlines?: TokenDeadlines,
  ): void {
    const state = this.#requests.get(id);
    if (state === undefined) return; // aborted meanwhile
    this.#startClock(state, deadlines);
    const parts = {
      scheduler: this.#scheduler,
      memory: this.#memory,
      vocabCount: this.#options.model.config.vocabCount,
    };
    resumeRequest(state, outputs, tokenCount, parts);
    this.#masks?.register(state);
    this.#forgetEnded(state);
  }

  /** Ends a request in any phase, silently; idempotent. Blocks come back once no step in flight touches them.
   *  In a hand-over, call it (or release) only when the other side does not touch the blocks any more. */
  abort(id: RequestId): void {
    const state = this.#requests.get(id);
    if (state === undefined) return;
    this.#requests.delete(id);
    abortRequest(state, this.#scheduler);
  }

  /** A stop string was seen outside: ends that choice silently. In a hand-over before resume it is remembered
   *  for resume. */
  stopChoice(id: RequestId, choiceIndex: number): void {
    const state = this.#requests.get(id);
    if (state === undefined) return;
    stopChoiceOf(state, choiceIndex, this.#scheduler);
    this.#forgetEnded(state);
  }

  /** Gives back the blocks of addPrefill or reserve; full blocks stay in the prefix cache. No write into them
   *  may be in flight. */
  release(id: RequestId): void {
    this.abort(id);
  }

  get hasWork(): boolean {
    const { waiting, late, running, events } = this.#scheduler;
    return (
      waiting.count > 0 ||
      late.count > 0 ||
      running.count > 0 ||
      events.length > 0 ||
      this.#inFlight.length > 0
    );
  }

  /** One step: choose work, launch it, record what an earlier launch produced. Up to `depth` steps are
   *  in flight. */
  async step(): Promise<readonly TokenEvent[]> {
    assert(!this.#isStepping && !this.#isClosed, 'step() called while stepping or after close()');
    this.#isStepping = true;
    try {
      if (this.#masks !== null) await this.#masks.beforeStep(this.#inFlight.length);
      const plan = this.#scheduler.schedule();
      if (plan !== null) this.#launch(plan);
      if (plan !== null && this.#inFlight.length < this.#options.depth) return this.#takeEvents([]);
      const oldest = this.#inFlight[0];
      if (oldest !== undefined) return this.#takeEvents(await this.#commit(oldest));
      if (this.#scheduler.events.length === 0 && this.hasWork) await this.#rest();
      return this.#takeEvents([]);
    } finally {
      this.#isStepping = false;
    }
  }

  /** Blocked: others hold the memory or the batch slots, or masks are being computed. */
  async #rest(): Promise<void> {
    const { masks, clock } = this.#options;
    await (masks === undefined ? clock.sleep(1) : Promise.race([clock.sleep(1), masks.arrival()]));
  }

  snapshot(): EngineSnapshot {
    return takeSnapshot({
      requests: this.#requests.values(),
      scheduler: this.#scheduler,
      memory: this.#memory,
      counters: this.#counters,
      batchSlotCount: this.#batchSlotCount,
      stepsInFlightCount: this.#inFlight.length,
    });
  }

  /** Requests that are here: waiting, running, held or reserved. */
  get requestIds(): readonly RequestId[] {
    return [...this.#requests.keys()];
  }

  /** Throws AssertionError when a block, batch slot or sequence is accounted for wrongly. */
  checkIntegrity(): void {
    checkAccounting(this.#requests, this.#scheduler, this.#memory, {
      batchSlotCount: this.#batchSlotCount,
      plans: this.#inFlight.map(({ plan }) => plan),
    });
  }

  /** Resolves when no step is in flight on the device; rejects with what failed there. */
  async quiesced(): Promise<void> {
    await Promise.all(this.#inFlight.map(({ result }) => result));
  }

  /** Waits for the device, then frees the cache and all buffers. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    await Promise.allSettled(this.#inFlight.map(({ result }) => result));
    this.#runner.close();
    this.cache.close();
  }

  /** Runs requests to their end and collects their tokens, for callers that have the engine to themselves.
   *  When one fails, it throws that one's error and the others are aborted. */
  async generate(
    requests: readonly GenerationRequest[],
    onEvent?: (event: TokenEvent) => void,
  ): Promise<readonly GenerationResult[]> {
    const collection = collectResults(requests, this.#options.clock);
    try {
      for (const request of requests) this.add(request);
      while (this.hasWork) {
        for (const event of await this.step()) {
          collection.push(event);
          onEvent?.(event);
        }
      }
      return collection.finish();
    } catch (error) {
      for (const { id } of requests) this.abort(id);
      throw error;
    }
  }

  #register(request: GenerationRequest, mode: RequestMode): RequestState {
    const { model, maxModelTokenCount, kv } = this.#options;
    assert(!this.#isClosed, 'the engine is closed');
    assert(!this.#requests.has(request.id), `request ${request.id} is here already`);
    validateRequest(request, mode, {
      vocabCount: model.config.vocabCount,
      maxModelTokenCount,
      sequenceCountMax: this.#batchSlotCount,
      blockCount: kv.blockCount,
      blockTokenCount: kv.blockTokenCount,
      topLogprobCountMax: topLogprobsMax,
      hasMasks: this.#options.masks !== undefined,
    });
    const deadlines = this.#deadlinesOf(request);
    const state = new RequestState(request, mode, {
      arrival: this.#counters.arrival++,
      deadlines,
      maxModelTokenCount,
      vocabCount: model.config.vocabCount,
    });
    this.#startClock(state, request.deadlines);
    this.#requests.set(state.id, state);
    for (const choice of state.choices)
      if (mode !== 'reserved' && choice.end() !== undefined && choice.outputIds.length > 0)
        choice.state = 'ended';
    this.#forgetEnded(state);
    this.#masks?.register(state);
    return state;
  }

  /** On this engine's clock. */
  #deadlinesOf({ deadlines }: GenerationRequest): Deadlines | null {
    if (deadlines === undefined || this.#pacer === null) return null;
    const { firstTokenInMs, ttftMs, tpotMs } = deadlines;
    return { firstTokenDueMs: this.#options.clock.nowMs() + firstTokenInMs, ttftMs, tpotMs };
  }

  /** Of choices that have tokens already. */
  #startClock({ choices }: RequestState, deadlines: TokenDeadlines | undefined): void {
    if (deadlines?.sinceFirstTokenMs === undefined) return;
    const firstTokenMs = this.#options.clock.nowMs() - deadlines.sinceFirstTokenMs;
    for (const choice of choices) choice.firstTokenMs = firstTokenMs;
  }

  #forgetEnded(state: RequestState): void {
    if (state.isEnded && this.#requests.get(state.id) === state) this.#requests.delete(state.id);
  }

  #launch(plan: StepPlan): void {
    plan.launchedMs = this.#options.clock.nowMs();
    const inFlight = this.#runner.launch(plan);
    this.#pacer?.onLaunch(stepWorkOf(plan));
    inFlight.result.then(
      () => this.#ended(plan),
      () => undefined, // seen by whoever awaits it; a failure ahead of it may make that nobody
    );
    this.#inFlight.push(inFlight);
  }

  /** Busy from its launch or the end of the step before, whichever was later. */
  #ended(plan: StepPlan): void {
    const endMs = this.#options.clock.nowMs();
    const startMs = Math.max(plan.launchedMs, this.#lastEndMs);
    this.#lastEndMs = endMs;
    const work = stepWorkOf(plan);
    this.#pacer?.onEnd(work, endMs - startMs);
    this.#hooks.onStep?.({ ...work, ms: endMs - startMs });
  }

  async #commit({ plan, result }: InFlight): Promise<readonly TokenEvent[]> {
    const stepResult = await result;
    this.#inFlight.shift();
    const onRequestEnd = (state: RequestState) => this.#forgetEnded(state);
    const nowMs = this.#options.clock.nowMs();
    const events = commitStep(plan, stepResult, {
      scheduler: this.#scheduler,
      memory: this.#memory,
      nowMs,
      onRequestEnd,
    });
    this.#counters.step++;
    this.#counters.lastStepMs = this.#options.clock.nowMs() - plan.launchedMs;
    for (const { sequence, firstToken, endToken } of plan.entries) {
      this.#counters.promptToken += Math.max(0, Math.min(endToken, sequence.promptCount) - firstToken);
    }
    for (const event of events)
      if (event.kind === 'tokens') this.#counters.generatedToken += event.tokens.length;
    return events;
  }

  /** Events that need no device come first: a request's 'cached' before its tokens. */
  #takeEvents(events: readonly TokenEvent[]): readonly TokenEvent[] {
    const early = this.#scheduler.events;
    return early.length === 0 ? events : [...early.splice(0), ...events];
  }
}
