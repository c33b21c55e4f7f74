/** Whether the workers make progress, for /health. Pure over the slots' numbers. */
import type { WorkerSlot } from './worker-slot.js';
import type { Health } from './worker-status.js';

type Watched = Pick<WorkerSlot, 'id' | 'state' | 'isLive' | 'stalledMs' | 'error'>;

/** `phase`: loading until every worker has been ready once. */
export function healthOf(
  slots: readonly Watched[],
  phase: 'loading' | 'ready',
  stalledMsMax: number,
): Health {
  const live = slots.filter((slot) => slot.isLive);
  const coming = slots.filter(({ state }) => state === 'starting' || state === 'loading');
  const ids = (some: readonly Watched[]) => some.map(({ id }) => id).join(', ');
  const failed = slots.find(({ state }) => state === 'failed');
  if (failed !== undefined && live.length === 0)
    return { status: 'no_workers', detail: failed.error?.message ?? `${failed.id} failed` };
  if (phase === 'loading')
    return { status: 'loading', detail: `loading: ${ids(slots.filter((slot) => !slot.isLive))}` };
  if (live.length === 0)
    return { status: 'no_workers', detail: `no live worker; restarting: ${ids(coming) || ids(slots)}` };
  const stalled = live.filter((slot) => slot.stalledMs > stalledMsMax);
  if (stalled.length > 0) {
    const seconds = Math.round(Math.max(...stalled.map((slot) => slot.stalledMs)) / 1000);
    return { status: 'stalled', detail: `work but no step for ${seconds} s on ${ids(stalled)}` };
  }
  const missing = slots.filter((slot) => !slot.isLive);
  return {
    status: 'ok',
    detail: missing.length === 0 ? `${live.length} workers` : `${ids(live)} live; not live: ${ids(missing)}`,
  };
}
