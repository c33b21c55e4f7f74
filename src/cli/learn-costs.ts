/** Before `serve` says that it is ready: what the workers cost, from a file that fits them, else measured in the short form. Requests that
 *  come meanwhile are served; the router guesses until it knows. */
import { systemClock } from '../base/clock.js';
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
import { isoDate } from './bench-options.js';
import { measuringText, StatusLine } from './status-line.js';

interface LearnOptions {
  readonly gateway: Gateway;
  /** By --profile. Null: whatever fits. */
  readonly given: ProfileFile | null;
  readonly strategy: Strategy;
  readonly config: ModelConfig;
  readonly signal: AbortSignal;
}

const shortBudgetMs = 1900;

export async function learnCosts(options: LearnOptions): Promise<void> {
  const { gateway, given, strategy } = options;
  const workers = gateway.workers();
  const unknown = workers.filter((worker) => !useFile(worker, given, gateway));
  const hasChoice = strategy === 'adaptive' && workers.length > 1 && workers.some(({ effectiveRole }) => effectiveRole === 'any');
  if (unknown.length > 0 && hasChoice) await measureShortly(options, new Set(unknown.map(({ id }) => id)));
}

function useFile(worker: WorkerStatus, given: ProfileFile | null, gateway: Gateway): boolean {
  const { id, ready, stepLimits } = worker;
  if (ready === null) return false;
  const key = profileKeyOf(ready);
  const file = given ?? fittingFile(key);
  if (file === null) return false;
  if (!isSameKey(file.key, key))
    process.stderr.write(
      `twostroke: ${id}: --profile is ${profileFileName(file.key)}, used for ${profileFileName(key)} nevertheless\n`,
    );
  gateway.useProfile(id, withStepLimits(file, stepLimits));
  return true;
}

/** A file that nobody asked for must not stop a server. */
function fittingFile(key: ProfileKey): ProfileFile | null {
  try {
    return findProfile(key, profileFolders());
  } catch (error) {
    process.stderr.write(`twostroke: ${messageOf(error)}: left out\n`);
    return null;
  }
}

/** For `unknown` only: the others have a better file. What fails here costs no more than a worse first guess. */
async function measureShortly({ gateway, config, signal }: LearnOptions, unknown: ReadonlySet<WorkerId>): Promise<void> {
  const display = new StatusLine(process.stderr);
  try {
    const profiles = await profileWorkers({
      gateway,
      clock: systemClock,
      vocabCount: config.vocabCount,
      budgetMs: shortBudgetMs,
      measuredAt: isoDate(),
      signal,
      onProgress: (share, what) => display.show(measuringText(share, what)),
    });
    for (const { file, workers } of profiles) for (const id of workers) if (unknown.has(id)) gateway.useProfile(id, file);
  } catch (error) {
    if (!signal.aborted) process.stderr.write(`twostroke: the workers could not be measured: ${messageOf(error)}\n`);
  } finally {
    display.clear();
  }
}
