/** Runs a plan on the device: packs it into one pinned buffer, copies that once, enqueues forward and sampling, copies the result back.
 *  Used by engine.ts. Nothing here waits but `InFlight.result`, and that off the event loop.
 *
 *  Each step in flight has its own lane (pinned buffers and an event), so packing the next step never touches what the device may
 *  still read. All lanes share one stream: steps run in launch order. */
import { assert, at } from '../base/assert.js';
import { type BatchView, type Device, type EventHandle, type HostBuffer, type Stream, topLogprobsMax } from '../device/device.js';
import { offsetPointer, type Pointer } from '../device/tensor.js';
import type { KvCache } from '../kv/kv-cache.js';
import type { Batch } from '../model/batch.js';
import type { Model } from '../model/model.js';
import { layoutOf, type PackedLayout, packPlan, type Words } from './batch-packing.js';
import type { StepResult } from './commit.js';
import type { EngineHooks } from './engine-options.js';
import type { StepPlan } from './step-plan.js';

export interface InFlight {
  readonly plan: StepPlan;
  /** Resolves when the step has run; rejects with what failed on the device. */
  readonly result: Promise<StepResult>;
}

export interface ModelRunnerOptions {
  readonly device: Device;
  readonly model: Model;
  readonly cache: KvCache;
  readonly seatCount: number;
  readonly sampleCountMax: number;
  readonly laneCount: number;
  readonly hooks: EngineHooks;
}

export class ModelRunner {
  readonly stream: Stream;
  readonly #options: ModelRunnerOptions;
  readonly #lanes: readonly Lane[];
  /** [seatCount] i32: the token each seat sampled last. */
  readonly #lastTokens: Pointer;
  #launchCount = 0;

  constructor(options: ModelRunnerOptions) {
    const { device, seatCount, laneCount, sampleCountMax } = options;
    this.#options = options;
    this.stream = device.createStream();
    this.#lastTokens = device.allocate(4 * seatCount);
    this.#lanes = Array.from({ length: laneCount }, () => new Lane(device, sampleCountMax));
  }

  /** Enqueues one step. At most `laneCount` may be in flight. */
  launch(plan: StepPlan): InFlight {
    const { model, cache, hooks, device } = this.#options;
    const lane = at(this.#lanes, this.#launchCount++ % this.#lanes.length);
    assert(!lane.isBusy, 'more steps in flight than lanes');
    const layout = layoutOf(plan);
    lane.ensureWords(layout.wordCount);
    packPlan(plan, layout, lane.words, cache.layout.shape.blockTokenCount);
    cache.copyBlocks(this.stream, plan.copies);
    this.stream.copy(lane.input, lane.hostInput.pointer, 4 * layout.wordCount);
    const { onLayer } = hooks;
    const notify =
      onLayer === undefined || plan.chunks.length === 0
        ? undefined
        : (layer: number) => onLayer.call(hooks, layer, plan.chunks, this.stream);
    model.forward(this.stream, batchAt(lane.input, layout, this.#lastTokens), cache, notify);
    if (layout.sampleCount > 0) this.#sample(lane, layout, plan);
    this.stream.record(lane.event);
    return { plan, result: lane.finish(device, layout.sampleCount) };
  }

  close(): void {
    const { device } = this.#options;
    this.stream.close();
    for (const lane of this.#lanes) lane.close(device);
    device.release(this.#lastTokens);
  }

  #sample(lane: Lane, layout: PackedLayout, plan: StepPlan): void {
    const place = (word: number) => offsetPointer(lane.input, 4 * word);
    const { sampleCount } = layout;
    const result = lane.resultAt(sampleCount);
    this.stream.ops.sample({
      logits: this.#options.model.logits,
      rowCount: sampleCount,
      rows: place(layout.sampleRows),
      history: place(layout.history),
      biasIds: place(layout.biasIds),
      biasValues: place(layout.biasValues),
      masks: place(0), // every row's mask_start is -1
      lastTokens: this.#lastTokens,
      ...result,
    });
    const wantsTop = plan.samples.some(({ choice: { request } }) => {
      return Math.max(request.sampling.topLogprobCount ?? 0, request.sampling.promptLogprobCount ?? 0) > 0;
    });
    const wordCount = sampleCount * (wantsTop ? 2 + 2 * topLogprobsMax : 2);
    this.stream.copy(lane.hostOutput.pointer, lane.output, 4 * wordCount);
  }
}

function batchAt(base: Pointer, layout: PackedLayout, lastTokens: Pointer): Batch {
  const place = (word: number) => offsetPointer(base, 4 * word);
  const view: BatchView = {
    rowCount: layout.rowCount,
    sequenceCount: layout.sequenceCount,
    blockTableStride: layout.blockTableStride,
    queryCountMax: layout.queryCountMax,
    kvCountMax: layout.kvCountMax,
    positions: place(layout.positions),
    slots: place(layout.slots),
    queryStart: place(layout.queryStart),
    kvCount: place(layout.kvCount),
    blockTable: place(layout.blockTable),
  };
  return { view, ids: base, lastTokens, logitRows: place(layout.logitRows), logitRowCount: layout.sampleCount };
}

/** Buffers of one step in flight. The result is tokens | logprobs | topIds | topLogprobs, each for as many rows as the step samples. */
class Lane {
  readonly event: EventHandle;
  readonly hostOutput: HostBuffer;
  readonly output: Pointer;
  hostInput: HostBuffer;
  input: Pointer;
  words: Words;
  isBusy = false;
  readonly #device: Device;
  readonly #outputWords: Words;

  constructor(device: Device, sampleCountMax: number) {
    this.#device = device;
    this.event = device.createEvent();
    const outputBytes = 4 * sampleCountMax * (2 + 2 * topLogprobsMax);
    this.hostOutput = device.allocateHost(outputBytes);
    this.output = device.allocate(outputBytes);
    this.#outputWords = wordsOf(this.hostOutput);
    this.hostInput = device.allocateHost(4 * 4096);
    this.input = device.allocate(4 * 4096);
    this.words = wordsOf(this.hostInput);
  }

  /** Room for `wordCount` words of input; grows by doubling, only while idle. */
  ensureWords(wordCount: number): void {
    if (wordCount <= this.words.i32.length) return;
    const bytes = 4 * 2 ** Math.ceil(Math.log2(wordCount));
    this.#device.releaseHost(this.hostInput);
    this.#device.release(this.input);
    this.hostInput = this.#device.allocateHost(bytes);
    this.input = this.#device.allocate(bytes);
    this.words = wordsOf(this.hostInput);
  }

  resultAt(count: number): { tokens: Pointer; logprobs: Pointer; topIds: Pointer; topLogprobs: Pointer } {
    const place = (word: number) => offsetPointer(this.output, 4 * word);
    return {
      tokens: place(0),
      logprobs: place(count),
      topIds: place(2 * count),
      topLogprobs: place((2 + topLogprobsMax) * count),
    };
  }

  async finish(device: Device, count: number): Promise<StepResult> {
    this.isBusy = true;
    await device.waitEvent(this.event);
    this.isBusy = false;
    const { i32, f32 } = this.#outputWords;
    return {
      tokens: i32.subarray(0, count),
      logprobs: f32.subarray(count, 2 * count),
      topIds: i32.subarray(2 * count, (2 + topLogprobsMax) * count),
      topLogprobs: f32.subarray((2 + topLogprobsMax) * count, (2 + 2 * topLogprobsMax) * count),
    };
  }

  close(device: Device): void {
    device.destroyEvent(this.event);
    device.releaseHost(this.hostOutput);
    device.releaseHost(this.hostInput);
    device.release(this.output);
    device.release(this.input);
  }
}

function wordsOf({ bytes }: HostBuffer): Words {
  const count = bytes.byteLength >> 2;
  return {
    i32: new Int32Array(bytes.buffer, bytes.byteOffset, count),
    u32: new Uint32Array(bytes.buffer, bytes.byteOffset, count),
    f32: new Float32Array(bytes.buffer, bytes.byteOffset, count),
  };
}
