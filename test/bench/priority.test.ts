/** The generator's priority, where this machine lets it be raised, is put back after a run. */
import { existsSync, readFileSync } from 'node:fs';
import os from 'node:os';
import { expect, it } from 'vitest';
import { raisePriority } from '../../src/bench/priority.js';

const session = () => (existsSync('/proc/self/autogroup') ? readFileSync('/proc/self/autogroup', 'utf8') : '');

it('is raised while it measures, and put back', () => {
  const before = { process: os.getPriority(), session: session() };
  const restore = raisePriority();
  const during = { process: os.getPriority(), session: session() };
  restore();
  expect({ process: os.getPriority(), session: session() }).toEqual(before);
  const mayRaise = during.process < before.process;
  if (mayRaise && / nice 0/.test(before.session)) expect(during.session).toMatch(/ nice -/);
});
