/** Who is not taken in because it would wait too long: queues are bounded by the time that is predicted, not
 *  by a count. Used by routing.ts.
 *  Invariants: nobody is refused who would be served no sooner by a server that has nothing else to do;
 *  `retryAfterMs` is when the queue that is predicted has shrunk so far that the request would be taken in,
 *  if nobody else came. */
import { comfortableTtftUse } from '../router/choose-route.js';
import type { RouteEstimate } from '../router/estimate.js';
import type { Slo } from '../router/slo.js';
import { OverloadedError } from './admission.js';

type Wait = Pick<RouteEstimate, 'ttftMs' | 'waitMs'>;

/** A first token that comes later is late. Of what its TTFT leaves for waiting, a request of somebody who has
 *  had more than his share (fair-shares.ts) may use half: the other half is for those who have not. */
export function lateAfterMs({ ttftMs }: Slo, unloadedTtftMs: number, isBeyondShare: boolean): number {
  const leftMs = Math.max(0, ttftMs - unloadedTtftMs);
  return isBeyondShare ? ttftMs - (1 - comfortableTtftUse) * leftMs : ttftMs;
}

/** Throws OverloadedError when the first token would come later than that, and came in time if nobody else
 *  were there (`unloadedTtftMs`). An SLO that nothing could keep is no overload. */
export function refuseLate({ ttftMs }: Wait, lateMs: number, unloadedTtftMs: number): void {
  if (ttftMs <= lateMs || unloadedTtftMs > lateMs) return;
  const what = `the first token would take ${Math.round(ttftMs)} ms, and is due within ${Math.round(lateMs)} ms`;
  throw new OverloadedError(what, ttftMs - lateMs);
}

/** Throws OverloadedError when it would wait for longer than `waitMsMax`, or past its own deadline only
 *  because it has to wait. */
export function refuseLongWait({ ttftMs, waitMs }: Wait, deadlineMs: number, waitMsMax: number): void {
  const overMs = Math.max(waitMs - waitMsMax, ttftMs - waitMs <= deadlineMs ? ttftMs - deadlineMs : 0);
  if (overMs <= 0) return;
  throw new OverloadedError(`the requests ahead of this one take ${Math.round(waitMs)} ms`, overMs);
}
