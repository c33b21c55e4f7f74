/** Sequences in the order they are served: priority, then arrival, then choice. Used by the scheduler for those that wait and run. */
import { OrderedQueue } from '../base/ordered-queue.js';
import type { Sequence } from './sequence.js';

/** Negative when `a` is served before `b`. */
export function compareOrder(a: Sequence, b: Sequence): number {
  return a.request.priority - b.request.priority || a.request.arrival - b.request.arrival || a.choiceIndex - b.choiceIndex;
}

export class SequenceQueue extends OrderedQueue<Sequence> {
  constructor() {
    super(compareOrder);
  }
}
