/** Plain numbers a policy may see about the workers and the request. Filled in by control/coordinator. */
import type { WorkerId } from '../base/ids.js';
import type { CostParameters } from './cost-parameters.js';
import type { KvDemand } from './kv-growth.js';
import type { Corrections } from './request-correction.js';
import type { Slo } from './slo.js';
import type { UnloadedRatios } from './unloaded-ratios.js';
import type { WorkerLoadView } from './worker-load.js';

/** `prefill` and `decode` restrict what may be asked of a worker; every worker can do both. */
export type WorkerRole = 'any' | 'prefill' | 'decode';

export interface WorkerSnapshot {
  readonly id: WorkerId;
  readonly role: WorkerRole;
  /** Loaded, connected, not draining. Others are not offered to a policy. */
  readonly isLive: boolean;
  readonly blockTokenCount: number;
  readonly blockCount: number;
  /** Whether its steps are paced by deadlines. Absent: on. */
  readonly pacing?: 'on' | 'off';
  /** Sequences that its batch may hold. Absent: not known, no limit. */
  readonly batchSlotCount?: number;
  readonly load: WorkerLoadView;
  /** What its steps, its links and its messages take. */
  readonly costs: CostParameters;
  /** What its requests have taught beyond that. */
  readonly corrections: Corrections;
  /** By what requests that are alone take longer than the costs say. */
  readonly unloaded: UnloadedRatios;
}

export interface RequestFacts {
  readonly promptTokenCount: number;
  /** Tokens that earlier attempts have generated already. */
  readonly outputTokenCount: number;
  readonly maxTokenCount: number;
  readonly choiceCount: number;
  /** Expected length of each choice's output, from the length predictor. */
  readonly expectedTokenCount: number;
  /** Memory that what it is yet to generate will take, over all choices. */
  readonly growth: KvDemand;
  /** Prompt tokens that a worker probably holds in its prefix cache; absent means none. */
  readonly prefixTokenCounts: ReadonlyMap<WorkerId, number>;
  readonly slo: Slo;
  /** Lower first. Absent: 0. */
  readonly priority?: number;
  /** Its first token will be late wherever it goes: it waits for all who can be in time. Absent: no. */
  readonly isLate?: boolean;
  /** Clock.nowMs() of the decision. */
  readonly nowMs: number;
}
