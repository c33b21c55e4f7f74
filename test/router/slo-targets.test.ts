/** What an operator may say of SLOs, and what it becomes for one request. */
import { expect, it } from 'vitest';
import { parseSloSpec, sloFrom, usualSloSpec } from '../../src/router/slo-spec.js';

const unloaded = { ttftMs: 40, tpotMs: 6 };
const sloOf = (text: string) => sloFrom(parseSloSpec(text, '--slo'), unloaded);

it.each([
  ['ttft:500,tpot:50', { ttftMs: 500, tpotMs: 50 }],
  ['ttft:500ms, tpot:2.5', { ttftMs: 500, tpotMs: 2.5 }],
  ['ttft:3x,tpot:1.5x', { ttftMs: 120, tpotMs: 9 }],
  ['tpot:50', { ttftMs: 200, tpotMs: 50 }], // what is not named is 5 × and 2 ×
  ['e2el:20000,ttft:.5x', { ttftMs: 20, tpotMs: 12, e2elMs: 20_000 }],
])('%s', (text, slo) => expect(sloOf(text)).toEqual(slo));

it('is five and two times what a request takes alone by default', () =>
  expect(sloFrom(usualSloSpec, unloaded)).toEqual({ ttftMs: 200, tpotMs: 12 }));

it('what is not named is as in the base', () => {
  const base = parseSloSpec('ttft:100,tpot:10,e2el:900', '--slo');
  expect(sloFrom(parseSloSpec('tpot:3x', 'premium', base), unloaded)).toEqual({
    ttftMs: 100,
    tpotMs: 18,
    e2elMs: 900,
  });
});

it.each([
  '',
  'ttft',
  'ttft:',
  'ttft:0',
  'ttft:-1',
  'ttft:1e3',
  'ttft:NaN',
  'itl:5',
  'ttft:5,ttft:6',
  'ttft:3600001',
  'tpot:20000x',
  'e2el:3x',
  'ttft:5 tpot:6',
])('refuses "%s" with a sentence', (text) =>
  expect(() => parseSloSpec(text, '--slo')).toThrow(/^--slo .*expected ttft:MS,tpot:MS,e2el:MS/),
);
