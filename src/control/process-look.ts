/** What Linux says of a process, from /proc/PID/stat. Used by worker-process.ts. */
import { readFileSync } from 'node:fs';

/** What the operating system says of a process. `waiting`: for an event; `busy`: runnable, or in the disk. */
export interface ProcessLook {
  readonly state: 'stopped' | 'waiting' | 'busy';
  /** Processor time that it has used, in ticks of 10 ms. */
  readonly cpuTicks: number;
}

/** Null: it is gone, or there is no /proc here. */
export function lookAt(pid: number): ProcessLook | null {
  try {
    return parseStat(readFileSync(`/proc/${pid}/stat`, 'latin1'));
  } catch {
    return null;
  }
}

/** `PID (NAME) STATE PPID …`: the name may hold anything, brackets too. */
export function parseStat(text: string): ProcessLook {
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const [letter] = fields;
  const [userTicks, systemTicks] = [Number(fields[11]), Number(fields[12])]; // of all its threads
  const state = letter === 'T' ? 'stopped' : letter === 'S' ? 'waiting' : 'busy'; // t: a debugger holds it
  return { state, cpuTicks: userTicks + systemTicks };
}
