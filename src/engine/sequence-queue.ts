/** Sequences in the order they are served: priority, then when the first token is due, then arrival, then
 *  choice. None of these changes, so the order is total and stays. Used by the scheduler for those that wait
 *  and run. */
import { OrderedQueue } from '../base/ordered-queue.js';
import type { Sequence } from './sequence.js';

/** Negative when `a` is served before `b`. */
export function compareOrder(a: Sequence, b: Sequence): number {
  const [first, second] = [a.request, b.request];
  if (first === second) return a.choiceIndex - b.choiceIndex;
  if (first.priority !== second.priority) return first.priority - second.priority;
  if (first.dueMs !== second.dueMs) return first.dueMs - second.dueMs;
  return first.arrival - second.arrival;
}

export class SequenceQueue extends OrderedQueue<Sequence> {
  constructor() {
    super(compareOrder);
  }
}
