/** The real engine on a device that computes nothing and takes as long as a formula says, on virtual time.
 *  Whoever paces its steps may believe in another formula. */
import type { RequestId } from '../../src/base/ids.js';
import type { DeviceInfo } from '../../src/device/device.js';
import { Engine, type EngineHooks, type GenerationRequest } from '../../src/engine/engine.js';
import type { StepTimeModel } from '../../src/engine/engine-options.js';
import type { TokenEvent } from '../../src/engine/token-event.js';
import { type StepCost, stepMs } from '../../src/router/step-cost.js';
import type { StepWork } from '../../src/router/step-work.js';
import { TimedDevice } from '../../src/sim/timed-device.js';
import { timedModel } from '../../src/sim/timed-model.js';
import { VirtualClock } from '../control/virtual-clock.js';
import { request } from './fake-engine.js';

/** 5 ms up to 64 rows, then 0.019 ms a row, from 1,024 on 0.022; a little for each sequence and its keys. */
export const cost: StepCost = {
  rowKnots: [
    { rowCount: 1, ms: 5 },
    { rowCount: 64, ms: 5 },
    { rowCount: 1024, ms: 23 },
    { rowCount: 4096, ms: 92 },
  ],
  msPerSampledRow: 0.01,
  msPerDecodeKvToken: 1e-6,
  msPerPrefillPair: 1e-7,
};

export interface TimedEngineOptions {
  readonly pacing?: 'on' | 'off';
  readonly depth?: 1 | 2;
  readonly blockCount?: number;
  readonly tokenBudget?: number;
  readonly sequenceCountMax?: number;
  readonly steps?: StepCost;
  /** What the pacer believes of each step, over what it takes. */
  readonly believed?: number;
  /** Whether the accounting is proved with every step. Absent: yes. */
  readonly proofs?: 'on' | 'off';
}

export interface TimedStep extends StepWork {
  readonly endMs: number;
  readonly ms: number;
}

const blockTokenCount = 16;

export class TimedEngine {
  readonly clock = new VirtualClock();
  readonly engine: Engine;
  readonly steps: TimedStep[] = [];
  /** Of each request's choices: when each token came. */
  readonly tokensMs = new Map<RequestId, number[][]>();
  /** Of the formula, by the pacer. */
  predictionCount = 0;
  hooks: EngineHooks = {};
  onEvent: (event: TokenEvent) => void = () => {};
  readonly #steps: StepCost;
  readonly #proofs: 'on' | 'off';
  #toComeCount = 0;

  constructor(options: TimedEngineOptions = {}) {
    const {
      pacing = 'on',
      depth = 2,
      blockCount = 4096,
      tokenBudget = 2048,
      sequenceCountMax = 512,
      steps = cost,
    } = options;
    this.#steps = steps;
    this.#proofs = options.proofs ?? 'on';
    const { clock } = this;
    const info: DeviceInfo = {
      name: 'timed',
      isa: 'none',
      kind: 'cuda',
      index: 0,
      threadCount: 1,
      totalBytes: 0,
      freeBytes: 0,
    };
    const until = (atMs: number) =>
      atMs <= clock.nowMs() ? Promise.resolve() : clock.sleep(atMs - clock.nowMs());
    const device = new TimedDevice({
      time: { nowMs: () => clock.nowMs(), until, computeUntil: () => {} },
      info,
      steps: { draw: (work) => stepMs(steps, work) },
      link: { draw: () => 0, drawLatency: () => 0 },
    });
    const model = timedModel(device, {
      kvBytesPerToken: 1024,
      vocabCount: 97,
      logitRowCountMax: sequenceCountMax,
    });
    const stepTimes: StepTimeModel = {
      predictMs: (work) => {
        this.predictionCount++;
        return (options.believed ?? 1) * stepMs(steps, work);
      },
      observe: () => {},
    };
    const limits = {
      tokenBudget,
      prefillChunkTokenCount: tokenBudget,
      sequenceCountMax,
      maxModelTokenCount: 8192,
    };
    const kv = { blockTokenCount, blockCount, dtype: 'bf16' as const };
    const hooks: EngineHooks = {
      onStep: (step) => this.steps.push({ ...step, endMs: clock.nowMs() }),
      onPrefillStart: (id, cachedTokenCount) => this.hooks.onPrefillStart?.(id, cachedTokenCount),
      onLayer: (layer, chunks, stream) => this.hooks.onLayer?.(layer, chunks, stream),
    };
    this.engine = new Engine(
      {
        ...limits,
        device: device.asDevice(),
        model,
        kv,
        prefixCaching: 'off',
        depth,
        clock,
        ...(pacing === 'on' ? { stepTimes } : {}),
      },
      hooks,
    );
  }

  stepMs(work: StepWork): number {
    return stepMs(this.#steps, work);
  }

  /** A request that comes `atMs` from now. */
  comes(atMs: number, asked: GenerationRequest, how: 'generate' | 'prefill' = 'generate'): GenerationRequest {
    this.tokensMs.set(
      asked.id,
      Array.from({ length: asked.sampling.choiceCount }, () => []),
    );
    this.#toComeCount++;
    this.clock.after(atMs, () => {
      this.#toComeCount--;
      if (how === 'generate') this.engine.add(asked);
      else this.engine.addPrefill(asked);
    });
    return asked;
  }

  /** Until nothing is left to come or to do, or time is up. */
  async run(forMs = Number.POSITIVE_INFINITY): Promise<void> {
    const endMs = this.clock.nowMs() + forMs;
    await this.clock.drive(this.#run(endMs));
  }

  async #run(endMs: number): Promise<void> {
    while ((this.#toComeCount > 0 || this.engine.hasWork) && this.clock.nowMs() < endMs) {
      if (!this.engine.hasWork) {
        await this.clock.sleep(0.1);
        continue;
      }
      for (const event of await this.engine.step()) {
        this.onEvent(event);
        if (event.kind !== 'tokens') continue;
        for (const _ of event.tokens)
          this.tokensMs.get(event.requestId)?.[event.choiceIndex]?.push(this.clock.nowMs());
      }
      if (this.#proofs === 'on') this.engine.checkIntegrity();
    }
  }

  firstMs({ id }: GenerationRequest): number {
    return this.tokensMs.get(id)?.[0]?.[0] ?? Number.NaN;
  }

  /** Mean over all tokens after the first. */
  tpotMs({ id }: GenerationRequest, choiceIndex = 0): number {
    const at = this.tokensMs.get(id)?.[choiceIndex] ?? [];
    return ((at.at(-1) ?? Number.NaN) - (at[0] ?? Number.NaN)) / (at.length - 1);
  }
}

export interface Asked {
  readonly promptTokenCount: number;
  readonly outputTokenCount?: number;
  /** Null: no deadlines. */
  readonly ttftMs?: number | null;
  readonly tpotMs?: number;
  /** How long ago its time began to run, beside its coming. */
  readonly lateByMs?: number;
  readonly choiceCount?: number;
  readonly priority?: number;
}

export function asked(options: Asked): GenerationRequest {
  const {
    promptTokenCount,
    outputTokenCount = 1,
    ttftMs = 1000,
    tpotMs = 10,
    lateByMs = 0,
    choiceCount = 1,
    priority = 0,
  } = options;
  const promptIds = Array.from({ length: promptTokenCount }, (_, i) => i % 97);
  const deadlines =
    ttftMs === null ? {} : { deadlines: { firstTokenInMs: ttftMs - lateByMs, ttftMs, tpotMs } };
  return request(promptIds, { maxTokenCount: outputTokenCount, choiceCount }, { priority, ...deadlines });
}
