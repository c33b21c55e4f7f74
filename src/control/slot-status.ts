/** A worker's slot as plain data, for people and metrics. Used by gateway.ts. */
import { fromWire, TwostrokeError } from '../base/errors.js';
import { stepLimitsOf } from '../worker/step-limits.js';
import type { WorkerSlot } from './worker-slot.js';
import { formatDevice } from './worker-spec.js';
import type { WorkerStatus } from './worker-status.js';

export function statusOf(slot: WorkerSlot): WorkerStatus {
  const { role, effectiveRole, config } = slot.options;
  return {
    id: slot.id,
    role,
    effectiveRole,
    device: formatDevice(config.device),
    threadCount: config.device.threadCount,
    stepLimits: stepLimitsOf(config.device.kind, config),
    state: slot.state,
    pid: slot.pid,
    restartCount: slot.restartCount,
    loading: slot.loading,
    ready: slot.ready === null ? null : { ...slot.ready, receiver: null }, // it holds a secret
    snapshot: slot.snapshot?.engine ?? null,
    residentBytes: slot.snapshot?.residentBytes ?? 0,
    connectors: slot.snapshot?.connectors ?? [],
    quarantinedBlockCount: slot.snapshot?.quarantinedBlockCount ?? 0,
    stepBoundaryWaits: slot.snapshot?.stepBoundaryWaits ?? { count: 0, totalMs: 0 },
    lastProgressMsAgo: slot.stalledMs,
    error: slot.error,
  };
}

/** What made a slot give up. */
export function slotError(slot: WorkerSlot): TwostrokeError {
  return slot.error === null
    ? new TwostrokeError('unavailable', `worker ${slot.id} failed`)
    : fromWire(slot.error);
}
