/** An engine on the fake device, and what its tests ask of it again and again. */
import type { Clock } from '../../src/base/clock.js';
import { type RequestId, requestId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import {
  Engine,
  type EngineConfig,
  type EngineHooks,
  type GenerationRequest,
} from '../../src/engine/engine.js';
import type { StepTimeModel } from '../../src/engine/engine-options.js';
import type { MaskSource } from '../../src/engine/mask-source.js';
import { greedy, type SamplingParams } from '../../src/engine/sampling-params.js';
import type { FinishReason, TokenEvent, TokenLogprob } from '../../src/engine/token-event.js';
import { FakeDevice, FakeMemory, fakeModel, vocabCount } from './fake-device.js';

/** Time does not pass; sleeping takes a turn. */
export const stillClock: Clock = {
  nowMs: () => 0,
  wallMs: () => 0,
  sleep: () => Promise.resolve(),
  after: () => ({ cancel: () => {} }),
  yield: () => Promise.resolve(),
};

export interface FakeEngineOptions {
  readonly blockTokenCount?: number;
  readonly blockCount?: number;
  readonly tokenBudget?: number;
  readonly prefillChunkTokenCount?: number;
  readonly sequenceCountMax?: number;
  readonly maxModelTokenCount?: number;
  readonly logitRowCountMax?: number;
  readonly prefixCaching?: 'on' | 'off';
  readonly depth?: 1 | 2;
  readonly memory?: FakeMemory;
  readonly hooks?: EngineHooks;
  /** Given: steps are paced. */
  readonly stepTimes?: StepTimeModel;
  readonly clock?: Clock;
  readonly masks?: MaskSource;
}

export function fakeEngine(options: FakeEngineOptions = {}): { engine: Engine; device: FakeDevice } {
  const device = new FakeDevice(options.memory ?? new FakeMemory(4 << 20));
  const tokenBudget = options.tokenBudget ?? 32;
  const engineOptions: EngineConfig = {
    device: device.asDevice(),
    model: fakeModel(device, { logitRowCountMax: options.logitRowCountMax ?? tokenBudget }),
    kv: { blockTokenCount: options.blockTokenCount ?? 8, blockCount: options.blockCount ?? 64, dtype: 'f32' },
    tokenBudget,
    prefillChunkTokenCount: options.prefillChunkTokenCount ?? 16,
    sequenceCountMax: options.sequenceCountMax ?? 8,
    maxModelTokenCount: options.maxModelTokenCount ?? 128,
    prefixCaching: options.prefixCaching ?? 'on',
    depth: options.depth ?? 2,
    clock: options.clock ?? stillClock,
    ...(options.stepTimes === undefined ? {} : { stepTimes: options.stepTimes }),
    ...(options.masks === undefined ? {} : { masks: options.masks }),
  };
  return { engine: new Engine(engineOptions, options.hooks), device };
}

let requestCount = 0;
export function request(
  promptIds: readonly number[],
  sampling: Partial<SamplingParams> = {},
  rest: Partial<GenerationRequest> = {},
): GenerationRequest {
  return { id: requestId(`r${requestCount++}`), promptIds, sampling: { ...greedy, ...sampling }, ...rest };
}

export function promptOf(seed: number, tokenCount: number): number[] {
  const prng = new Prng(seed);
  return Array.from({ length: tokenCount }, () => prng.integer(0, vocabCount - 1));
}

/** Everything one request has told, put together; checks the grammar of events. */
export class Transcript {
  readonly tokens: number[][];
  readonly logprobs: (TokenLogprob | undefined)[][];
  readonly finishReasons: (FinishReason | undefined)[];
  promptLogprobs: readonly TokenLogprob[] | undefined;
  cachedTokenCount: number | undefined;

  constructor(choiceCount: number) {
    this.tokens = Array.from({ length: choiceCount }, () => []);
    this.logprobs = Array.from({ length: choiceCount }, () => []);
    this.finishReasons = new Array<FinishReason | undefined>(choiceCount).fill(undefined);
  }

  push(event: TokenEvent): void {
    if (event.kind === 'failed') throw new Error(event.error.message);
    if (event.kind === 'cached') {
      if (this.cachedTokenCount !== undefined) throw new Error('cached told twice');
      this.cachedTokenCount = event.cachedTokenCount;
    } else if (event.kind === 'promptLogprobs') {
      if (this.promptLogprobs !== undefined) throw new Error('prompt log-probabilities told twice');
      if (this.tokens.some((tokens) => tokens.length > 0))
        throw new Error('prompt log-probabilities after tokens');
      this.promptLogprobs = event.logprobs;
    } else {
      if (this.finishReasons[event.choiceIndex] !== undefined) throw new Error('tokens after the end');
      for (const { tokenId, logprob } of event.tokens) {
        this.tokens[event.choiceIndex]!.push(tokenId);
        this.logprobs[event.choiceIndex]!.push(logprob);
      }
      this.finishReasons[event.choiceIndex] = event.finishReason;
    }
  }
}

export class Transcripts {
  readonly #byId = new Map<RequestId, Transcript>();

  open(asked: GenerationRequest): Transcript {
    const transcript = new Transcript(asked.sampling.choiceCount);
    this.#byId.set(asked.id, transcript);
    return transcript;
  }

  push(events: readonly TokenEvent[]): void {
    for (const event of events) {
      const transcript = this.#byId.get(event.requestId);
      if (transcript === undefined) throw new Error(`event of ${event.requestId}, which is gone`);
      transcript.push(event);
    }
  }

  close(id: RequestId): void {
    this.#byId.delete(id);
  }
}

/** Steps until nothing is left, checking the accounting each time. */
export async function drain(
  engine: Engine,
  onEvents: (events: readonly TokenEvent[]) => void = () => {},
): Promise<void> {
  for (let i = 0; engine.hasWork; i++) {
    if (i > 20_000) throw new Error('no progress');
    onEvents(await engine.step());
    engine.checkIntegrity();
  }
}
