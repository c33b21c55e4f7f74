/** What the router answers: a path, its workers, and why. */
import type { WorkerId } from '../base/ids.js';
import type { PathEstimate } from './estimate.js';
import type { PrefillForecast } from './forecast.js';
import type { RequestFacts, WorkerSnapshot } from './snapshot.js';

export type Strategy = 'collocated' | 'disaggregated' | 'adaptive';

/** With `any` workers alone, a disaggregated strategy gives the first P to prefill and the next D to decode. */
export interface Split {
  readonly prefillCount: number;
  readonly decodeCount: number;
}

interface Explained {
  /** One line for people: what decided. */
  readonly reason: string;
  readonly estimate: PathEstimate;
  /** The best route of the other path, if that was weighed. */
  readonly other?: { readonly workers: readonly WorkerId[]; readonly estimate: PathEstimate };
  /** Of the prompt, on the worker that computes it. */
  readonly prefill: PrefillForecast;
}

interface CollocatedPlace {
  readonly path: 'collocated';
  readonly worker: WorkerId;
}

interface DisaggregatedPlace {
  readonly path: 'disaggregated';
  readonly prefillWorker: WorkerId;
  readonly decodeWorker: WorkerId;
}

/** Where a request goes, without why. */
export type RoutePlace = CollocatedPlace | DisaggregatedPlace;
export interface CollocatedRoute extends CollocatedPlace, Explained {}
export interface DisaggregatedRoute extends DisaggregatedPlace, Explained {}
export type Route = CollocatedRoute | DisaggregatedRoute;

/** Which workers a policy may use for what. A worker can be in both lists. */
export interface Candidates {
  readonly prefill: readonly WorkerSnapshot[];
  readonly decode: readonly WorkerSnapshot[];
  /** May do both strokes of one request. */
  readonly both: readonly WorkerSnapshot[];
  /** Why the lists are wider than the roles say; absent: they are not. */
  readonly fallback?: string;
}

/** A policy is a pure function. Candidates are never all empty. */
export type Policy = (facts: RequestFacts, candidates: Candidates) => Route;

export function workersOf(route: RoutePlace): readonly WorkerId[] {
  return route.path === 'collocated' ? [route.worker] : [route.prefillWorker, route.decodeWorker];
}
