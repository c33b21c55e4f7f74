/** Requests per path and per worker, from the records of a run. Used by cli/simulate.ts and scripts. */
import type { LoadRecord } from '../bench/load-record.js';

export interface RoutesTaken {
  /** By path, and `none` for requests that were never routed. */
  readonly paths: Readonly<Record<string, number>>;
  /** By worker: prompts it computed (for itself or for others) and sequences it decoded. */
  readonly workers: Readonly<Record<string, { readonly prefillCount: number; readonly decodeCount: number }>>;
}

export function routesTaken(records: readonly LoadRecord[]): RoutesTaken {
  const paths: Record<string, number> = {};
  const workers: Record<string, { prefillCount: number; decodeCount: number }> = {};
  const countOf = (id: string) => {
    workers[id] ??= { prefillCount: 0, decodeCount: 0 };
    return workers[id];
  };
  for (const { route, phase } of records) {
    if (phase !== 'measured') continue;
    const [path = 'none', first, second = first] = (route ?? 'none').split(/; | -> /);
    paths[path] = (paths[path] ?? 0) + 1;
    if (first === undefined || second === undefined) continue;
    countOf(first).prefillCount++;
    countOf(second).decodeCount++;
  }
  const sorted = Object.fromEntries(
    Object.entries(workers).sort(([a], [b]) => a.localeCompare(b, 'en', { numeric: true })),
  );
  return { paths, workers: sorted };
}
