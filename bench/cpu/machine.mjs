/* What ran where, and how quiet the machine was: facts that make a number mean something. Used by bench.mjs;
 *  Linux says most. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';

export function describeMachine() {
  return {
    cpu: os.cpus()[0]?.model.trim() ?? 'unknown',
    cores: os.availableParallelism(),
    memoryGiB: Math.round(os.totalmem() / 2 ** 30),
    system: `${os.type()} ${os.release()} ${os.arch()}`,
    node: process.version,
    loadAverageAtStart: os.loadavg()[0],
  };
}

/** Short hash, with `-dirty` when tracked files differ from it. */
export function describeCommit(folder) {
  try {
    return execFileSync('git', ['describe', '--always', '--dirty', '--abbrev=12'], {
      cwd: folder,
      encoding: 'utf8',
    }).trim();
  } catch {
    return 'unknown';
  }
}

/** CPU seconds of the whole machine since boot; null where /proc/stat does not exist. */
export function machineCpuSeconds() {
  try {
    const [, user, nice, system, , , irq, softirq, steal] = fs
      .readFileSync('/proc/stat', 'utf8')
      .split('\n')[0]
      .split(/\s+/)
      .map(Number);
    return { busy: (user + nice + system + irq + softirq) / 100, steal: (steal ?? 0) / 100 };
  } catch {
    return null;
  }
}
