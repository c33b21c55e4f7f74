/** A plan says who may do what: roles, strategies, splits, dead roles and prefill-first workers all come down
 *  to it. */
import { describe, expect, it } from 'vitest';
import { workerId } from '../../src/base/ids.js';
import { alone, effectiveRoles, type Plan, planOf, validateStrategy } from '../../src/router/plan.js';
import type { Strategy } from '../../src/router/route.js';
import type { WorkerRole } from '../../src/router/snapshot.js';
import { worker } from './workers.js';

const dead = { isLive: false };
const strategies: readonly Strategy[] = ['collocated', 'disaggregated', 'adaptive'];
/** Ids only. */
const told = (plan: Plan | null) =>
  plan && {
    name: plan.name,
    collocated: plan.collocated.map(({ id }) => id),
    prefill: plan.prefill.map(({ id }) => id),
    decode: plan.decode.map(({ id }) => id),
  };

describe('what a strategy allows', () => {
  const two = [worker('a', 'any'), worker('b', 'any')];
  const given = [worker('p', 'prefill'), worker('d', 'decode'), worker('d2', 'decode')];

  it('collocated: workers of role any, each from prompt to end', () => {
    const workers = [...two, worker('p', 'prefill')];
    expect(told(planOf(workers, 'collocated'))).toEqual({
      name: 'collocated',
      collocated: ['a', 'b'],
      prefill: [],
      decode: [],
    });
  });

  it('disaggregated: prompts on one side, decodes on the other', () => {
    const plan = { name: 'disaggregated 1:2', collocated: [], prefill: ['p'], decode: ['d', 'd2'] };
    expect(told(planOf(given, 'disaggregated'))).toEqual(plan);
  });

  it('disaggregated with workers of any role beside those of a side: they are that side that has none, or decode', () => {
    expect(told(planOf([worker('a', 'any'), worker('d', 'decode')], 'disaggregated'))).toMatchObject({
      prefill: ['a'],
      decode: ['a', 'd'], // choose-route.ts never pairs a worker with itself
    });
    expect(told(planOf([worker('a', 'any'), worker('p', 'prefill')], 'disaggregated'))).toMatchObject({
      prefill: ['p'],
      decode: ['a'],
    });
  });

  it('adaptive: collocated until some are prefill-first, who then compute prompts for the others', () => {
    expect(told(planOf(two, 'adaptive'))).toEqual({
      name: 'collocated',
      collocated: ['a', 'b'],
      prefill: [],
      decode: [],
    });
    expect(told(planOf(two, 'adaptive', new Set([workerId('b')])))).toEqual({
      name: 'prefill-first 1:1',
      collocated: ['a'],
      prefill: ['b'],
      decode: ['a'],
    });
  });

  it('adaptive with given roles: the sides of disaggregated, and whole requests on workers of any role', () => {
    expect(told(planOf(given, 'adaptive'))).toMatchObject({ name: 'disaggregated 1:2', collocated: [] });
    expect(told(planOf([...given, worker('a', 'any')], 'adaptive'))).toEqual({
      name: 'prefill-first 1:3',
      collocated: ['a'],
      prefill: ['p'],
      decode: ['d', 'd2', 'a'],
    });
  });
});

describe('workers that are not live', () => {
  it('are in no plan; with none live there is no plan', () => {
    const workers = [worker('a', 'any', dead), worker('b', 'any')];
    for (const strategy of strategies)
      for (const id of ['a', 'b'])
        expect(JSON.stringify(told(planOf(workers, strategy, new Set([workerId(id)]))))).not.toContain('"a"');
    expect(planOf([worker('a', 'any', dead)], 'adaptive')).toBeNull();
    expect(planOf([], 'adaptive')).toBeNull();
  });

  it('while nobody is live who could prefill, or decode, any live worker does everything, and the plan says so', () => {
    const [onlyDecode, onlyPrefill] = [
      [worker('d', 'decode'), worker('p', 'prefill', dead)],
      [worker('d', 'decode', dead), worker('p', 'prefill')],
    ];
    for (const strategy of strategies) {
      expect(told(planOf(onlyDecode, strategy))).toMatchObject({
        name: expect.stringMatching(/no live prefill/),
        collocated: ['d'],
      });
      expect(told(planOf(onlyPrefill, strategy))).toMatchObject({
        name: expect.stringMatching(/no live decode/),
        collocated: ['p'],
      });
    }
  });
});

it('a route that is one worker from the beginning has a plan as well', () => {
  expect(told(alone([worker('a', 'any')], 'recompute'))).toEqual({
    name: 'recompute',
    collocated: ['a'],
    prefill: [],
    decode: [],
  });
});

describe('roles', () => {
  it('a split divides any workers', () => {
    const any3: WorkerRole[] = ['any', 'any', 'any'];
    expect(effectiveRoles(any3, 'disaggregated', { prefillCount: 2, decodeCount: 1 })).toEqual([
      'prefill',
      'prefill',
      'decode',
    ]);
    expect(effectiveRoles(any3, 'disaggregated', undefined)).toEqual(['prefill', 'decode', 'decode']);
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
    const one = { prefillCount: 1, decodeCount: 1 };
    expect(() => validateStrategy(any2, 'adaptive', one)).toThrow(/not adaptive/);
    expect(() => validateStrategy(any2, 'disaggregated', { prefillCount: 2, decodeCount: 1 })).toThrow(
      /every one of the 2/,
    );
    expect(() => validateStrategy(['any', 'decode'], 'disaggregated', one)).toThrow(/any, decode/);
    expect(() => validateStrategy(any2, 'disaggregated', one)).not.toThrow();
  });
});
