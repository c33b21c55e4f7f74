/** Who is there, as the coordinator sees it. Implemented by supervisor.ts, and by fakes in tests. */
import type { WorkerId } from '../base/ids.js';
import type { NextChange } from '../base/signal.js';
import type { WorkerSnapshot } from '../router/snapshot.js';
import type { WorkerShape } from '../router/worker-costs.js';
import type { WorkerClient } from './worker-client.js';

/** What a worker looks like to the coordinator before its load and its costs are added. */
export interface WorkerFacts extends Omit<WorkerSnapshot, 'load' | 'costs' | 'corrections' | 'unloaded'> {
  readonly shape?: WorkerShape;
  /** Its device, model and settings, as a name: workers of one kind are expected to take the same time.
   *  Absent: not known yet. */
  readonly kind?: string;
}

export interface WorkerDirectory {
  /** The same objects as long as nothing about them has changed. */
  workers(): readonly WorkerFacts[];
  /** Blocks that nobody owns there: free, or only kept by the prefix cache. As last reported. */
  availableBlockCount(id: WorkerId): number;
  client(id: WorkerId): WorkerClient | null;
  /** A worker comes or goes. */
  nextChange(): NextChange;
}
