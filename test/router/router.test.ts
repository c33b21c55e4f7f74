/** Policies respect roles, splits and load, fall back when a role has died out, and explain themselves. */
import { describe, expect, it } from 'vitest';
import type { WorkerId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import { effectiveRoles, validateStrategy } from '../../src/router/candidates.js';
import { chooseRoute } from '../../src/router/choose-route.js';
import type { Strategy } from '../../src/router/route.js';
import type { WorkerRole } from '../../src/router/snapshot.js';
import { facts, held, worker } from './workers.js';

describe('roles', () => {
  it('restrict the disaggregated path', () => {
    const workers = [worker('d', 'decode'), worker('p', 'prefill'), worker('d2', 'decode', { decodingCount: 2 })];
    for (const strategy of ['disaggregated', 'adaptive'] as const) {
      expect(chooseRoute(facts(), workers, strategy)).toMatchObject({
        path: 'disaggregated',
        prefillWorker: 'p',
        decodeWorker: 'd',
      });
    }
  });

  it('give way while one has no live worker, and say so', () => {
    const onlyDecode = [worker('d', 'decode'), worker('p', 'prefill', { isLive: false })];
    const onlyPrefill = [worker('d', 'decode', { isLive: false }), worker('p', 'prefill')];
    for (const strategy of ['disaggregated', 'adaptive', 'collocated'] as const) {
      const a = chooseRoute(facts(), onlyDecode, strategy);
      expect(a).toMatchObject({ path: 'collocated', worker: 'd' });
      expect(a?.reason).toMatch(/no live prefill worker/);
      expect(chooseRoute(facts(), onlyPrefill, strategy)).toMatchObject({ path: 'collocated', worker: 'p' });
    }
    const twoDecode = [worker('d', 'decode', { decodingCount: 3 }), worker('d2', 'decode')];
    expect(chooseRoute(facts(), twoDecode, 'disaggregated')).toMatchObject({ prefillWorker: 'd2', decodeWorker: 'd' });
  });

  it('none live: null', () => expect(chooseRoute(facts(), [worker('d', 'any', { isLive: false })], 'adaptive')).toBeNull());

  it('a split divides any workers', () => {
    expect(effectiveRoles(['any', 'any', 'any'], 'disaggregated', { prefillCount: 2, decodeCount: 1 })).toEqual([
      'prefill',
      'prefill',
      'decode',
    ]);
    expect(effectiveRoles(['any', 'any', 'any'], 'disaggregated', undefined)).toEqual(['prefill', 'decode', 'decode']);
    expect(effectiveRoles(['any', 'any'], 'adaptive', undefined)).toEqual(['any', 'any']);
    expect(effectiveRoles(['any', 'decode'], 'disaggregated', undefined)).toEqual(['any', 'decode']);
  });

  it.each<[WorkerRole[], Strategy, RegExp]>([
    [['prefill', 'decode'], 'collocated', /collocated .*prefill, decode/],
    [['any'], 'disaggregated', /disaggregated .*two workers.*any/],
    [['prefill', 'prefill'], 'adaptive', /may decode.*prefill, prefill/],
    [['decode'], 'disaggregated', /may prefill.*decode/],
  ])('%s with %s is refused naming both', (roles, strategy, message) => {
    expect(() => validateStrategy(roles, strategy, undefined)).toThrow(message);
  });

  it('a split that does not fit is refused', () => {
    const any2: WorkerRole[] = ['any', 'any'];
    expect(() => validateStrategy(any2, 'adaptive', { prefillCount: 1, decodeCount: 1 })).toThrow(/not adaptive/);
    expect(() => validateStrategy(any2, 'disaggregated', { prefillCount: 2, decodeCount: 1 })).toThrow(/every one of the 2/);
    expect(() => validateStrategy(['any', 'decode'], 'disaggregated', { prefillCount: 1, decodeCount: 1 })).toThrow(
      /any, decode/,
    );
    expect(() => validateStrategy(any2, 'disaggregated', { prefillCount: 1, decodeCount: 1 })).not.toThrow();
  });
});

describe('load', () => {
  it('collocated takes the least loaded worker, and the one that holds the prefix', () => {
    const workers = [
      worker('a', 'any', { queuedTokenCount: 500 }),
      worker('b', 'any', { decodingCount: 1 }),
      worker('c', 'prefill'),
    ];
    expect(chooseRoute(facts(), workers, 'collocated')).toMatchObject({ path: 'collocated', worker: 'b' });
    expect(chooseRoute(facts({ promptTokenCount: 900, ...held('a', 880) }), workers, 'collocated')).toMatchObject({
      worker: 'a',
    });
  });

  it('avoids a worker without room', () => {
    const full = worker('a', 'any', { decodingCount: 4, kvTokensEach: 4000, remainingEach: 500 });
    const workers = [full, worker('b', 'any', { decodingCount: 40 })];
    expect(chooseRoute(facts(), workers, 'collocated')).toMatchObject({ worker: 'b' });
  });

  it('a request with tokens already continues on a worker that may decode', () => {
    const workers = [worker('p', 'prefill'), worker('d', 'decode', { decodingCount: 9 })];
    const route = chooseRoute(facts({ outputTokenCount: 5 }), workers, 'disaggregated');
    expect(route).toMatchObject({ path: 'collocated', worker: 'd' });
    expect(route?.reason).toMatch(/after 5 tokens/);
  });
});

it('any live set and any load gives a route to live workers that the roles allow, with a reason', () => {
  const prng = new Prng(7);
  for (let round = 0; round < 2000; round++) {
    const workers = Array.from({ length: prng.integer(1, 5) }, (_, i) =>
      worker(`w${i}`, prng.pick(['any', 'prefill', 'decode'] as const), {
        isLive: prng.uniform() < 0.8,
        queuedTokenCount: prng.integer(0, 3000),
        decodingCount: prng.integer(0, 20),
      }),
    );
    const strategy = prng.pick(['collocated', 'disaggregated', 'adaptive'] as const);
    const route = chooseRoute(facts({ promptTokenCount: prng.integer(1, 4000) }), workers, strategy);
    const live = workers.filter((each) => each.isLive);
    expect(route === null).toBe(live.length === 0);
    if (route === null) continue;
    const find = (id: WorkerId) => live.find((each) => each.id === id)!;
    expect(route.reason.length).toBeGreaterThan(5);
    if (route.path === 'collocated') expect(find(route.worker)).toBeDefined();
    else {
      expect(route.prefillWorker).not.toBe(route.decodeWorker);
      const canAll = live.some((each) => each.role !== 'decode') && live.some((each) => each.role !== 'prefill');
      if (canAll) expect(find(route.prefillWorker).role).not.toBe('decode');
      if (canAll) expect(find(route.decodeWorker).role).not.toBe('prefill');
    }
  }
});
