/** Runs a plan on the device: packs it into one pinned buffer, copies that once, enqueues forward and
 *  sampling, copies the result back. Used by engine.ts. Nothing here waits but `InFlight.result`, and that
 *  off the event loop.
 *
 *  Each step in flight has its own lane (pinned buffers and an event), so packing the next step never touches
 *  what the device may still read. All lanes share one stream: steps run in launch order. */
import { assert, at } from '../base/assert.js';
import {
  type BatchView,
  type Device,
  type EventHandle,
  type GraphHandle,
  type HostBuffer,
  type Stream,
  topLogprobsMax,
} from '../device/device.js';
import { offsetPointer, type Pointer } from '../device/tensor.js';
import type { KvCache } from '../kv/kv-cache.js';
import type { Batch } from '../model/batch.js';
import type { Model } from '../model/model.js';
import { layoutOf, type PackedLayout, packPlan, type Words } from './batch-packing.js';
import type { StepResult } from './commit.js';
import type { EngineHooks } from './engine-options.js';
import type { StepPlan } from './step-plan.js';
import { stepShapeOf } from './step-shape.js';

/** Recorded shapes a lane keeps: rows times table widths that a server settles into. */
export const graphCountMax = 64;

export interface InFlight {
  readonly plan: StepPlan;
  /** Resolves when the step has run; rejects with what failed on the device. */
  readonly result: Promise<StepResult>;
}

interface ModelRunnerOptions {
  readonly device: Device;
  readonly model: Model;
  readonly cache: KvCache;
  readonly batchSlotCount: number;
  readonly sampleCountMax: number;
  readonly laneCount: number;
  readonly hooks: EngineHooks;
}

export class ModelRunner {
  readonly stream: Stream;
  readonly #options: ModelRunnerOptions;
  readonly #lanes: readonly Lane[];
  /** [batchSlotCount] i32: the token each batch slot sampled last. */
  readonly #lastTokens: Pointer;
  #launchCount = 0;

  constructor(options: ModelRunnerOptions) {
    const { device, batchSlotCount, laneCount, sampleCountMax } = options;
    this.#options = options;
    this.stream = device.createStream();
    this.#lastTokens = device.allocate(4 * batchSlotCount);
    this.#lanes = Array.from({ length: laneCount }, () => new Lane(device, sampleCountMax));
  }

  /** Enqueues one step. At most `laneCount` may be in flight. */
  launch(plan: StepPlan): InFlight {
    const { cache, device, sampleCountMax } = this.#options;
    const lane = at(this.#lanes, this.#launchCount++ % this.#lanes.length);
    assert(!lane.isBusy, 'more steps in flight than lanes');
    const { blockTokenCount } = cache.layout.shape;
    const shape = stepShapeOf(plan, {
      device: device.info.kind,
      blockTokenCount,
      rowCountMax: sampleCountMax,
    });
    const layout = layoutOf(plan, shape);
    lane.ensureWords(layout.wordCount);
    packPlan(plan, layout, lane.words, blockTokenCount);
    cache.copyBlocks(this.stream, plan.copies);
    if (shape === null) this.#enqueue(lane, layout, plan);
    else this.stream.launch(lane.graph(shape.key, this.stream, () => this.#enqueue(lane, layout, plan)));
    this.stream.record(lane.event);
    return { plan, result: lane.finish(device, layout.sampleCount) };
  }

  /** Input to the device, forward, sampling, result to the host: everything of a step that a graph may
   *  repeat. */
  #enqueue(lane: Lane, layout: PackedLayout, plan: StepPlan): void {
    const { model, cache, hooks } = this.#options;
    this.stream.copy(lane.input, lane.hostInput.pointer, 4 * layout.wordCount);
    const { onLayer } = hooks;
    const notify =
      onLayer === undefined || plan.chunks.length === 0
        ? undefined
        : (layer: number) => onLayer.call(hooks, layer, plan.chunks, this.stream);
    model.forward(this.stream, batchAt(lane.input, layout, this.#lastTokens), cache, notify);
    if (layout.sampleCount > 0) this.#sample(lane, layout, plan);
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
      masks: place(layout.masks),
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
    singleQueryCount: layout.singleQueryCount,
    positions: place(layout.positions),
    slots: place(layout.slots),
    queryStart: place(layout.queryStart),
    kvCount: place(layout.kvCount),
    blockTable: place(layout.blockTable),
  };
  return {
    view,
    ids: base,
    lastTokens,
    logitRows: place(layout.logitRows),
    logitRowCount: layout.sampleCount,
  };
}

/** Buffers of one step in flight. The result is tokens | logprobs | topIds | topLogprobs, each for as many
 *  rows as the step samples. */
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
  /** By shape, least recently used first; they name this lane's buffers. */
  readonly #graphs = new Map<string, GraphHandle>();

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
    this.#dropGraphs(0);
    this.#device.releaseHost(this.hostInput);
    this.#device.release(this.input);
    this.hostInput = this.#device.allocateHost(bytes);
    this.input = this.#device.allocate(bytes);
    this.words = wordsOf(this.hostInput);
  }

  /** The ops that `enqueue` puts on the stream, recorded once per shape. */
  graph(key: string, stream: Stream, enqueue: () => void): GraphHandle {
    const graph = this.#graphs.get(key) ?? recordGraph(stream, enqueue);
    this.#graphs.delete(key);
    this.#dropGraphs(graphCountMax - 1);
    this.#graphs.set(key, graph);
    return graph;
  }

  #dropGraphs(keptCount: number): void {
    for (const [key, graph] of this.#graphs) {
      if (this.#graphs.size <= keptCount) return;
      this.#graphs.delete(key);
      this.#device.destroyGraph(graph);
    }
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
    this.#dropGraphs(0);
    device.destroyEvent(this.event);
    device.releaseHost(this.hostOutput);
    device.releaseHost(this.hostInput);
    device.release(this.output);
    device.release(this.input);
  }
}

/** Ends the recording also when an op is refused, so that the stream stays usable. */
function recordGraph(stream: Stream, enqueue: () => void): GraphHandle {
  stream.beginGraph();
  try {
    enqueue();
  } catch (error) {
    stream.endGraph();
    throw error;
  }
  return stream.endGraph();
}

function wordsOf({ bytes }: HostBuffer): Words {
  const count = bytes.byteLength >> 2;
  return {
    i32: new Int32Array(bytes.buffer, bytes.byteOffset, count),
    u32: new Uint32Array(bytes.buffer, bytes.byteOffset, count),
    f32: new Float32Array(bytes.buffer, bytes.byteOffset, count),
  };
}
