/** Lets the generator go first while it measures: on a machine that it shares with the server, waiting for a core would be taken for the
 *  server's latency. Needs the right to do so (root or CAP_SYS_NICE); without it everything works, less exactly. */
import os from 'node:os';

/** Returns what puts the priority back: servers started later must not inherit it. */
export function raisePriority(): () => void {
  const before = os.getPriority();
  if (!trySetPriority(os.constants.priority.PRIORITY_HIGH)) return () => undefined;
  return () => void trySetPriority(before);
}

function trySetPriority(priority: number): boolean {
  try {
    os.setPriority(priority);
    return true;
  } catch {
    return false;
  }
}
