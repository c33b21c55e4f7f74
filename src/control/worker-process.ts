/** A child process that runs a worker. Made by worker-slot.ts; the only place in control/ that knows of
 *  processes.
 *  Invariant: `exited` resolves when the process has been reaped: from then on nothing of it touches shared
 *  memory. */
import { spawn } from 'node:child_process';
import type { WorkerId } from '../base/ids.js';
import { lookAt, type ProcessLook } from './process-look.js';

export interface ProcessEnd {
  readonly reason: string;
  /** Null: it exited by itself. */
  readonly signal: NodeJS.Signals | null;
}

export interface WorkerProcess {
  readonly pid: number | null;
  /** Resolves, with what ended it, once the process has been reaped. */
  readonly exited: Promise<ProcessEnd>;
  /** Absent, or null: nothing is known of it. */
  look?(): ProcessLook | null;
  /** SIGKILL: works on a stopped process too. */
  kill(): void;
}

export interface SpawnOptions {
  readonly entry: string;
  readonly address: string;
  readonly workerId: WorkerId;
  readonly logLevel: string;
  readonly environment?: Readonly<Record<string, string | undefined>>;
}

export type SpawnWorker = (options: SpawnOptions) => WorkerProcess;

/** Its standard output goes to our standard error: ours may carry JSON. */
export const spawnWorker: SpawnWorker = ({ entry, address, workerId, logLevel, environment }) => {
  const child = spawn(
    process.execPath,
    [entry, '--address', address, '--id', workerId, '--log-level', logLevel],
    {
      stdio: ['ignore', 2, 2],
      ...(environment === undefined ? {} : { env: environment }),
    },
  );
  const exited = new Promise<ProcessEnd>((resolve) => {
    child.once('exit', (code, signal) => {
      resolve({
        reason: signal === null ? `it exited with code ${code}` : `it was killed by ${signal}`,
        signal,
      });
    });
    child.on('error', (error) => {
      if (child.pid === undefined) {
        resolve({ reason: `it could not be started: ${error.message}`, signal: null }); // else a signal did not reach it: it lives on
      }
    });
  });
  return {
    pid: child.pid ?? null,
    exited,
    look: () => (child.pid === undefined ? null : lookAt(child.pid)),
    kill: () => void child.kill('SIGKILL'),
  };
};
