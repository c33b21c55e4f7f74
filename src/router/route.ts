/** What the router answers: a path, its workers, and why. */
import type { WorkerId } from '../base/ids.js';
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
  /** Numbers behind the decision, by name with unit. */
  readonly estimates: Readonly<Record<string, number>>;
}

export interface CollocatedRoute extends Explained {
  readonly path: 'collocated';
  readonly worker: WorkerId;
}

export interface DisaggregatedRoute extends Explained {
  readonly path: 'disaggregated';
  readonly prefillWorker: WorkerId;
  readonly decodeWorker: WorkerId;
}

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
