/** Counts work instead of time: calls and block executions of the functions in src/ (V8's precise coverage),
 *  and promises made (which is where a Promise.race over many shows). Code that is to be counted has to be
 *  imported after this file, dynamically, since a function that was compiled before has no block counters. */
import { createHook } from 'node:async_hooks';
import { Session } from 'node:inspector/promises';

const session = new Session();
session.connect();
await session.post('Profiler.enable');
await session.post('Profiler.startPreciseCoverage', { callCount: true, detailed: true });

/** The virtual clock is a test's own, and what it calls. */
const ofTestsPattern = /\/src\/(sim\/|base\/assert)/;

let promiseCount = 0;
const hook = createHook({
  init: (_id, type) => {
    if (type === 'PROMISE') promiseCount++;
  },
});

/** What `run` does, until it resolves. */
export async function countWork(run: () => unknown): Promise<number> {
  await takeCount();
  promiseCount = 0;
  hook.enable();
  await run();
  hook.disable();
  return (await takeCount()) + promiseCount;
}

async function takeCount(): Promise<number> {
  const { result } = await session.post('Profiler.takePreciseCoverage');
  let count = 0;
  for (const { url, functions } of result) {
    if (!url.includes('/src/') || ofTestsPattern.test(url)) continue;
    for (const { ranges } of functions) for (const range of ranges) count += range.count;
  }
  return count;
}
