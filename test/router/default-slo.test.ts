/** The SLO of a request that brings none. */
import { expect, it } from 'vitest';
import { defaultSlo } from '../../src/router/default-slo.js';
import { prefillPairCountOf } from '../../src/router/step-work.js';
import { costs, facts, worker } from './workers.js';

const slower = (factor: number) => {
  const rowKnots = costs.step.rowKnots.map(({ rowCount, ms }) => ({ rowCount, ms: factor * ms }));
  return { costs: { ...costs, step: { ...costs.step, rowKnots } } };
};

it('is by hand five times the TTFT and twice the TPOT of an idle worker', () => {
  const { ttftMs, tpotMs } = defaultSlo(facts(), [worker('a', 'any')]);
  expect(ttftMs).toBeCloseTo(5 * (1 + 18.4 + 5050e-6 + 0.5), 6);
  expect(tpotMs).toBeCloseTo(2 * (10 + 0.05 + 100 * 1e-4), 6);
  const long = defaultSlo(facts({ promptTokenCount: 1024 }), [worker('a', 'any')]);
  expect(long.ttftMs).toBeCloseTo(5 * (1 + 2 * 59.6 + prefillPairCountOf(0, 1024) * 1e-6 + 0.5), 6);
});

it('does not depend on what the workers do, nor on prefixes they hold', () => {
  const idle = defaultSlo(facts(), [worker('a', 'any')]);
  const busy = defaultSlo(facts({ prefixTokenCounts: new Map() }), [
    worker('a', 'any', { queuedTokenCount: 5000, decodingCount: 60 }),
  ]);
  expect(busy).toEqual(idle);
});

it('is that of the fastest worker for each phase, among those whose role it is', () => {
  const idle = defaultSlo(facts(), [worker('a', 'any')]);
  expect(defaultSlo(facts(), [worker('s', 'any', slower(3)), worker('a', 'any')])).toEqual(idle);
  const apart = defaultSlo(facts(), [worker('p', 'prefill'), worker('d', 'decode', slower(3))]);
  expect(apart.ttftMs).toBe(idle.ttftMs);
  expect(apart.tpotMs).toBeCloseTo(2 * (30 + 0.05 + 100 * 1e-4), 6);
});

it('counts tokens that an earlier attempt has made: they are computed again', () => {
  expect(defaultSlo(facts({ outputTokenCount: 50 }), [worker('a', 'any')]).ttftMs).toBe(
    defaultSlo(facts({ promptTokenCount: 150 }), [worker('a', 'any')]).ttftMs,
  );
});
