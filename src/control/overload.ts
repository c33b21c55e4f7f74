/** Who is not taken in because it would wait too long: queues are bounded by the time that is predicted, not
 *  by a count. Used by routing.ts.
 *  Invariants: nobody is refused who would be served no sooner by a server that has nothing else to do;
 *  `retryAfterMs` is when the queue that is predicted has shrunk so far that the request would be taken in,
 *  if nobody else came. */
import type { RouteEstimate } from '../router/estimate.js';
import type { Slo } from '../router/slo.js';
import { OverloadedError } from './admission.js';

type Wait = Pick<RouteEstimate, 'ttftMs' | 'waitMs'>;

/** Throws OverloadedError when the first token would come after it is due, and came in time if nobody else
 *  were there (`unloadedTtftMs`). An SLO that nothing could keep is no overload. */
export function refuseLate({ ttftMs }: Wait, slo: Slo, unloadedTtftMs: number): void {
  if (ttftMs <= slo.ttftMs || unloadedTtftMs > slo.ttftMs) return;
  const what = `the first token would take ${Math.round(ttftMs)} ms, and is due within ${Math.round(slo.ttftMs)} ms`;
  throw new OverloadedError(what, ttftMs - slo.ttftMs);
}

/** Throws OverloadedError when it would wait for longer than `waitMsMax`, or past its own deadline only
 *  because it has to wait. */
export function refuseLongWait({ ttftMs, waitMs }: Wait, deadlineMs: number, waitMsMax: number): void {
  const overMs = Math.max(waitMs - waitMsMax, ttftMs - waitMs <= deadlineMs ? ttftMs - deadlineMs : 0);
  if (overMs <= 0) return;
  throw new OverloadedError(`the requests ahead of this one take ${Math.round(waitMs)} ms`, overMs);
}
