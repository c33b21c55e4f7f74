/** Lines before decode workers: who asks when, and that nothing is left of a wait. */
import { describe, expect, it } from 'vitest';
import type { TimerHandle } from '../../src/base/clock.js';
import { requestId, workerId } from '../../src/base/ids.js';
import { Signal } from '../../src/base/signal.js';
import { defaultGatewayLimits } from '../../src/control/gateway-options.js';
import { Lifeline } from '../../src/control/lifeline.js';
import { Request } from '../../src/control/request.js';
import { Reservations, type ReservationTiming } from '../../src/control/reservations.js';
import { type Reserved, type WorkerClient, WorkerLostError } from '../../src/control/worker-client.js';
import { greedy } from '../../src/engine/sampling-params.js';
import { VirtualClock } from './virtual-clock.js';

/** Knows which timers are still to fire. */
class WatchedClock extends VirtualClock {
  readonly timers = new Set<object>();

  override after(delayMs: number, fire: () => void): TimerHandle {
    const key = {};
    this.timers.add(key);
    const timer = super.after(delayMs, () => {
      this.timers.delete(key);
      fire();
    });
    return {
      cancel: () => {
        this.timers.delete(key);
        timer.cancel();
      },
    };
  }
}

function setUp() {
  const clock = new WatchedClock();
  const room = new Signal();
  const life = new Lifeline();
  const asked: string[] = [];
  const worker = { id: workerId('w'), freeCount: 0 };
  const reserved = {} as Reserved;
  const client = {
    id: worker.id,
    nextRoom: () => room.next(),
    reserve: (request: Request) => {
      asked.push(request.id);
      return life.guard(Promise.resolve(worker.freeCount > 0 && worker.freeCount-- > 0 ? reserved : null));
    },
  } as unknown as WorkerClient;
  const limits = { ...defaultGatewayLimits, holdMs: 1000, leaseMs: 10_000, landDeadlineMs: 30_000 };
  const reservations = new Reservations(clock, limits);
  const open = (name: string, timing: ReservationTiming = 'before_prefill') => {
    const request = new Request({ id: requestId(name), promptIds: [1], sampling: greedy }, clock, 1e9);
    return { request, place: reservations.open(request, client, timing) };
  };
  const free = (count: number) => {
    worker.freeCount += count;
    room.fire();
  };
  const later = (ms: number) => clock.drive(clock.sleep(ms));
  return { clock, room, life, asked, worker, reservations, open, free, later };
}

type Place = ReturnType<ReturnType<typeof setUp>['open']>['place'];
const outcomeOf = (place: Place) =>
  place.granted().then(
    () => 'granted',
    (error) => error.reason ?? error.constructor.name,
  );

describe('asking', () => {
  it('is done by the head alone, once, and again only when there may be room; then in the order they came', async () => {
    const { asked, open, free, later, reservations, room } = setUp();
    const places = Array.from({ length: 50 }, (_, i) => open(`r${i}`).place);
    const outcomes = places.map(outcomeOf);
    await later(60_000);
    expect(asked).toEqual(['r0']);
    expect(reservations.waitingCount(workerId('w'))).toBe(1);
    free(0);
    await later(1);
    expect(asked).toEqual(['r0', 'r0']);
    free(2);
    await later(1);
    expect(await Promise.all(outcomes.slice(0, 2))).toEqual(['granted', 'granted']);
    expect(asked).toEqual(['r0', 'r0', 'r0', 'r1', 'r2']);
    for (const place of places) await place.end();
    expect((await Promise.all(outcomes)).slice(2)).toEqual(Array(48).fill('unwanted'));
    expect([reservations.waitingCount(workerId('w')), room.waiterCount]).toEqual([0, 0]);
  });

  it('misses no room that comes while the answer is on its way', async () => {
    const { open, free, later, asked } = setUp();
    const { place } = open('a');
    const outcome = outcomeOf(place);
    free(1); // after the question was answered, before the answer is read
    await later(0);
    expect([await outcome, asked.length]).toEqual(['granted', 2]);
  });

  it('ends for all when the worker is lost', async () => {
    const { open, life, room, later } = setUp();
    const outcomes = ['a', 'b', 'c'].map((name) => outcomeOf(open(name).place));
    await later(10);
    life.cut(new WorkerLostError(workerId('w'), 'gone', 'outside'));
    room.fire();
    await later(0);
    expect(await Promise.all(outcomes)).toEqual(Array(3).fill('WorkerLostError'));
  });

  it('a finished prefill waits no longer than it may hold its blocks, wherever in the line', async () => {
    const { open, later, clock } = setUp();
    const waiting = ['a', 'b'].map((name) => open(name, 'just_in_time'));
    const outcomes = waiting.map(({ place }) => outcomeOf(place));
    await later(5500);
    for (const { request } of waiting) request.stamp('firstTokenMs');
    const ended = Promise.all(outcomes).then((each) => ({ each, atMs: clock.nowMs() }));
    await later(3000);
    expect(await ended).toEqual({ each: ['no_room', 'no_room'], atMs: 6500 });
  });
});

describe('a lease', () => {
  const never = new Promise<never>(() => {});
  const reasonOf = (leased: Promise<unknown>) => leased.catch((error) => error.reason);

  it('is cut when the prefill does not start, and when the bytes do not land, to the millisecond', async () => {
    const { open, free, later, clock } = setUp();
    free(2);
    const [idle, slow] = [open('idle'), open('slow')];
    await Promise.all([idle.place.granted(), slow.place.granted()]);
    const ends = [idle, slow].map(({ place }) =>
      reasonOf(place.leased(never)).then((reason) => [reason, clock.nowMs()]),
    );
    await later(9000);
    slow.request.stamp('prefillStartedMs');
    await later(2500);
    slow.request.stamp('firstTokenMs');
    await later(60_000);
    expect(await Promise.all(ends)).toEqual([
      ['lease_expired', 10_000],
      ['overdue', 41_500],
    ]);
  });

  it.each(['waiting', 'refused', 'granted', 'leased'] as const)(
    'nothing of one that ends while it is %s is left',
    async (state) => {
      const { open, free, later, clock, room } = setUp();
      const { place, request } = open('a', 'just_in_time');
      if (state === 'granted' || state === 'leased') free(1);
      const granted = state === 'waiting' ? null : outcomeOf(place);
      const leased = state === 'leased' ? reasonOf(place.leased(never)) : null;
      await later(10);
      await place.end();
      request.cancel();
      await later(0);
      expect([clock.timers.size, room.waiterCount]).toEqual([0, 0]);
      if (state === 'refused') expect(await granted).toBe('unwanted');
      if (leased !== null) expect(await leased).toBe('unwanted');
    },
  );
});

it('a wait ends with the request, whatever it waits for', async () => {
  const { open } = setUp();
  const { request } = open('a');
  const never = new Promise<never>(() => {});
  expect(await request.orSettled(Promise.resolve(1))).toBe(1);
  await expect(request.orSettled(Promise.reject(new Error('no')))).rejects.toThrow('no');
  const waiting = request.orSettled(never);
  request.cancel();
  expect(await waiting).toBeNull();
  expect(await request.orSettled(never)).toBeNull();
});
