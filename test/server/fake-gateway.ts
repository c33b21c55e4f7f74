/** A gateway without workers for fast server tests: answers with scripted tokens, one per choice and turn of
 *  the event loop. Keeps what was submitted and cancelled so that tests can check it; `activeCount` must be 0
 *  when a test ends. */
import { systemClock } from '../../src/base/clock.js';
import { type ErrorCode, TwostrokeError, toWire } from '../../src/base/errors.js';
import { type TokenId, workerId } from '../../src/base/ids.js';
import { type Bundle, Place } from '../../src/control/admission.js';
import type { RequestInput } from '../../src/control/gateway-api.js';
import type { GenerationStream } from '../../src/control/generation-stream.js';
import { PredictionErrors, type RoutingStatus } from '../../src/control/prediction-errors.js';
import type { RequestRecord } from '../../src/control/request-record.js';
import type { ServiceClass } from '../../src/control/service-class.js';
import type { Health, WorkerStatus } from '../../src/control/worker-status.js';
import type { EngineSnapshot } from '../../src/engine/engine-options.js';
import type { TokenEvent, TokenLogprob, TokenOutput } from '../../src/engine/token-event.js';
import type { ServerGateway } from '../../src/server/server-gateway.js';

/** The tokens a choice gives before it ends by itself with an end token; cycled when the request ignores the
 *  end. */
export type Script = (input: RequestInput, choiceIndex: number) => readonly TokenId[];

export class FakeGateway implements ServerGateway {
  script: Script;
  healthNow: Health = { status: 'ok', detail: 'fake' };
  /** Emitted before any token, instead of one, or after this many events. */
  failure: { readonly code: ErrorCode; readonly message: string; readonly afterEventCount: number } | null =
    null;
  cachedTokenCount = 0;
  /** Milliseconds between steps; 0: the next turn of the event loop. */
  stepMs = 0;
  /** What the first look at a stream throws: the router's no. */
  refusal: Error | null = null;
  readonly submitted: RequestInput[] = [];
  readonly cancelledIds: string[] = [];
  readonly stoppedChoices: [string, number][] = [];
  readonly recordListeners: ((record: RequestRecord) => void)[] = [];
  activeCount = 0;
  eventCount = 0;
  /** Places taken and not left. */
  placeCount = 0;
  choiceCountMax = Number.POSITIVE_INFINITY;
  promptsAtOnceMax = Number.POSITIVE_INFINITY;
  /** By their names, of everybody who has asked for room. */
  readonly classesAsked: (string | undefined)[] = [];
  /** Refuses everybody. */
  overload: Error | null = null;

  constructor(script: Script) {
    this.script = script;
  }

  checkRoom(serviceClass?: ServiceClass): void {
    this.classesAsked.push(serviceClass?.name);
    if (this.overload !== null) throw this.overload;
  }

  admit({ promptCount, serviceClass }: Bundle): Place {
    this.checkRoom(serviceClass);
    this.placeCount++;
    return new Place(Math.min(promptCount, this.promptsAtOnceMax), () => this.placeCount--);
  }

  submit(input: RequestInput): GenerationStream {
    this.submitted.push(input);
    this.activeCount += 1;
    const state = { isCancelled: false, stopped: new Set<number>() };
    const events = this.#events(input, state);
    return {
      [Symbol.asyncIterator]: () => events,
      cancel: () => {
        if (!state.isCancelled) this.cancelledIds.push(input.id);
        state.isCancelled = true;
      },
      stopChoice: (choiceIndex) => {
        this.stoppedChoices.push([input.id, choiceIndex]);
        state.stopped.add(choiceIndex);
      },
      route: Promise.resolve({
        path: 'disaggregated',
        plan: 'disaggregated 1:1',
        workers: [workerId('fake-0'), workerId('fake-1')],
        reason: 'fake',
        inputs: {},
        estimates: {},
      }),
    };
  }

  routing(): RoutingStatus {
    return {
      strategy: 'adaptive',
      plan: 'collocated',
      prefillFirst: [],
      errors: new PredictionErrors().summary,
      workers: [],
    };
  }

  health(): Health {
    return this.healthNow;
  }

  get state() {
    return this.healthNow.status === 'ok' ? ('ready' as const) : ('loading' as const);
  }

  onRequestDone(listener: (record: RequestRecord) => void): void {
    this.recordListeners.push(listener);
  }

  workers(): readonly WorkerStatus[] {
    return [fakeWorker(this.activeCount)];
  }

  async *#events(
    input: RequestInput,
    state: { isCancelled: boolean; stopped: Set<number> },
  ): AsyncGenerator<TokenEvent> {
    const requestId = input.id;
    try {
      let sentCount = 0;
      if (this.refusal !== null) throw this.refusal;
      for (const event of this.#script(input, state.stopped)) {
        await (this.stepMs > 0 ? systemClock.sleep(this.stepMs) : systemClock.yield());
        if (state.isCancelled) return;
        if (this.failure !== null && sentCount >= this.failure.afterEventCount) {
          yield {
            kind: 'failed',
            requestId,
            error: toWire(new TwostrokeError(this.failure.code, this.failure.message)),
          };
          return;
        }
        sentCount += 1;
        this.eventCount += 1;
        yield event;
      }
    } finally {
      this.activeCount -= 1;
    }
  }

  *#script(input: RequestInput, stopped: ReadonlySet<number>): Generator<TokenEvent> {
    const { id: requestId, sampling, promptIds } = input;
    yield { kind: 'cached', requestId, cachedTokenCount: this.cachedTokenCount };
    if (sampling.promptLogprobCount !== null) {
      const count = sampling.promptLogprobCount;
      yield {
        kind: 'promptLogprobs',
        requestId,
        logprobs: promptIds.slice(1).map((id) => fakeLogprob(id, count)),
      };
    }
    const scripts = Array.from({ length: sampling.choiceCount }, (_, index) => this.script(input, index));
    const running = new Set(scripts.keys());
    for (let step = 0; running.size > 0; step++) {
      for (const choiceIndex of [...running]) {
        if (stopped.has(choiceIndex)) {
          running.delete(choiceIndex);
          continue;
        }
        const event = tokensEvent(input, choiceIndex, scripts[choiceIndex] ?? [], step);
        if (event.finishReason !== undefined) running.delete(choiceIndex);
        yield event;
      }
    }
  }
}

function tokensEvent(
  input: RequestInput,
  choiceIndex: number,
  script: readonly TokenId[],
  step: number,
): Extract<TokenEvent, { kind: 'tokens' }> {
  const { sampling } = input;
  const endId = sampling.endTokenIds[0];
  const tokenId = script[step] ?? endId ?? script[step % script.length] ?? 0;
  const isStop =
    step + 1 > sampling.minTokenCount &&
    [...sampling.endTokenIds, ...sampling.stopTokenIds].includes(tokenId);
  const finishReason = isStop ? 'stop' : step + 1 >= sampling.maxTokenCount ? 'length' : undefined;
  const token: TokenOutput =
    sampling.topLogprobCount === null
      ? { tokenId }
      : { tokenId, logprob: fakeLogprob(tokenId, sampling.topLogprobCount) };
  return {
    kind: 'tokens',
    requestId: input.id,
    choiceIndex,
    tokens: [token],
    ...(finishReason === undefined ? {} : { finishReason }),
    ...(isStop ? { stopTokenId: tokenId } : {}),
  };
}

/** The token itself first, then its successors in the vocabulary. */
export function fakeLogprob(tokenId: TokenId, topCount: number): TokenLogprob {
  return {
    logprob: -0.25,
    top: Array.from({ length: topCount }, (_, rank) => [tokenId + rank, -0.25 - rank] as const),
  };
}

function fakeWorker(runningCount: number): WorkerStatus {
  const snapshot: EngineSnapshot = {
    runningCount,
    decodingCount: runningCount,
    waitingCount: 0,
    heldCount: 0,
    reservedCount: 0,
    queuedTokenCount: 0,
    runningTokenCount: 0,
    sequenceCountMax: 64,
    blockTokenCount: 16,
    blockCount: 100,
    freeBlockCount: 90,
    ownedBlockCount: 8,
    cachedBlockCount: 2,
    stepsInFlightCount: 0,
    stepCount: 7,
    lastStepMs: 1.5,
    preemptionCount: 3,
    promptTokenCount: 0,
    generatedTokenCount: 0,
    prefixHitTokenCount: 20,
    prefixQueryTokenCount: 50,
  };
  return {
    id: workerId('fake-0'),
    role: 'any',
    effectiveRole: 'any',
    device: 'cpu',
    threadCount: 1,
    state: 'ready',
    pid: 1,
    restartCount: 0,
    loading: null,
    ready: null,
    snapshot,
    residentBytes: 0,
    connectors: [],
    stepLimits: { tokenBudget: 512, prefillChunkTokenCount: 512, sequenceCountMax: 64 },
    quarantinedBlockCount: 0,
    stepBoundaryWaits: { count: 0, totalMs: 0 },
    lastProgressMsAgo: 0,
    error: null,
  };
}
