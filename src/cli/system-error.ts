/** Errors of the operating system in words: files that cannot be written, folders that are none, disks that
 *  are full. They are nobody's bug. Used by fail.ts, output.ts and the commands that write files. */
import { accessSync, constants, mkdirSync } from 'node:fs';
import path from 'node:path';
import { TwostrokeError } from '../base/errors.js';

type SystemError = Error & { readonly code: string; readonly syscall: string; readonly path?: string };

export function isSystemError(error: unknown): error is SystemError {
  return error instanceof Error && 'syscall' in error && 'code' in error && typeof error.code === 'string';
}

/** `ENOSPC: no space left on device, write` → `no space left on device`. */
export function systemReason(error: Error): string {
  return /^E[A-Z0-9]+: ([^,]+)/.exec(error.message)?.[1] ?? error.message;
}

/** `cannot open /a/b: permission denied`. */
export function describeSystemError(error: SystemError): string {
  const what = error.path === undefined ? error.syscall : `${error.syscall} ${error.path}`;
  return `cannot ${what}: ${systemReason(error)}`;
}

/** Runs what writes `file`; its error names the option and the file, which a failed write alone does not. */
export function writing<T>(option: string, file: string, write: () => T): T {
  try {
    return write();
  } catch (error) {
    if (!isSystemError(error)) throw error;
    throw new TwostrokeError('unavailable', `${option}: cannot write ${file}: ${systemReason(error)}`, {
      cause: error,
    });
  }
}

/** Before the work whose result is to go there: makes the folder. Throws TwostrokeError when nothing can be
 *  written into it. */
export function checkFolder(option: string, folder: string): void {
  writing(option, folder, () => {
    mkdirSync(path.resolve(folder), { recursive: true });
    accessSync(folder, constants.W_OK);
  });
}
