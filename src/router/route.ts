/** What the router answers: a path, its workers, and why. */
import type { WorkerId } from '../base/ids.js';
import type { RouteEstimate } from './estimate.js';
import type { PrefillPrediction } from './prediction.js';

export type Strategy = 'collocated' | 'disaggregated' | 'adaptive';

/** With `any` workers alone, a disaggregated strategy gives the first P to prefill and the next D to
 *  decode. */
export interface Split {
  readonly prefillCount: number;
  readonly decodeCount: number;
}

interface Explained {
  /** One line for people: what decided. */
  readonly reason: string;
  readonly estimate: RouteEstimate;
  /** The best route of the other path, if that was weighed. */
  readonly other?: { readonly workers: readonly WorkerId[]; readonly estimate: RouteEstimate };
  /** Of the prompt, on the worker that computes it. */
  readonly prefill: PrefillPrediction;
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
interface CollocatedRoute extends CollocatedPlace, Explained {}
interface DisaggregatedRoute extends DisaggregatedPlace, Explained {}
export type Route = CollocatedRoute | DisaggregatedRoute;

export function workersOf(route: RoutePlace): readonly WorkerId[] {
  return route.path === 'collocated' ? [route.worker] : [route.prefillWorker, route.decodeWorker];
}
