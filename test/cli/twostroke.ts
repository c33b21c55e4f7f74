/** Runs the built `twostroke` command as a child process. `npm test` builds first; so does whoever runs one
 *  file alone. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { systemClock } from '../../src/base/clock.js';
import type { WorkerStatus } from '../../src/control/worker-status.js';

const root = path.resolve(import.meta.dirname, '../..');
const entry = path.join(root, 'dist/src/cli/main.js');

export interface Finished {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export class Running {
  readonly child: ChildProcess;
  readonly finished: Promise<Finished>;
  stdout = '';
  stderr = '';

  constructor(args: readonly string[], options: { env?: Record<string, string>; stdin?: string } = {}) {
    if (!existsSync(entry)) throw new Error(`${entry} is missing: run "npm run build"`);
    this.child = spawn(process.execPath, [entry, ...args], {
      cwd: root,
      env: { ...process.env, ...options.env },
    });
    this.child.stdout?.on('data', (bytes) => {
      this.stdout += bytes;
    });
    this.child.stderr?.on('data', (bytes) => {
      this.stderr += bytes;
    });
    this.child.stdin?.end(options.stdin ?? '');
    this.finished = new Promise((resolve) => {
      this.child.on('close', (exitCode, signal) =>
        resolve({ exitCode, signal, stdout: this.stdout, stderr: this.stderr }),
      );
    });
  }
}

export function twostroke(...args: readonly string[]): Promise<Finished> {
  return new Running(args).finished;
}

export interface Serving extends Running {
  readonly url: string;
  readonly ready: {
    readonly model: string;
    readonly workers: readonly { readonly id: string; readonly pid: number }[];
  };
}

const readyDeadlineMs = 60_000;

/** `twostroke serve --json` on a free port; resolves when it is ready. Rejects with its stderr when it ends
 *  before. */
export async function serve(...args: readonly string[]): Promise<Serving> {
  const running = new Running(['serve', '--port', '0', '--json', ...args]);
  const deadlineMs = systemClock.nowMs() + readyDeadlineMs;
  while (!running.stdout.includes('\n')) {
    if (running.child.exitCode !== null || systemClock.nowMs() > deadlineMs) {
      running.child.kill('SIGKILL');
      throw new Error(`serve did not start: ${running.stdout}${running.stderr}`);
    }
    await systemClock.sleep(20);
  }
  const ready = JSON.parse(running.stdout.split('\n')[0] ?? '') as Serving['ready'] & { url: string };
  return Object.assign(running, { ready, url: ready.url });
}

export async function workersOf(url: string): Promise<readonly WorkerStatus[]> {
  const { workers } = (await (await fetch(`${url}/workers`)).json()) as { workers: readonly WorkerStatus[] };
  return workers;
}

/** What all workers together own, run and wait for; 0 once everything has been given back. */
export async function busyCount(url: string): Promise<number> {
  const workers = await workersOf(url);
  return workers.reduce((total, { snapshot }) => {
    if (snapshot === null) return total + 1;
    const { ownedBlockCount, runningCount, waitingCount, heldCount, reservedCount } = snapshot;
    return total + ownedBlockCount + runningCount + waitingCount + heldCount + reservedCount;
  }, 0);
}

/** Stops it in order and gives its exit code. */
export async function stop(serving: Running): Promise<Finished> {
  serving.child.kill('SIGTERM');
  return serving.finished;
}
