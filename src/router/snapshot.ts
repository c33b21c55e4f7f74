/** Plain numbers a policy may see about the workers and the request. Filled in by control/registry and control/coordinator. */
import type { WorkerId } from '../base/ids.js';

/** `prefill` and `decode` restrict what may be asked of a worker; every worker can do both. */
export type WorkerRole = 'any' | 'prefill' | 'decode';

export interface WorkerSnapshot {
  readonly id: WorkerId;
  readonly role: WorkerRole;
  /** Loaded, connected, not draining. Others are not offered to a policy. */
  readonly isLive: boolean;
  /** Prompt tokens routed here whose K and V are not computed yet. */
  readonly queuedPromptTokenCount: number;
  /** Sequences routed here that are decoding, or will once their prompt is done. */
  readonly decodingCount: number;
  readonly blockTokenCount: number;
  readonly blockCount: number;
  /** Blocks that nobody owns: free, or only kept by the prefix cache. */
  readonly availableBlockCount: number;
}

export interface RequestFacts {
  readonly promptTokenCount: number;
  /** Tokens that earlier attempts have generated already. */
  readonly outputTokenCount: number;
  readonly maxTokenCount: number;
  readonly choiceCount: number;
  /** Prompt tokens that a worker probably holds in its prefix cache; absent means none. */
  readonly prefixTokenCounts: ReadonlyMap<WorkerId, number>;
}
