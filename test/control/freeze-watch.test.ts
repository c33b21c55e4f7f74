/** Frozen or slow: what the looks at a process say, without processes. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { type Freeze, FreezeWatch, looksPerFreeze } from '../../src/control/freeze-watch.js';
import type { ProcessLook } from '../../src/control/process-look.js';
import { lookAt, parseStat } from '../../src/control/process-look.js';

const frozenMs = 1000;
const everyMs = frozenMs / looksPerFreeze;
type State = ProcessLook['state'];

/** Looks until one says frozen; the time that it took, or null. `heard`: a heartbeat before each look. */
function freezeAfter(
  states: readonly [State, number][],
  heard: readonly number[] = [],
  promised: 'promised' | 'not_yet' = 'promised',
) {
  const watch = new FreezeWatch(frozenMs);
  for (const [index, [state, cpuTicks]] of states.entries()) {
    if (heard.includes(index)) watch.heard();
    const freeze: Freeze | null = watch.look({ state, cpuTicks }, everyMs, promised);
    if (freeze !== null) return { ...freeze, ms: (index + 1) * everyMs };
  }
  return null;
}
const looks = (count: number, look: (i: number) => [State, number]) =>
  Array.from({ length: count }, (_, i) => look(i));

describe('a process', () => {
  it('that is stopped is frozen, whatever it said before', () => {
    const freeze = freezeAfter(
      looks(60, () => ['stopped', 7]),
      [0, 1, 2],
    );
    expect(freeze).toMatchObject({ blame: 'outside', ms: frozenMs });
  });

  it('that is stopped while it loads is frozen too', () => {
    expect(
      freezeAfter(
        looks(60, () => ['stopped', 7]),
        [],
        'not_yet',
      ),
    ).toMatchObject({ ms: frozenMs });
  });

  it('that is stopped and goes on in time is not', () => {
    expect(freezeAfter(looks(60, (i) => [i % 4 === 3 ? 'waiting' : 'stopped', i]))).toBeNull();
  });

  it('that waits without heartbeats and without processor time is stuck', () => {
    const freeze = freezeAfter(looks(60, (i) => ['waiting', Math.min(i, 3)]));
    expect(freeze).toMatchObject({ blame: 'work', ms: 4 * everyMs + frozenMs });
  });

  it.each([
    [
      'has no work, and says so',
      looks(60, () => ['waiting', 1]),
      looks(60, () => ['waiting', 1]).map((_, i) => i),
    ],
    [
      'has heartbeats that come late',
      looks(60, () => ['waiting', 1]),
      [2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35, 38, 41, 44, 47, 50, 53, 56, 59],
    ],
    ['waits for a core for a minute', looks(240, () => ['busy', 1]), []],
    ['computes off its event loop', looks(240, (i) => ['waiting', i]), []],
    [
      'gets a little of a core now and then',
      looks(240, (i) => [i % 3 === 0 ? 'busy' : 'waiting', Math.floor(i / 6)]),
      [],
    ],
  ] as [string, [State, number][], number[]][])('that %s is not frozen', (_what, states, heard) => {
    expect(freezeAfter(states, heard)).toBeNull();
  });

  it('that has promised no heartbeat is not stuck', () => {
    expect(
      freezeAfter(
        looks(240, () => ['waiting', 1]),
        [],
        'not_yet',
      ),
    ).toBeNull();
  });
});

describe('/proc/PID/stat', () => {
  const stat = (name: string, state: string) =>
    `4711 (${name}) ${state} 1 4711 4711 0 -1 4194560 11 0 0 0 250 33 0 0 20 0 11 0 123456 1000000 900`;
  it.each([
    ['node', 'R', 'busy'],
    ['node', 'D', 'busy'],
    ['node', 'S', 'waiting'],
    ['node', 'T', 'stopped'],
    ['node', 't', 'busy'],
    ['a) T (b', 'S', 'waiting'],
    ['twostroke worker w0', 'Z', 'busy'],
  ])('of %s in state %s', (name, letter, state) => {
    expect(parseStat(stat(name, letter))).toEqual({ state, cpuTicks: 283 });
  });

  it('of this process is there, of none is not', () => {
    expect(readFileSync('/proc/self/stat', 'latin1')).toContain(String(process.pid));
    expect(lookAt(process.pid)?.cpuTicks).toBeGreaterThan(0);
    expect(lookAt(2 ** 22 + 1)).toBeNull();
  });
});
