/** The line of those whose first token will be late: in which order they are let in, by what, and who is
 *  refused. */
import { describe, expect, it } from 'vitest';
import { requestId } from '../../src/base/ids.js';
import { OverloadedError } from '../../src/control/admission.js';
import type { RequestInput } from '../../src/control/gateway-api.js';
import { LateLine } from '../../src/control/late-line.js';
import { greedy } from '../../src/engine/sampling-params.js';
import { VirtualClock } from '../../src/sim/virtual-clock.js';

const ttftMs = 100;
const inputOf = (owner: string): RequestInput => ({
  id: requestId('r'),
  promptIds: [],
  sampling: greedy,
  owner,
});

/** `letIn`: the names of those who are in, in order. `timeFor`: for how many the workers have time to
 *  spare. */
function rig({ workerCount = 1, waitMsMax = 60_000 } = {}) {
  const clock = new VirtualClock();
  const state = { timeFor: 0, letIn: [] as string[], looks: 0 };
  const line = new LateLine({ clock, workerCount: () => workerCount, waitMsMax });
  const join = (
    name: string,
    {
      priority = 0,
      aloneMs = 10,
      waitMs = 0,
      deadlineAtMs = Number.POSITIVE_INFINITY,
      owner = 'anybody',
    } = {},
  ) => {
    const request = { priority, slo: { ttftMs, tpotMs: 10 }, deadlineAtMs, input: inputOf(owner) };
    const enter = (isForced: boolean) => {
      state.looks++;
      if (!isForced && state.timeFor-- <= 0) return false;
      state.letIn.push(name);
      return true;
    };
    line.join(request, { waitMs, aloneMs, enter });
    return request;
  };
  return { clock, line, join, state, pass: (ms: number) => clock.drive(clock.sleep(ms)) };
}

describe('the line of late requests', () => {
  it('lets nobody in while there is no time to spare, and all by priority, then arrival when there is', async () => {
    const { join, line, state } = rig();
    for (const [name, priority] of [
      ['a', 0],
      ['b', -5],
      ['c', 0],
      ['d', -5],
    ] as const)
      join(name, { priority });
    line.look();
    expect(state.letIn).toEqual([]);
    state.timeFor = 100;
    line.look();
    expect(state.letIn).toEqual(['b', 'd', 'a', 'c']);
    expect(line.count).toBe(0);
  });

  it('takes turns among tenants, by the work they ask for', () => {
    const { join, line, state } = rig();
    for (let i = 0; i < 6; i++) join(`flood${i}`, { owner: 'flood' });
    join('big', { owner: 'other', aloneMs: 20 });
    join('small', { owner: 'other' });
    state.timeFor = 100;
    line.look();
    expect(state.letIn).toEqual(['flood0', 'big', 'flood1', 'flood2', 'small', 'flood3', 'flood4', 'flood5']);
  });

  it('gives who comes anew a turn as of now, not all that it might have had', () => {
    const { join, line, state } = rig();
    for (let i = 0; i < 6; i++) join(`a${i}`, { owner: 'a' });
    state.timeFor = 4;
    line.look();
    for (let i = 0; i < 3; i++) join(`b${i}`, { owner: 'b' });
    state.timeFor = 100;
    line.look();
    expect(state.letIn.slice(4)).toEqual(['b0', 'a4', 'b1', 'a5', 'b2']);
  });

  it('lets one at once that finds time', () => {
    const { join, state } = rig();
    state.timeFor = 100;
    join('a');
    expect(state.letIn).toEqual(['a']);
  });

  it('looks again by itself, and not when it is empty', async () => {
    const { join, state, pass } = rig();
    join('a');
    await pass(200);
    state.timeFor = 100;
    await pass(100);
    expect(state.letIn).toEqual(['a']);
    const { looks } = state;
    await pass(1000);
    expect(state.looks).toBe(looks);
  });

  it('starves nobody: the oldest is let in when it has aged, one to a worker at a time, whatever comes before it', async () => {
    const { join, line, state, pass } = rig({ workerCount: 2 });
    const old = [join('a'), join('b'), join('c'), join('d')];
    await pass(3.9 * ttftMs);
    for (let i = 0; i < 5; i++) join(`vip${i}`, { priority: -1 });
    expect(state.letIn).toEqual([]);
    await pass(ttftMs);
    expect(state.letIn).toEqual(['a', 'b']);
    await pass(10 * ttftMs);
    expect(state.letIn).toEqual(['a', 'b']);
    line.leave(old[0]!);
    expect(state.letIn).toEqual(['a', 'b', 'c']);
  });

  it('forgets who leaves', async () => {
    const { join, line, state } = rig();
    const [first, second] = [join('a'), join('b')];
    line.leave(second);
    line.leave(first);
    state.timeFor = 100;
    line.look();
    expect(state.letIn).toEqual([]);
    expect(line.count).toBe(0);
  });

  it('refuses who would wait longer than the bound for prompts alone, and says by how much', () => {
    const { join, line } = rig({ workerCount: 2, waitMsMax: 1000 });
    for (let i = 0; i < 20; i++) join(`r${i}`, { aloneMs: 100 });
    expect(() => join('next', { waitMs: 500, aloneMs: 100 })).toThrow(OverloadedError);
    expect(line.count).toBe(20);
    try {
      join('next', { waitMs: 500, aloneMs: 100 });
    } catch (error) {
      expect((error as OverloadedError).retryAfterMs).toBeCloseTo(500 + (20 * 100) / 2 - 1000, 6);
    }
    join('before them', { priority: -1, waitMs: 500, aloneMs: 100 });
    expect(line.count).toBe(21);
  });

  it('and who would at the pace of the last 16 who were let in', async () => {
    const { join, line, state, pass } = rig({ waitMsMax: 1000 });
    for (let i = 0; i < 20; i++) join(`r${i}`);
    for (let i = 0; i < 15; i++) {
      await pass(20);
      state.timeFor = 1;
      line.look();
    }
    for (let i = 0; i < 30; i++) line.leave(join(`too few to tell${i}`));
    await pass(20);
    state.timeFor = 1;
    line.look();
    expect(state.letIn).toHaveLength(16);
    let joined = 0;
    expect(() => {
      for (; joined < 100; joined++) join(`late${joined}`);
    }).toThrow(OverloadedError);
    // 16 within 15 · 20 ms: 18.75 ms each
    expect(4 + joined).toBe(Math.floor(1000 / 18.75) + 1);
  });

  it('refuses who would wait past its own deadline', () => {
    const { join } = rig();
    for (let i = 0; i < 10; i++) join(`r${i}`, { aloneMs: 100 });
    expect(() => join('hasty', { aloneMs: 100, deadlineAtMs: 500 })).toThrow(OverloadedError);
  });
});
