/** How many connections a server may keep: each is an open file, and when the process has no more it can
 *  neither accept nor start a worker anew. Used by http-server.ts. */
import { readFileSync } from 'node:fs';

/** For what is no client: pipes and sockets of workers, model files, the next worker that starts. */
const otherFilesMax = 256;

/** `limits`: /proc/self/limits. Where there is none, no limit is known. */
export function connectionCountMax(limits: string = ownLimits()): number {
  const softLimit = Number(/^Max open files\s+(\d+)/m.exec(limits)?.[1] ?? Number.POSITIVE_INFINITY);
  return softLimit - Math.min(otherFilesMax, Math.ceil(softLimit / 2));
}

function ownLimits(): string {
  try {
    return readFileSync('/proc/self/limits', 'utf8');
  } catch {
    return '';
  }
}
