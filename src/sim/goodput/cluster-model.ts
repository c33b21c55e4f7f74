/** Workers as a discrete-event model: steps of measured length, two in flight, prompts in chunks, KV handed
 *  over; no gateway, no memory, no messages but their times. Thousands of requests a second, for policies
 *  that are tried rather than run. Used by best-found.ts. A policy knows everything: true output lengths,
 *  mean step times, what waits and runs where.
 *  Invariants: a sequence is in a step at most once; its tokens come in order, each one step after the last
 *  at the earliest. */
import { assert, at } from '../../base/assert.js';
import type { Slo } from '../../router/slo.js';
import { prefillPairCountOf, type StepWork } from '../../router/step-work.js';
import type { WorkerTimes } from '../simulated-workers.js';
import { ModelEvents } from './event-queue.js';

export interface ModelRequest {
  readonly atMs: number;
  readonly promptTokenCount: number;
  readonly outputTokenCount: number;
  readonly slo: Slo;
}

/** A request under way. */
export interface ModelSequence {
  readonly request: ModelRequest;
  /** Prompt tokens in steps that have been planned. */
  computedCount: number;
  /** Output tokens whose steps have been planned. */
  drawnCount: number;
  /** Output tokens that have come. */
  tokenCount: number;
  /** When the step that drew the first token ended, and the last one. */
  firstStepMs: number;
  lastStepMs: number;
  isRejected: boolean;
  prefillWorker: ModelWorker;
  decodeWorker: ModelWorker;
}

export interface ModelWorker {
  readonly index: number;
  /** Whose prompts are not fully computed, in the order of their arrival. */
  readonly prompts: ModelSequence[];
  readonly decoding: ModelSequence[];
  /** Whose prompts are computed elsewhere, or on their way here. */
  readonly incoming: Set<ModelSequence>;
  /** When the steps in flight end. */
  readonly stepEndsMs: number[];
}

/** The work of one step. */
export interface ModelStep {
  readonly decodes: readonly ModelSequence[];
  readonly chunks: readonly { readonly sequence: ModelSequence; readonly tokenCount: number }[];
}

export interface Policy {
  readonly name: string;
  /** Where the prompt is computed, and where it decodes. */
  route(
    request: ModelRequest,
    workers: readonly ModelWorker[],
    nowMs: number,
  ): readonly [ModelWorker, ModelWorker];
  /** An empty step: nothing to do now. `reject` gives a waiting prompt up. */
  step(worker: ModelWorker, startMs: number, reject: (sequence: ModelSequence) => void): ModelStep;
}

interface Served {
  readonly request: ModelRequest;
  /** Infinity: no token came. */
  readonly ttftMs: number;
  /** 0 for answers of one token. */
  readonly tpotMs: number;
}

/** Steps in flight on a worker, as the engine has them. */
const depth = 2;

export function serve(
  requests: readonly ModelRequest[],
  policy: Policy,
  times: readonly WorkerTimes[],
): readonly Served[] {
  return new ClusterModel(policy, times).serve(requests);
}

export function isGood({ request: { slo }, ttftMs, tpotMs }: Served): boolean {
  return ttftMs <= slo.ttftMs && tpotMs <= slo.tpotMs;
}

class ClusterModel {
  readonly #policy: Policy;
  readonly #times: readonly WorkerTimes[];
  readonly #workers: readonly ModelWorker[];
  readonly #events = new ModelEvents();

  constructor(policy: Policy, times: readonly WorkerTimes[]) {
    this.#policy = policy;
    this.#times = times;
    this.#workers = times.map((_, index) => ({
      index,
      prompts: [],
      decoding: [],
      incoming: new Set(),
      stepEndsMs: [],
    }));
  }

  serve(requests: readonly ModelRequest[]): readonly Served[] {
    const sequences: ModelSequence[] = [];
    for (const request of requests)
      this.#events.at(request.atMs, () => sequences.push(this.#arrive(request)));
    this.#events.run();
    return sequences.map((sequence) =>
      servedOf(sequence, this.#timesOf(sequence.prefillWorker).request.tokenMs),
    );
  }

  #timesOf(worker: ModelWorker): WorkerTimes {
    return at(this.#times, worker.index);
  }

  #arrive(request: ModelRequest): ModelSequence {
    const { nowMs } = this.#events;
    const [prefillWorker, decodeWorker] = this.#policy.route(request, this.#workers, nowMs);
    const counts = {
      computedCount: 0,
      drawnCount: 0,
      tokenCount: 0,
      firstStepMs: Number.POSITIVE_INFINITY,
      lastStepMs: 0,
    };
    const sequence = { request, prefillWorker, decodeWorker, ...counts, isRejected: false };
    if (prefillWorker !== decodeWorker) decodeWorker.incoming.add(sequence);
    this.#events.at(nowMs + this.#timesOf(prefillWorker).request.arrivalMs, () => {
      prefillWorker.prompts.push(sequence);
      this.#launch(prefillWorker);
    });
    return sequence;
  }

  #launch(worker: ModelWorker): void {
    while (worker.stepEndsMs.length < depth) {
      const startMs = Math.max(this.#events.nowMs, worker.stepEndsMs.at(-1) ?? 0);
      const step = this.#policy.step(worker, startMs, reject);
      if (step.decodes.length + step.chunks.length === 0) return;
      const endMs = startMs + this.#stepMs(worker, step);
      const drawing = advance(worker, step);
      worker.stepEndsMs.push(endMs);
      this.#events.at(endMs, () => this.#end(worker, drawing));
    }
  }

  /** Copies to other workers are part of the step that computes what they carry. */
  #stepMs(worker: ModelWorker, step: ModelStep): number {
    const { steps, link, kvBytesPerToken } = this.#timesOf(worker);
    let copyMs = 0;
    for (const { sequence, tokenCount } of step.chunks)
      if (sequence.decodeWorker !== worker) copyMs += link.draw(tokenCount * kvBytesPerToken);
    return copyMs + steps.draw(workOf(step));
  }

  #end(worker: ModelWorker, drawing: readonly ModelSequence[]): void {
    const { nowMs } = this.#events;
    worker.stepEndsMs.shift();
    for (const sequence of drawing) {
      sequence.tokenCount++;
      sequence.lastStepMs = nowMs;
      if (sequence.tokenCount > 1) continue;
      sequence.firstStepMs = nowMs;
      if (sequence.decodeWorker !== worker) this.#handOver(sequence);
    }
    this.#launch(worker);
    // they may have waited for room to decode here
    for (const other of this.#workers) if (other.prompts.length > 0) this.#launch(other);
  }

  #handOver(sequence: ModelSequence): void {
    const { prefillWorker, decodeWorker, request } = sequence;
    const { link, request: messages } = this.#timesOf(prefillWorker);
    const onItsWayMs = messages.tokenMs + messages.handOverMs + link.drawLatency();
    this.#events.at(this.#events.nowMs + onItsWayMs, () => {
      decodeWorker.incoming.delete(sequence);
      if (request.outputTokenCount > 1) decodeWorker.decoding.push(sequence);
      this.#launch(decodeWorker);
    });
  }
}

function reject(sequence: ModelSequence): void {
  assert(sequence.drawnCount === 0, 'a sequence that draws tokens is not rejected');
  sequence.isRejected = true;
  remove(sequence.prefillWorker.prompts, sequence);
  sequence.decodeWorker.incoming.delete(sequence);
}

function workOf({ decodes, chunks }: ModelStep): StepWork {
  const work = {
    decodeCount: decodes.length,
    decodeKvTokenCount: 0,
    prefillTokenCount: 0,
    prefillPairCount: 0,
  };
  for (const { request, drawnCount } of decodes)
    work.decodeKvTokenCount += request.promptTokenCount + drawnCount;
  for (const { sequence, tokenCount } of chunks) {
    work.prefillTokenCount += tokenCount;
    work.prefillPairCount += prefillPairCountOf(sequence.computedCount, tokenCount);
  }
  return work;
}

/** Counts the step as planned; gives who draws a token in it. */
function advance(worker: ModelWorker, { decodes, chunks }: ModelStep): readonly ModelSequence[] {
  const drawing = [...decodes];
  for (const sequence of decodes) {
    sequence.drawnCount++;
    if (sequence.drawnCount === sequence.request.outputTokenCount) remove(worker.decoding, sequence);
  }
  for (const { sequence, tokenCount } of chunks) {
    sequence.computedCount += tokenCount;
    if (sequence.computedCount < sequence.request.promptTokenCount) continue;
    sequence.drawnCount = 1;
    drawing.push(sequence);
    remove(worker.prompts, sequence);
    if (sequence.decodeWorker === worker && sequence.request.outputTokenCount > 1)
      worker.decoding.push(sequence);
  }
  return drawing;
}

function servedOf(
  { request, tokenCount, firstStepMs, lastStepMs, isRejected }: ModelSequence,
  tokenMs: number,
): Served {
  assert(isRejected || tokenCount === request.outputTokenCount, 'a sequence ends with all its tokens');
  if (isRejected) return { request, ttftMs: Number.POSITIVE_INFINITY, tpotMs: 0 };
  const tpotMs = tokenCount > 1 ? (lastStepMs - firstStepMs) / (tokenCount - 1) : 0;
  return { request, ttftMs: firstStepMs + tokenMs - request.atMs, tpotMs };
}

function remove(sequences: ModelSequence[], sequence: ModelSequence): void {
  const index = sequences.indexOf(sequence);
  if (index >= 0) sequences.splice(index, 1);
}
