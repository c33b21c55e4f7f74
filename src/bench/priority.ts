/** Lets the generator go first while it measures: on a machine that it shares with the server, waiting for a core would be taken for the
 *  server's latency. Linux may share the cores among sessions first (autogroup), and a process's priority then counts within its session
 *  alone, so the session's is raised too. Needs the right to do so (root or CAP_SYS_NICE); without it everything works, less exactly. */
import { readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';

/** Returns what puts the priority back: servers started later must not inherit it. */
export function raisePriority(): () => void {
  const { PRIORITY_HIGH } = os.constants.priority;
  const undo = [raise(os.getPriority, os.setPriority, PRIORITY_HIGH), raise(sessionPriority, setSessionPriority, PRIORITY_HIGH)];
  return () => {
    for (const each of undo) each();
  };
}

/** Without the right to raise it nothing is raised, and nothing put back. */
function raise(get: () => number, set: (priority: number) => void, priority: number): () => void {
  try {
    const before = get();
    set(priority);
    return () => restore(() => set(before));
  } catch {
    return () => undefined;
  }
}

/** A session's may be changed ten times a second only, unless by root: then it stays, and the next run finds it raised. */
function restore(set: () => void): void {
  try {
    set();
  } catch {
    return;
  }
}

const sessionFile = '/proc/self/autogroup';

/** The file says "/autogroup-123 nice 0". Throws where there is none. */
function sessionPriority(): number {
  const [, priority] = /nice (-?\d+)/.exec(readFileSync(sessionFile, 'utf8')) ?? [];
  if (priority === undefined) throw new RangeError(`${sessionFile} names no priority`);
  return Number(priority);
}

function setSessionPriority(priority: number): void {
  writeFileSync(sessionFile, String(priority));
}
