/** Workers that cost the same, as far as a profile's key can tell, and the hand-overs worth measuring between
 *  them. Used by profile.ts and measure.ts. Pure. Invariant: each pair of kinds between which the router may
 *  hand over has a pair of workers. */
import type { WorkerStatus } from '../control/worker-status.js';
import type { ProfileKey } from '../router/cost-parameters.js';
import type { ReadyBody } from '../worker/messages.js';
import { isSameKey, profileKeyOf } from './profile-key.js';

export type ReadyWorker = WorkerStatus & { readonly ready: ReadyBody };

export interface WorkerKind {
  readonly key: ProfileKey;
  readonly workers: readonly ReadyWorker[];
}

/** Two directions between two workers, and two pairs more: enough where all are of one kind. */
const pairCountMax = 4;

/** In the order of the workers; those that are not ready belong to none. */
export function kindsOf(workers: readonly WorkerStatus[]): readonly WorkerKind[] {
  const kinds: { key: ProfileKey; workers: ReadyWorker[] }[] = [];
  for (const worker of workers.filter(isReady)) {
    const key = profileKeyOf(worker.ready);
    const kind = kinds.find((each) => isSameKey(each.key, key));
    if (kind === undefined) kinds.push({ key, workers: [worker] });
    else kind.workers.push(worker);
  }
  return kinds;
}

type Pair = readonly [from: ReadyWorker, to: ReadyWorker];

/** One pair of workers for each ordered pair of kinds first, then others while they are few. */
export function handOverPairs(workers: readonly WorkerStatus[]): readonly Pair[] {
  const kinds = kindsOf(workers);
  const ofKinds = kinds.flatMap((from) => kinds.map((to) => pairsBetween(from.workers, to.workers)));
  const firsts = ofKinds.flatMap((pairs) => pairs.slice(0, 1));
  const others = ofKinds.flatMap((pairs) => pairs.slice(1));
  return [...firsts, ...others.slice(0, Math.max(0, pairCountMax - firsts.length))];
}

/** Those that the router may use. */
function pairsBetween(sources: readonly ReadyWorker[], targets: readonly ReadyWorker[]): readonly Pair[] {
  return sources
    .filter(({ effectiveRole }) => effectiveRole !== 'decode')
    .flatMap((from) =>
      targets.filter((to) => to !== from && to.effectiveRole !== 'prefill').map((to): Pair => [from, to]),
    );
}

function isReady(worker: WorkerStatus): worker is ReadyWorker {
  return worker.state === 'ready' && worker.ready !== null;
}
