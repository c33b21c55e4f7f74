/** Before a server is ready: what the workers cost, from a file that fits them, else measured in the short
 *  form. Requests that come meanwhile are served; the router guesses until it knows. */
import { isoDate, systemClock } from '../base/clock.js';
import { messageOf } from '../base/errors.js';
import type { WorkerId } from '../base/ids.js';
import type { Gateway } from '../control/gateway.js';
import type { WorkerStatus } from '../control/worker-status.js';
import type { ModelConfig } from '../model/config.js';
import { profileWorkers } from '../profile/profile.js';
import { findProfile, profileFolders, withStepLimits } from '../profile/profile-file.js';
import { isSameKey, profileFileName, profileKeyOf } from '../profile/profile-key.js';
import type { ProfileFile, ProfileKey } from '../router/cost-parameters.js';
import type { Strategy } from '../router/route.js';

interface LearnOptions {
  readonly gateway: Gateway;
  /** Asked for. Null: whatever fits. */
  readonly given: ProfileFile | null;
  readonly strategy: Strategy;
  readonly config: ModelConfig;
  readonly signal: AbortSignal;
  readonly listeners: LearnListeners;
}

export interface LearnListeners {
  /** How far the measurement is. */
  readonly onMeasuring?: (share: number, what: string) => void;
  /** One line for people: what is not as one might think. */
  readonly tell?: (line: string) => void;
}

const shortBudgetMs = 1900;

export async function learnCosts(options: LearnOptions): Promise<void> {
  const { gateway, strategy } = options;
  const workers = gateway.workers();
  const unknown = workers.filter((worker) => !useFile(worker, options));
  const hasChoice =
    strategy === 'adaptive' &&
    workers.length > 1 &&
    workers.some(({ effectiveRole }) => effectiveRole === 'any');
  if (unknown.length > 0 && hasChoice) await measureShortly(options, new Set(unknown.map(({ id }) => id)));
}

function useFile(
  { id, ready, stepLimits }: WorkerStatus,
  { gateway, given, listeners: { tell } }: LearnOptions,
): boolean {
  if (ready === null) return false;
  const key = profileKeyOf(ready);
  const file = given ?? fittingFile(key, tell);
  if (file === null) return false;
  if (!isSameKey(file.key, key))
    tell?.(
      `${id}: the profile is ${profileFileName(file.key)}, used for ${profileFileName(key)} nevertheless`,
    );
  gateway.useProfile(id, withStepLimits(file, stepLimits));
  return true;
}

/** A file that nobody asked for must not stop a server. */
function fittingFile(key: ProfileKey, tell: LearnListeners['tell']): ProfileFile | null {
  try {
    return findProfile(key, profileFolders());
  } catch (error) {
    tell?.(`${messageOf(error)}: left out`);
    return null;
  }
}

/** For `unknown` only: the others have a better file. What fails here costs no more than a worse first
 *  guess. */
async function measureShortly(options: LearnOptions, unknown: ReadonlySet<WorkerId>): Promise<void> {
  const { gateway, config, signal, listeners } = options;
  try {
    const profiles = await profileWorkers({
      gateway,
      clock: systemClock,
      vocabCount: config.vocabCount,
      budgetMs: shortBudgetMs,
      measuredAt: isoDate(),
      signal,
      onProgress: (share, what) => listeners.onMeasuring?.(share, what),
    });
    for (const { file, workers } of profiles)
      for (const id of workers) if (unknown.has(id)) gateway.useProfile(id, file);
  } catch (error) {
    if (!signal.aborted) listeners.tell?.(`the workers could not be measured: ${messageOf(error)}`);
  }
}
