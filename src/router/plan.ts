/** Who may do what: one value that roles, --strategy, --split, dead workers and the adaptive choice all come
 *  down to. Pure. Used by choose-route.ts; validateStrategy and effectiveRoles by control/ at start-up. */
import { InvalidRequestError } from '../base/errors.js';
import type { Split, Strategy } from './route.js';
import type { WorkerRole, WorkerSnapshot } from './snapshot.js';

export interface Plan {
  /** For people, metrics and `twostroke route`. */
  readonly name: string;
  /** May take a request from prompt to end. */
  readonly collocated: readonly WorkerSnapshot[];
  /** May compute prompts for others. With workers in `collocated` besides, they are prefill-first: they
   *  decode only when no other can. */
  readonly prefill: readonly WorkerSnapshot[];
  /** May decode what others have prefilled. */
  readonly decode: readonly WorkerSnapshot[];
}

/** Roles that the workers have once `split` is applied, in the order of `roles`. */
export function effectiveRoles(
  roles: readonly WorkerRole[],
  strategy: Strategy,
  split: Split | undefined,
): readonly WorkerRole[] {
  if (strategy !== 'disaggregated' || roles.length < 2 || roles.some((role) => role !== 'any')) return roles;
  const { prefillCount, decodeCount } = split ?? halves(roles.length);
  return roles.map((role, index) =>
    index < prefillCount ? 'prefill' : index < prefillCount + decodeCount ? 'decode' : role,
  );
}

function halves(workerCount: number): Split {
  const prefillCount = Math.max(1, Math.floor(workerCount / 2));
  return { prefillCount, decodeCount: workerCount - prefillCount };
}

/** Throws InvalidRequestError naming strategy and roles when they cannot go together. */
export function validateStrategy(
  roles: readonly WorkerRole[],
  strategy: Strategy,
  split: Split | undefined,
): void {
  const list = roles.join(', ');
  const can = (wanted: WorkerRole) => roles.some((role) => role === 'any' || role === wanted);
  if (split !== undefined) validateSplit(roles, strategy, split);
  if (strategy === 'collocated' && !roles.includes('any')) {
    throw new InvalidRequestError(
      `strategy collocated needs a worker of role any, but the workers are: ${list}`,
      'strategy',
    );
  }
  if (!can('prefill') || !can('decode')) {
    const missing = can('prefill') ? 'decode' : 'prefill';
    throw new InvalidRequestError(
      `strategy ${strategy} needs a worker that may ${missing}, but the workers are: ${list}`,
      'strategy',
    );
  }
  if (strategy === 'disaggregated' && roles.length < 2) {
    throw new InvalidRequestError(
      `strategy disaggregated needs at least two workers, but the workers are: ${list}`,
      'strategy',
    );
  }
}

function validateSplit(roles: readonly WorkerRole[], strategy: Strategy, split: Split): void {
  const list = roles.join(', ');
  const text = `split ${split.prefillCount}:${split.decodeCount}`;
  if (strategy !== 'disaggregated')
    throw new InvalidRequestError(`${text} goes with strategy disaggregated, not ${strategy}`, 'split');
  if (roles.some((role) => role !== 'any')) {
    throw new InvalidRequestError(
      `${text} divides workers of role any, but the workers are: ${list}`,
      'split',
    );
  }
  if (
    split.prefillCount < 1 ||
    split.decodeCount < 1 ||
    split.prefillCount + split.decodeCount !== roles.length
  ) {
    throw new InvalidRequestError(
      `${text} must give every one of the ${roles.length} workers a side, and each side one`,
      'split',
    );
  }
}

/** What the strategy allows of the workers that are live; `workers` have their effective roles. Null when
 *  none is live. While nobody is live who could prefill, or decode, any live worker may do everything. */
export function planOf(
  workers: readonly WorkerSnapshot[],
  strategy: Strategy,
  prefillFirst: ReadonlySet<WorkerSnapshot['id']> = nobody,
): Plan | null {
  const live = workers.every((worker) => worker.isLive) ? workers : workers.filter((worker) => worker.isLive);
  if (live.length === 0) return null;
  const any = live.filter(({ role }) => role === 'any');
  const prefill = live.filter(
    ({ role, id }) => role === 'prefill' || (role === 'any' && prefillFirst.has(id)),
  );
  const decode = live.filter(
    ({ role, id }) => role === 'decode' || (role === 'any' && !prefillFirst.has(id)),
  );
  const canPrefill = any.length > 0 || prefill.length > 0;
  const canDecode = any.length > 0 || live.some(({ role }) => role === 'decode');
  if (!canPrefill || !canDecode)
    return alone(live, `no live ${canPrefill ? 'decode' : 'prefill'} worker, any live one serves it`);
  if (strategy === 'collocated') return alone(any.length > 0 ? any : live, 'collocated');
  if (strategy === 'disaggregated') {
    const sources = prefill.length > 0 ? prefill : any;
    return {
      name: `disaggregated ${sources.length}:${decode.length}`,
      collocated: [],
      prefill: sources,
      decode,
    };
  }
  if (prefill.length === 0) return alone(any, 'collocated');
  const collocated = any.filter(({ id }) => !prefillFirst.has(id));
  if (collocated.length === 0)
    return { name: `disaggregated ${prefill.length}:${decode.length}`, collocated, prefill, decode };
  return { name: `prefill-first ${prefill.length}:${decode.length}`, collocated, prefill, decode };
}

/** Whole requests on any of these. */
export function alone(workers: readonly WorkerSnapshot[], name: string): Plan {
  return { name, collocated: workers, prefill: [], decode: [] };
}

const nobody: ReadonlySet<WorkerSnapshot['id']> = new Set();
