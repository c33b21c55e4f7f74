/** The lock that says who writes a blob, the same that Python's tools take: flock(2) on a file of its own. It
 *  ends with its process, so nothing is left after kill -9. Used by file-download.ts and cached-models.ts. */
import { closeSync, mkdirSync, openSync } from 'node:fs';
import path from 'node:path';
import type { Clock } from '../base/clock.js';
import { tryLockFile } from '../device/native.js';

const pollMs = 200;

export interface FileLock {
  release(): void;
}

/** Null while another process has it. */
export function tryLock(file: string): FileLock | null {
  mkdirSync(path.dirname(file), { recursive: true });
  const descriptor = openSync(file, 'a', 0o664);
  try {
    if (tryLockFile(descriptor)) return { release: () => closeSync(descriptor) };
  } catch (error) {
    closeSync(descriptor);
    throw error;
  }
  closeSync(descriptor);
  return null;
}

/** `onWait` is called once when another process has it. Throws the signal's reason when aborted. */
export async function lock(file: string, { clock, signal }: Waiting, onWait: () => void): Promise<FileLock> {
  for (let attempt = 0; ; attempt++) {
    signal.throwIfAborted();
    const held = tryLock(file);
    if (held !== null) return held;
    if (attempt === 0) onWait();
    await clock.sleep(pollMs);
  }
}

interface Waiting {
  readonly clock: Clock;
  readonly signal: AbortSignal;
}
