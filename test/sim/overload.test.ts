/** More than the workers can serve in time, on virtual time: who is served, who is refused, and when it is
 *  told to come back. */
import { describe, expect, it } from 'vitest';
import type { PlannedRequest } from '../../src/bench/load-record.js';
import type { RequestRecord } from '../../src/control/request-record.js';
import { parseSloSpec } from '../../src/router/slo-spec.js';
import { timesFromProfiles } from '../../src/sim/profile-times.js';
import { type SimulationOptions, simulate } from '../../src/sim/simulation.js';
import { cluster, load, requestAt, settings, syntheticProfile } from './clusters.js';

const tokenCount = 3000; // a prompt of about 66 ms
// faster than they can be served
const burst = (count: number) =>
  Array.from({ length: count }, (_, index) => requestAt(2 * index, tokenCount, 2, index));

async function run(options: Partial<SimulationOptions>, plan: readonly PlannedRequest[]) {
  const done = new Map<string, RequestRecord>();
  const { records } = await simulate(
    cluster('any:cpu', 'collocated', {
      timesOf: timesFromProfiles([syntheticProfile()])(1),
      profileOf: () => syntheticProfile(),
      settings: { ...settings, prefixCaching: 'off', blockCount: 65_536 },
      onRequestDone: (record) => done.set(record.id, record),
      ...options,
    }),
    plan,
    load,
  );
  const served = records.filter(({ outcome }) => outcome === 'completed');
  const refused = records.filter(({ outcome }) => outcome === 'rejected');
  return { records, served, refused, done: [...done.values()] };
}

const slo = parseSloSpec('ttft:1000,tpot:100', '--slo');

describe('beyond what can be served in time', () => {
  it('shed refuses the rest, and who is served is in time', async () => {
    const { served, refused, done } = await run({ onOverload: 'shed', slo }, burst(60));
    expect(served.length).toBeGreaterThan(8);
    expect(refused.length).toBeGreaterThan(30);
    const met = done.filter(({ sloMet }) => sloMet?.ttft === true).length;
    expect(met).toBeGreaterThanOrEqual(0.9 * served.length);
    expect(
      done.filter(({ errorCode }) => errorCode === 'overloaded').every(({ sloMet }) => sloMet?.all === false),
    ).toBe(true);
  });

  it('late serves all, those who can be in time first', async () => {
    const { served, done } = await run({ onOverload: 'late', slo }, burst(60));
    expect(served).toHaveLength(60);
    const late = done.filter(({ isLate }) => isLate);
    const inTime = done.filter(({ isLate }) => !isLate);
    expect(late.length).toBeGreaterThan(30);
    const firstOf = ({ firstTokenMs = Number.NaN }: RequestRecord) => firstTokenMs;
    const before = inTime.filter((each) => firstOf(each) < Math.min(...late.map(firstOf))).length;
    expect(before).toBeGreaterThanOrEqual(0.9 * inTime.length);
    expect(inTime.filter(({ sloMet }) => sloMet?.ttft).length).toBeGreaterThanOrEqual(0.9 * inTime.length);
  });

  it('what is predicted for a late one counts everybody before it', async () => {
    const { done } = await run({ onOverload: 'late', slo }, burst(60));
    const errors = done
      .filter(({ isLate }) => isLate)
      .map(
        ({ routes, firstTokenMs = Number.NaN, arrivalMs }) =>
          (routes[0]?.estimates.ttftMs ?? 0) / (firstTokenMs - arrivalMs),
      );
    const sorted = errors.sort((a, b) => a - b);
    expect(sorted[Math.floor(sorted.length / 2)]).toBeGreaterThan(0.7);
    expect(sorted[Math.floor(sorted.length / 2)]).toBeLessThan(1.4);
  });

  it('late refuses who would wait longer than the bound, and nobody taken in waits much longer', async () => {
    const { served, refused } = await run(
      { onOverload: 'late', slo, limits: { waitMsMax: 2000 } },
      burst(100),
    );
    expect(refused.length).toBeGreaterThan(40);
    expect(served.length).toBeGreaterThan(20);
    const longest = Math.max(...served.map(({ firstTokenMs = 0, sentMs }) => firstTokenMs - sentMs));
    expect(longest).toBeLessThan(1.5 * 2000);
  });

  it('an SLO that nothing could keep is served, late', async () => {
    const plan = [{ ...requestAt(0, tokenCount, 2), slo: { ttftMs: 1 } }];
    const { served, done } = await run({ onOverload: 'shed', slo }, plan);
    expect(served).toHaveLength(1);
    expect(done[0]).toMatchObject({ isLate: true, slo: { ttftMs: 1, tpotMs: 100 }, sloMet: { ttft: false } });
  });
});

it('who comes back when it was told to is in time, and who comes sooner is not', async () => {
  const patient = burst(60).map((each) => ({ ...each, slo: { ttftMs: 60_000 } }));
  const probe = (at: number, index: number) => ({
    ...requestAt(at, tokenCount, 2, index),
    slo: { ttftMs: 1000 },
  });
  const pacing = {
    settings: { ...settings, prefixCaching: 'off', pacing: 'off', blockCount: 65_536 },
  } as const;
  const options = { ...pacing, onOverload: 'shed', slo } as const;
  const first = await run(options, [...patient, probe(1, 100)]);
  const [refusal] = first.refused;
  expect(first.refused).toHaveLength(1);
  const retryMs = 1000 * Number(/retry in (\d+) s/.exec(refusal?.error ?? '')?.[1]);
  expect(retryMs).toBeGreaterThan(1000);
  const { done } = await run(options, [
    ...patient,
    probe(1, 100),
    probe(retryMs - 1500, 101),
    probe(1 + retryMs, 102),
  ]);
  const outcomeOf = (id: string) => done.find((record) => record.id === id);
  expect(outcomeOf('r101')?.errorCode).toBe('overloaded');
  expect(outcomeOf('r102')?.sloMet).toMatchObject({ ttft: true });
});

describe('at three times what can be served', () => {
  const premium = { name: 'premium', reservedShare: 0.25, priority: 100 };
  const free = { name: 'free', reservedShare: 0, priority: 10 };
  const isPremium = (index: number) => index % 10 === 0;
  const classOf = ({ index }: PlannedRequest) => (isPremium(index) ? premium : free);
  const plan = Array.from({ length: 400 }, (_, index) => requestAt(7 * index, 600, 24, index));

  it.each([
    { what: 'late, memory for all', onOverload: 'late', blockCount: 65_536 },
    { what: 'late, memory for few', onOverload: 'late', blockCount: 400 },
    { what: 'shed, memory for all', onOverload: 'shed', blockCount: 65_536 },
    { what: 'shed, memory for few', onOverload: 'shed', blockCount: 400 },
  ] as const)(
    'a class within its reservation is never refused, and served in time: $what',
    async ({ onOverload, blockCount }) => {
      const serving = { ...settings, prefixCaching: 'off', sequenceCountMax: 16, blockCount } as const;
      const options = {
        onOverload,
        slo: parseSloSpec('ttft:1000,tpot:100', '--slo'),
        settings: serving,
        classOf,
      } as const;
      const { refused, done } = await run({ ...options, limits: { requestCountMax: null } }, plan);
      expect(refused.filter(({ index }) => !isPremium(index)).length).toBeGreaterThan(100);
      expect(refused.filter(({ index }) => isPremium(index))).toEqual([]);
      const ofPremium = done.filter(({ serviceClass }) => serviceClass === 'premium');
      expect(ofPremium).toHaveLength(40);
      expect(ofPremium.filter(({ sloMet }) => sloMet?.ttft).length).toBeGreaterThanOrEqual(38);
    },
  );
});

describe('one tenant that floods', () => {
  const isFlood = (index: number) => index % 10 !== 0;
  const ownerOf = ({ index }: PlannedRequest) => (isFlood(index) ? 'flood' : 'polite');
  const plan = Array.from({ length: 400 }, (_, index) => requestAt(7 * index, 600, 24, index));
  const served = async (owners: Partial<SimulationOptions>, onOverload: 'late' | 'shed') => {
    const serving = { ...settings, prefixCaching: 'off', sequenceCountMax: 64, blockCount: 65_536 } as const;
    const options = {
      onOverload,
      slo: parseSloSpec('ttft:400,tpot:100', '--slo'),
      settings: serving,
    } as const;
    const { done } = await run({ ...options, ...owners }, plan);
    const met = (isOne: (index: number) => boolean) =>
      done.filter(({ id, sloMet }) => isOne(Number(id.slice(1))) && sloMet?.all === true).length;
    return { flood: met(isFlood), polite: met((index) => !isFlood(index)) };
  };

  it.each(['late', 'shed'] as const)(
    'keeps its own requests from being in time, not those of another: %s',
    async (policy) => {
      const unknown = await served({}, policy);
      const known = await served({ ownerOf }, policy);
      expect(unknown.polite).toBeLessThan(30); // of 40: the overload is everybody's
      expect(known.polite).toBeGreaterThanOrEqual(36);
      expect(known.flood + known.polite).toBeGreaterThan(0.9 * (unknown.flood + unknown.polite));
    },
  );
});
