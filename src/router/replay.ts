/** What would have become of recent requests under another arrangement of the same workers: the router's own choices and the scheduler's
 *  rules, in numbers alone, from idle workers on. Used by arrangement.ts to compare arrangements, and by bench/router.
 *  Pure: the same requests and costs give the same outcomes. */
import { assert } from '../base/assert.js';
import { type RequestId, requestId, type WorkerId } from '../base/ids.js';
import type { CostParameters } from './cost-parameters.js';
import { tpotLimitMs, ttftLimitMs } from './estimate.js';
import { Placement } from './placement.js';
import { type Corrections, uncorrected } from './request-correction.js';
import type { Route } from './route.js';
import type { RequestFacts, WorkerRole, WorkerSnapshot } from './snapshot.js';
import { prefillPairCountOf } from './step-work.js';
import { type SteppedSequence, SteppedWorker } from './stepped-worker.js';
import type { UnloadedRatios } from './unloaded-ratios.js';
import { WorkerLoad } from './worker-load.js';

export interface ReplayRequest {
  readonly arrivalMs: number;
  /** Prompt tokens that had to be computed. */
  readonly promptTokenCount: number;
  readonly outputTokenCount: number;
  /** What was expected of outputTokenCount when it came. */
  readonly expectedTokenCount: number;
}

export interface ReplayWorker {
  readonly id: WorkerId;
  readonly role: WorkerRole;
  readonly costs: CostParameters;
  /** Of what steps do not tell, only the transfer counts in a replay. */
  readonly corrections: Pick<Corrections, 'transfer'>;
  readonly unloaded: UnloadedRatios;
}

export interface ReplayOutcome {
  readonly route: Route;
  readonly ttftMs: number;
  /** 0 for a single token. */
  readonly tpotMs: number;
  /** Share of its limits that it needed, see estimate.ts. */
  readonly ttftUse: number;
  readonly tpotUse: number;
}

export type Choose = (facts: RequestFacts, workers: readonly WorkerSnapshot[]) => Route | null;

/** `requests` in order of arrival; outcomes in the same order. Pauses after every few requests, a fraction of a millisecond each. */
export function replayInTurns(
  requests: readonly ReplayRequest[],
  workers: readonly ReplayWorker[],
  choose: Choose,
): Generator<void, readonly ReplayOutcome[], void> {
  return new Replay(workers, choose).run(requests);
}

/** The same at one go. */
export function replay(
  requests: readonly ReplayRequest[],
  workers: readonly ReplayWorker[],
  choose: Choose,
): readonly ReplayOutcome[] {
  const turns = replayInTurns(requests, workers, choose);
  for (;;) {
    const turn = turns.next();
    if (turn.done === true) return turn.value;
  }
}

/** Requests in one turn. */
const turnCount = 8;

interface Side {
  /** Requests that will decode here, their prompts still elsewhere. */
  incomingCount: number;
  readonly snapshot: WorkerSnapshot;
  readonly load: WorkerLoad;
  readonly stepped: SteppedWorker;
}

interface Travelling {
  readonly id: RequestId;
  readonly request: ReplayRequest;
  readonly route: Route;
  readonly placement: Placement;
  readonly prefill: Side;
  readonly decode: Side;
  firstTokenMs: number;
  endMs: number;
}

function outcomeOf({ route, request, prefill, decode, firstTokenMs, endMs }: Travelling): ReplayOutcome {
  const { arrivalMs, tokenMs } = prefill.snapshot.costs.request;
  assert(Number.isFinite(endMs) && endMs >= firstTokenMs, 'a request that never ends in a replay');
  const ttftMs = arrivalMs + firstTokenMs - request.arrivalMs + tokenMs;
  const tpotMs = request.outputTokenCount < 2 ? 0 : (endMs - firstTokenMs) / (request.outputTokenCount - 1);
  const tpotUse = tpotMs / tpotLimitMs(decode.snapshot, request.promptTokenCount);
  return { route, ttftMs, tpotMs, ttftUse: ttftMs / ttftLimitMs(route.prefill), tpotUse };
}

class Replay {
  readonly #sides: readonly Side[];
  readonly #choose: Choose;
  /** Hand-overs on their way, in order of arrival at the decode side. */
  readonly #moving: { readonly atMs: number; readonly sequence: SteppedSequence; readonly side: Side }[] = [];

  constructor(workers: readonly ReplayWorker[], choose: Choose) {
    this.#choose = choose;
    this.#sides = workers.map(({ id, role, costs, unloaded, corrections: { transfer } }) => {
      const load = new WorkerLoad();
      const room = { blockTokenCount: 16, blockCount: 1e9 }; // memory is another matter
      return {
        incomingCount: 0,
        load,
        snapshot: { id, role, isLive: true, ...room, load, costs, unloaded, corrections: { ...uncorrected, transfer } },
        stepped: new SteppedWorker(costs),
      };
    });
  }

  *run(requests: readonly ReplayRequest[]): Generator<void, readonly ReplayOutcome[], void> {
    const all: Travelling[] = [];
    for (const [index, request] of requests.entries()) {
      if (index % turnCount === turnCount - 1) yield;
      this.#runUntil(request.arrivalMs);
      all.push(this.#begin(requestId(String(index)), request));
    }
    this.#runUntil(Number.POSITIVE_INFINITY);
    return all.map(outcomeOf);
  }

  /** Whatever ends, or arrives at a decode side, until then. */
  #runUntil(untilMs: number): void {
    for (;;) {
      let next: Side | null = null;
      for (const side of this.#sides) if (side.stepped.endMs < (next?.stepped.endMs ?? Number.POSITIVE_INFINITY)) next = side;
      const [landing] = this.#moving;
      const endMs = next?.stepped.endMs ?? Number.POSITIVE_INFINITY;
      if (landing !== undefined && landing.atMs <= endMs) {
        if (landing.atMs > untilMs) return;
        this.#moving.shift();
        landing.side.stepped.addSequence(landing.sequence, landing.atMs);
      } else {
        if (next === null || endMs > untilMs) return;
        next.stepped.finish(Math.min(untilMs, landing?.atMs ?? untilMs, this.#othersEndMs(next)));
      }
    }
  }

  /** A prefill elsewhere may send a sequence here. */
  #othersEndMs(side: Side): number {
    let endMs = Number.POSITIVE_INFINITY;
    if (side.incomingCount === 0) return endMs;
    for (const other of this.#sides) if (other !== side) endMs = Math.min(endMs, other.stepped.endMs);
    return endMs;
  }

  #begin(id: RequestId, request: ReplayRequest): Travelling {
    const { promptTokenCount, expectedTokenCount, arrivalMs } = request;
    const facts: RequestFacts = {
      promptTokenCount,
      outputTokenCount: 0,
      maxTokenCount: Number.POSITIVE_INFINITY,
      choiceCount: 1,
      expectedTokenCount,
      growth: { tokenCount: expectedTokenCount, variance: 0 },
      prefixTokenCounts: new Map(),
      ttftWeight: 1,
      nowMs: arrivalMs,
    };
    const route = this.#choose(
      facts,
      this.#sides.map(({ snapshot }) => snapshot),
    );
    assert(route !== null, 'a replay has live workers');
    const prefill = this.#side(route.path === 'collocated' ? route.worker : route.prefillWorker);
    const decode = this.#side(route.path === 'collocated' ? route.worker : route.decodeWorker);
    const { addedMs, unloadedTtftMs, tokenCount, roomTokenCount } = route.prefill;
    const prompt = { tokenCount, pairCount: prefillPairCountOf(0, tokenCount), roomTokenCount, addedMs, unloadedTtftMs };
    const lengths = {
      mean: expectedTokenCount,
      remainingMean: (count: number) => Math.max(expectedTokenCount - count, count / 2, 1),
    };
    const loads = { prefill: prefill.load, decode: decode.load };
    const placement = new Placement({ id, prompt, promptTokenCount, choiceCount: 1, lengths, generatedTokenCount: 0, ...loads });
    placement.onAdmitted(arrivalMs);
    const travelling: Travelling = {
      id,
      request,
      route,
      placement,
      prefill,
      decode,
      firstTokenMs: Number.NaN,
      endMs: Number.NaN,
    };
    if (decode !== prefill) decode.incomingCount++;
    const onFirstToken = (nowMs: number) => {
      if (decode !== prefill) decode.incomingCount--;
      this.#onFirstToken(travelling, nowMs);
    };
    const onStart = (nowMs: number) => placement.onStarted(nowMs);
    prefill.stepped.addPrompt({ promptTokenCount, computedCount: 0, onStart, onFirstToken }, arrivalMs);
    return travelling;
  }

  #onFirstToken(travelling: Travelling, nowMs: number): void {
    const { id, request, placement, route, decode } = travelling;
    travelling.firstTokenMs = nowMs;
    placement.onTokens(1, nowMs);
    const onEnd = (endMs: number) => {
      travelling.endMs = endMs;
      placement.leave(endMs);
    };
    if (request.outputTokenCount < 2) {
      onEnd(nowMs);
      return;
    }
    const onTokens = (tokenCount: number, atMs: number) => placement.onTokens(tokenCount, atMs);
    const leftCount = request.outputTokenCount - 1;
    const sequence: SteppedSequence = { id, kvTokenCount: request.promptTokenCount + 1, leftCount, onTokens, onEnd };
    if (route.path === 'collocated') {
      decode.stepped.continueSequence(sequence);
      return;
    }
    const atMs = nowMs + route.estimate.transferMs;
    const place = this.#moving.findIndex((each) => each.atMs > atMs);
    this.#moving.splice(place < 0 ? this.#moving.length : place, 0, { atMs, sequence, side: decode });
  }

  #side(id: WorkerId): Side {
    const side = this.#sides.find(({ snapshot }) => snapshot.id === id);
    assert(side !== undefined, `no worker ${id} in the replay`);
    return side;
  }
}
