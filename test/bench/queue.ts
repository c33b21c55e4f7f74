/** A server with one queue, for tests of the statistics: requests wait for those before them, and both
 *  strategies of a pair get the same arrivals and work. What is not shared is noise: of single requests, and
 *  of a run as a whole (what the machine did meanwhile). */
import { Prng } from '../../src/base/prng.js';
import type { LoadRecord } from '../../src/bench/load-record.js';
import type { SloByClass } from '../../src/bench/slo.js';
import { record } from './records.js';

export interface QueueShape {
  readonly repetitionCount: number;
  /** Of each repetition. */
  readonly requestCount: number;
  /** Share of its time that the server works. */
  readonly load: number;
  /** Of the strategy: 1.2 takes a fifth longer for everything. */
  readonly slowness: number;
  /** Standard deviations of the logarithms. */
  readonly requestNoise: number;
  readonly runNoise: number;
}

/** Work of a request without noise; targets are set by it. */
const workMs = 20;
/** Of an idle server; well below half of the target, where the least noise would decide. */
const idleGapMs = 7;
export const queueSlos: SloByClass = { short: { ttftMs: 5 * workMs, tpotMs: 20 } };

/** `workSeed`: what pairs share. `noiseSeed`: of this strategy alone. */
export function queueRepetitions(shape: QueueShape, workSeed: number, noiseSeed: number): LoadRecord[][] {
  const work = new Prng(workSeed);
  const noise = new Prng(noiseSeed);
  return Array.from({ length: shape.repetitionCount }, () => {
    const runFactor = shape.slowness * Math.exp(shape.runNoise * noise.normal());
    let [scheduledMs, freeMs] = [0, 0];
    return Array.from({ length: shape.requestCount }, (_, index) => {
      scheduledMs += work.exponential(workMs / shape.load);
      const lastsMs = work.exponential(workMs) * runFactor * Math.exp(shape.requestNoise * noise.normal());
      const startMs = Math.max(scheduledMs, freeMs);
      freeMs = startMs + lastsMs;
      const gapMs =
        idleGapMs *
        runFactor *
        Math.exp(shape.requestNoise * noise.normal()) *
        (1 + (0.5 * (startMs - scheduledMs)) / 100);
      return record({ index, scheduledMs, ttftMs: freeMs - scheduledMs, gapMs });
    });
  });
}
