/** The generator's priority, where this machine lets it be raised, is put back after a run, on every
 *  thread. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import os from 'node:os';
import { expect, it } from 'vitest';
import { raisePriority } from '../../src/bench/priority.js';

const session = () =>
  existsSync('/proc/self/autogroup') ? readFileSync('/proc/self/autogroup', 'utf8') : '';
const threads = existsSync('/proc/self/task') ? readdirSync('/proc/self/task').map(Number) : [0];
const state = () => ({
  process: os.getPriority(),
  threads: threads.map((id) => os.getPriority(id)),
  session: session(),
});

it('is raised while it measures, and put back', () => {
  const before = state();
  const restore = raisePriority();
  const during = state();
  restore();
  expect(state()).toEqual(before);
  if (during.process === before.process) return; // not allowed here
  expect(during.process).toBeLessThan(before.process);
  for (const priority of during.threads) expect(priority).toBe(during.process);
  if (/ nice 0/.test(before.session)) expect(during.session).toMatch(/ nice -/);
});
