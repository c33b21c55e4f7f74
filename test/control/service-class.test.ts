/** Classes of requests: in which order they are served, and what admission keeps for each. */
import { describe, expect, it } from 'vitest';
import { requestId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import { Admission, OverloadedError, type Place } from '../../src/control/admission.js';
import { classPriorityMax, type ServiceClass, servingOrder } from '../../src/control/service-class.js';
import { WorkerLoad } from '../../src/router/worker-load.js';

const premium: ServiceClass = { name: 'premium', reservedShare: 0.25, priority: 100 };
const free: ServiceClass = { name: 'free', reservedShare: 0, priority: 10 };

function admission(claimedTokenCount = 0) {
  const capacity = { slotCount: 16, slotCountMax: 16, tokenCount: 1000 };
  return new Admission({
    choiceCountMax: null,
    capacity: () => capacity,
    claimedTokenCount: () => claimedTokenCount,
  });
}
const bundle = (serviceClass?: ServiceClass, choiceCount = 1) => ({
  promptCount: 1,
  choiceCount,
  ...(serviceClass === undefined ? {} : { serviceClass }),
});

describe('order', () => {
  it('is by class, then by what the request says', () => {
    const orders = [
      servingOrder(-1e15, premium),
      servingOrder(5, premium),
      servingOrder(1e15, premium),
      servingOrder(-1e15, free),
      servingOrder(1e15, free),
      servingOrder(0, undefined),
    ];
    expect(orders).toEqual([...orders].sort((a, b) => a - b));
    expect(new Set(orders).size).toBe(orders.length);
  });

  it('is exact to the last class and priority', () => {
    for (const priority of [-classPriorityMax, 0, classPriorityMax]) {
      const one = { ...free, priority };
      expect(Number.isSafeInteger(servingOrder(2 ** 30, one))).toBe(true);
      expect(servingOrder(1, one) - servingOrder(0, one)).toBe(1);
    }
    expect(servingOrder(7, undefined)).toBe(7);
  });
});

describe('a reservation', () => {
  it('is kept though others hold everything, and no more than it', () => {
    const door = admission();
    for (let i = 0; i < 32; i++) door.enter(bundle(free));
    expect(() => door.check(free)).toThrow(OverloadedError);
    for (let i = 0; i < 8; i++) {
      door.check(premium);
      door.enter(bundle(premium));
    }
    expect(() => door.check(premium)).toThrow(OverloadedError);
    expect(() => door.enter(bundle(premium))).toThrow(OverloadedError);
  });

  it('holds for all choices of a request or none of them', () => {
    const door = admission();
    for (let i = 0; i < 32; i++) door.enter(bundle(free));
    expect(() => door.enter(bundle(premium, 9))).toThrow(OverloadedError);
    door.enter(bundle(premium, 8));
  });

  it('holds for memory too', () => {
    const door = admission(5000);
    door.enter(bundle(free));
    expect(() => door.enter(bundle(free))).toThrow(/KV memory/);
    door.enter(bundle(premium));
  });

  it('keeps nothing from others while it is not used', () => {
    const door = admission();
    for (let i = 0; i < 32; i++) door.enter(bundle(i % 2 === 0 ? free : undefined));
    expect(() => door.enter(bundle())).toThrow(OverloadedError);
  });

  it('is given back with the place', () => {
    const door = admission();
    for (let i = 0; i < 32; i++) door.enter(bundle(free));
    const places = Array.from({ length: 8 }, () => door.enter(bundle(premium)));
    expect(() => door.enter(bundle(premium))).toThrow(OverloadedError);
    places[3]?.leave();
    door.enter(bundle(premium));
  });

  it('at three times what can be held nobody within it is ever refused, and all that is held is bounded', () => {
    const door = admission();
    const prng = new Prng(3);
    const held: { readonly place: Place; readonly isPremium: boolean }[] = [];
    const counts = { premium: 0, freeRefused: 0 };
    for (let i = 0; i < 5000; i++) {
      const premiumCount = held.filter(({ isPremium }) => isPremium).length;
      const isPremium = prng.uniform() < 0.2 && premiumCount < 8;
      try {
        held.push({ place: door.enter(bundle(isPremium ? premium : free)), isPremium });
        if (isPremium) counts.premium++;
      } catch (error) {
        expect(error).toBeInstanceOf(OverloadedError);
        expect(isPremium).toBe(false);
        counts.freeRefused++;
      }
      expect(held.length).toBeLessThanOrEqual(32 + 8);
      if (i % 3 === 0) held.splice(Math.floor(prng.uniform() * held.length), 1)[0]?.place.leave();
    }
    expect(counts.premium).toBeGreaterThan(100);
    expect(counts.freeRefused).toBeGreaterThan(2500);
  });
});

it('what a prompt waits for is what is served before it: higher classes, then what is due first; late ones for all but lower classes', () => {
  const load = new WorkerLoad();
  const add = (id: string, tokenCount: number, dueMs: number, priority: number) =>
    load.addPrompt(
      requestId(id),
      { tokenCount, pairCount: 0, prefillMs: 10, addedMs: 0, dueMs, priority },
      0,
    );
  add('above', 1, 900, -1);
  add('before', 10, 400, 0);
  add('after', 100, 600, 0);
  add('late', 1000, -1, 0);
  add('below', 10_000, 1, 1);
  expect(load.dueBefore(0, 500, 0).tokenCount).toBe(11);
  expect(load.dueBefore(0, 500).tokenCount).toBe(11);
  expect(load.dueBefore(0, 500, -1).tokenCount).toBe(0);
  expect(load.queuedUpTo(0, 0).tokenCount).toBe(1111);
  expect(load.queuedUpTo(0, 1).tokenCount).toBe(11_111);
});
