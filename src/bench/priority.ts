/** Lets the generator go first while it measures: on a machine that it shares with the server, waiting for a
 *  core would be taken for the server's latency. On Linux a priority is a thread's own, and the garbage
 *  collector waits for threads of its own, so all threads of the process are raised. Linux may also share the
 *  cores among sessions first (autogroup), and priorities then count within the session alone, so the
 *  session's is raised too. Needs the right to do so (root or CAP_SYS_NICE); without it everything works,
 *  less exactly. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';

/** Returns what puts the priority back: servers started later must not inherit it. */
export function raisePriority(): () => void {
  const { PRIORITY_HIGH } = os.constants.priority;
  const ofThreads = threadIds().map((id) =>
    raise(
      () => os.getPriority(id),
      (priority) => os.setPriority(id, priority),
      PRIORITY_HIGH,
    ),
  );
  const undo = [...ofThreads, raise(sessionPriority, setSessionPriority, PRIORITY_HIGH)];
  return () => {
    for (const each of undo) each();
  };
}

/** 0 is the thread that asks; elsewhere than on Linux, the process. */
function threadIds(): readonly number[] {
  try {
    return readdirSync('/proc/self/task').map(Number);
  } catch {
    return [0];
  }
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

/** A session's may be changed ten times a second only, unless by root: then it stays, and the next run finds
 *  it raised. A thread may have ended. */
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
