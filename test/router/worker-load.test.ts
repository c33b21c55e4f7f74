/** What is computed before a prompt: the prompts that are due before it, less what has been computed of
 *  them. */
import { describe, expect, it } from 'vitest';
import { requestId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import { DueSums } from '../../src/router/due-sums.js';
import { WorkerLoad } from '../../src/router/worker-load.js';

const prompt = (tokenCount: number, dueMs: number, prefillMs = 10) => ({
  tokenCount,
  pairCount: 10 * tokenCount,
  prefillMs,
  addedMs: 0,
  dueMs,
});

function loadOf(...prompts: [tokenCount: number, dueMs: number][]): WorkerLoad {
  const load = new WorkerLoad();
  for (const [i, [tokenCount, dueMs]] of prompts.entries())
    load.addPrompt(requestId(`p${i}`), prompt(tokenCount, dueMs), 0);
  return load;
}

describe('prompts due before', () => {
  it('are those of the queue with an earlier deadline, or the same', () => {
    const load = loadOf([100, 50], [200, 80], [400, 120]);
    expect(load.dueBefore(0, 80)).toEqual({ promptCount: 2, tokenCount: 300, pairCount: 3000 });
    expect(load.dueBefore(0, 40)).toEqual({ promptCount: 0, tokenCount: 0, pairCount: 0 });
    expect(load.queued.tokenCount).toBe(700);
  });

  it('do not count those that are late: they go last', () => {
    const load = loadOf([100, 50], [200, 80]);
    expect(load.dueBefore(60, 100).tokenCount).toBe(200);
    expect(load.dueBefore(80, 100).tokenCount).toBe(200);
    expect(load.dueBefore(81, 100).tokenCount).toBe(0);
  });

  it('count what is left of one that has begun, and nothing once it is done', () => {
    const load = loadOf([100, 50]);
    load.startPrompt(requestId('p0'), 5);
    expect(load.dueBefore(5, 50).tokenCount).toBe(100);
    expect(load.dueBefore(9, 50)).toEqual({ promptCount: 1, tokenCount: 60, pairCount: 600 });
    expect(load.dueBefore(40, 50).tokenCount).toBe(0); // it takes longer than predicted
    load.removePrompt(requestId('p0'));
    expect(load.dueBefore(9, 50)).toEqual({ promptCount: 0, tokenCount: 0, pairCount: 0 });
  });

  it('that take no time are done as soon as they have begun', () => {
    const load = new WorkerLoad(); // a few tokens that fit into a step which runs anyway
    load.addPrompt(requestId('free'), prompt(3, 50, 0), 0);
    load.startPrompt(requestId('free'), 5);
    expect(load.dueBefore(5, 50)).toEqual({ promptCount: 0, tokenCount: 0, pairCount: 0 });
  });
});

it('a prompt that begins twice, ends twice or was never there changes nothing', () => {
  const load = loadOf([100, 50]);
  load.startPrompt(requestId('p0'), 5);
  load.startPrompt(requestId('p0'), 8);
  expect(load.dueBefore(9, 50).tokenCount).toBe(60);
  load.startPrompt(requestId('nobody'), 1);
  load.removePrompt(requestId('nobody'));
  load.removePrompt(requestId('p0'));
  load.removePrompt(requestId('p0'));
  expect(load.queued).toEqual({ promptCount: 0, tokenCount: 0, pairCount: 0 });
});

it('sums by deadline are those of a list, however prompts come, begin and go', () => {
  const prng = new Prng(5);
  const sums = new DueSums();
  const list: ReturnType<typeof prompt>[] = [];
  for (let i = 0; i < 4000; i++) {
    const nowMs = Math.floor(i / 100);
    if (list.length > 0 && prng.uniform() < (i < 2500 ? 0.3 : 0.7)) {
      const [gone] = list.splice(prng.integer(0, list.length - 1), 1);
      expect(sums.remove(gone!)).toBe(true);
      expect(sums.remove(gone!)).toBe(false);
    } else {
      // many are due at one moment, some are late
      const item = prompt(prng.integer(1, 100), nowMs + prng.integer(-3, 40));
      list.push(item);
      sums.add(item);
    }
    const untilMs = nowMs + prng.integer(-2, 40);
    const wanted = list.filter(({ dueMs }) => dueMs >= nowMs && dueMs <= untilMs);
    const tokenCount = wanted.reduce((sum, each) => sum + each.tokenCount, 0);
    expect(sums.dueBetween(nowMs, untilMs)).toEqual({
      promptCount: wanted.length,
      tokenCount,
      pairCount: 10 * tokenCount,
    });
    expect(sums.all.tokenCount).toBe(list.reduce((sum, each) => sum + each.tokenCount, 0));
    expect(sums.isEmpty).toBe(list.length === 0);
  }
});
