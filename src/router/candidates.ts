/** Who may be asked for what: roles restrict, a split divides `any` workers, and while a role has no live worker any live one serves it.
 *  Used by choose-route.ts; validateStrategy by control/ at start-up. */
import { InvalidRequestError } from '../base/errors.js';
import type { Candidates, Split, Strategy } from './route.js';
import type { WorkerRole, WorkerSnapshot } from './snapshot.js';

/** Roles that the workers have once `split` is applied, in the order of `roles`. */
export function effectiveRoles(
  roles: readonly WorkerRole[],
  strategy: Strategy,
  split: Split | undefined,
): readonly WorkerRole[] {
  if (strategy !== 'disaggregated' || roles.length < 2 || roles.some((role) => role !== 'any')) return roles;
  const { prefillCount, decodeCount } = split ?? halves(roles.length);
  return roles.map((role, index) => (index < prefillCount ? 'prefill' : index < prefillCount + decodeCount ? 'decode' : role));
}

function halves(workerCount: number): Split {
  const prefillCount = Math.max(1, Math.floor(workerCount / 2));
  return { prefillCount, decodeCount: workerCount - prefillCount };
}

/** Throws InvalidRequestError naming strategy and roles when they cannot go together. */
export function validateStrategy(roles: readonly WorkerRole[], strategy: Strategy, split: Split | undefined): void {
  const list = roles.join(', ');
  const can = (wanted: WorkerRole) => roles.some((role) => role === 'any' || role === wanted);
  if (split !== undefined) validateSplit(roles, strategy, split);
  if (strategy === 'collocated' && !roles.includes('any')) {
    throw new InvalidRequestError(`strategy collocated needs a worker of role any, but the workers are: ${list}`, 'strategy');
  }
  if (!can('prefill') || !can('decode')) {
    const missing = can('prefill') ? 'decode' : 'prefill';
    throw new InvalidRequestError(
      `strategy ${strategy} needs a worker that may ${missing}, but the workers are: ${list}`,
      'strategy',
    );
  }
  if (strategy === 'disaggregated' && roles.length < 2) {
    throw new InvalidRequestError(`strategy disaggregated needs at least two workers, but the workers are: ${list}`, 'strategy');
  }
}

function validateSplit(roles: readonly WorkerRole[], strategy: Strategy, split: Split): void {
  const list = roles.join(', ');
  const text = `split ${split.prefillCount}:${split.decodeCount}`;
  if (strategy !== 'disaggregated')
    throw new InvalidRequestError(`${text} goes with strategy disaggregated, not ${strategy}`, 'split');
  if (roles.some((role) => role !== 'any')) {
    throw new InvalidRequestError(`${text} divides workers of role any, but the workers are: ${list}`, 'split');
  }
  if (split.prefillCount < 1 || split.decodeCount < 1 || split.prefillCount + split.decodeCount !== roles.length) {
    throw new InvalidRequestError(
      `${text} must give every one of the ${roles.length} workers a side, and each side one`,
      'split',
    );
  }
}

/** `workers` have their effective roles; those that are not live are left out. Null when none is live. */
export function candidatesOf(workers: readonly WorkerSnapshot[]): Candidates | null {
  const live = workers.every((worker) => worker.isLive) ? workers : workers.filter((worker) => worker.isLive);
  if (live.length === 0) return null;
  if (live.every((worker) => worker.role === 'any')) return { prefill: live, decode: live, both: live };
  const may = (role: WorkerRole) => live.filter((worker) => worker.role === 'any' || worker.role === role);
  const prefill = may('prefill');
  const decode = may('decode');
  const both = live.filter((worker) => worker.role === 'any');
  if (prefill.length > 0 && decode.length > 0) return { prefill, decode, both };
  const missing = prefill.length === 0 ? 'prefill' : 'decode';
  return { prefill: live, decode: live, both: live, fallback: `no live ${missing} worker, any live one serves it` };
}
