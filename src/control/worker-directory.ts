/** Who is there, as the coordinator sees it. Implemented by supervisor.ts, and by fakes in tests. */
import type { WorkerId } from '../base/ids.js';
import type { WorkerSnapshot } from '../router/snapshot.js';
import type { WorkerShape } from '../router/worker-costs.js';
import type { WorkerClient } from './worker-client.js';

/** What a worker looks like to the coordinator before its load and its costs are added: numbers from the worker's last report. */
export interface WorkerFacts extends Omit<WorkerSnapshot, 'load' | 'costs' | 'corrections' | 'unloaded'> {
  /** Blocks that nobody owns: free, or only kept by the prefix cache. */
  readonly availableBlockCount: number;
  readonly shape?: WorkerShape;
}

export interface WorkerDirectory {
  workers(): readonly WorkerFacts[];
  client(id: WorkerId): WorkerClient | null;
  /** Resolves when a worker has come or gone. */
  changed(): Promise<void>;
}
