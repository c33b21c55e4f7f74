/** The load generator on virtual time: when requests leave, what is recorded, and that nothing is lost. */
import { describe, expect, it } from 'vitest';
import { lengthClassOf, type PlannedRequest, tpotMsOf, ttftMsOf } from '../../src/bench/load-record.js';
import { type RunOptions, runLoad } from '../../src/bench/run.js';
import { FakeClient, type FakeService, VirtualClock } from './virtual-clock.js';

function planned(times: readonly (number | 'asap')[], wantedTokenCount = 4): PlannedRequest[] {
  return times.map((at, index) => ({
    index,
    at,
    prompt: { kind: 'ids', ids: [1, 2] },
    promptTokenCount: 2,
    wantedTokenCount,
    maxTokenCount: 9,
  }));
}

async function run(
  plan: readonly PlannedRequest[],
  service: (request: PlannedRequest) => FakeService,
  options: Partial<RunOptions> = {},
) {
  const clock = new VirtualClock();
  const client = new FakeClient(clock, service);
  const records = await clock.drive(
    runLoad(plan, client, {
      clock,
      concurrencyMax: Number.POSITIVE_INFINITY,
      warmupMs: 0,
      warmupRequestCount: 0,
      drainMs: 60_000,
      durationMs: Number.POSITIVE_INFINITY,
      ...options,
    }),
  );
  return { records, client };
}

describe('runLoad', () => {
  it('sends at the planned times, however long answers take', async () => {
    const times = [0, 5, 5, 30, 31];
    const { records } = await run(planned(times), () => ({ ttftMs: 500, gapMs: 100 }));
    expect(records.map(({ sentMs }) => sentMs)).toEqual(times);
    expect(records.map(({ delayMs }) => delayMs)).toEqual([0, 0, 0, 0, 0]);
    expect(records.map(({ inFlightCount }) => inFlightCount)).toEqual([0, 1, 2, 3, 4]);
    for (const record of records) {
      expect(ttftMsOf(record)).toBe(500);
      expect(tpotMsOf(record)).toBe(100);
      expect(record.gapsMs).toEqual([100, 100, 100]);
      expect(record.endMs - record.sentMs).toBe(800);
    }
  });

  it('is serial with one slot, and waiting for it is not the generator being late', async () => {
    const { records } = await run(planned([0, 1, 2]), () => ({ ttftMs: 10, gapMs: 10 }), {
      concurrencyMax: 1,
    });
    expect(records.map(({ sentMs }) => sentMs)).toEqual([0, 40, 80]);
    expect(records.map(({ scheduledMs }) => scheduledMs)).toEqual([0, 1, 2]);
    expect(records.map(({ delayMs }) => delayMs)).toEqual([0, 0, 0]);
    const asap = await run(planned(['asap', 'asap', 'asap']), () => ({ ttftMs: 10, gapMs: 10 }), {
      concurrencyMax: 2,
    });
    expect(asap.records.map(({ sentMs }) => sentMs)).toEqual([0, 0, 40]);
    expect(asap.records.map(({ scheduledMs }) => scheduledMs)).toEqual([0, 0, 40]);
  });

  it('tells its own lateness', async () => {
    const clock = new VirtualClock();
    const client = new FakeClient(clock, () => ({ ttftMs: 1, gapMs: 1 }));
    const slow = { prepare: (request: PlannedRequest) => client.prepare(request) };
    const plan = planned([0, 10, 20]);
    const late = {
      nowMs: () => clock.nowMs(),
      wallMs: () => clock.wallMs(),
      after: (delayMs: number, fire: () => void) => clock.after(delayMs, fire),
      yield: () => clock.yield(),
      sleep: (delayMs: number) => clock.sleep(delayMs + 7),
    };
    const options = {
      concurrencyMax: 10,
      warmupMs: 0,
      warmupRequestCount: 0,
      drainMs: 100,
      durationMs: 1000,
    };
    const records = await clock.drive(runLoad(plan, slow, { clock: late, ...options }));
    expect(records.map(({ delayMs }) => delayMs)).toEqual([0, 7, 7]);
  });

  it('records what is cut at the end of the drain time', async () => {
    const { records } = await run(
      planned([0, 100]),
      ({ index }) => ({ ttftMs: index === 0 ? 20 : 1000, gapMs: 10 }),
      {
        drainMs: 300,
      },
    );
    expect(records.map(({ outcome }) => outcome)).toEqual(['completed', 'unfinished']);
    expect(records[1]!.endMs).toBe(400);
    expect(records[1]!.firstTokenMs).toBeUndefined();
  });

  it('separates warm-up by time and by count', async () => {
    const service = () => ({ ttftMs: 1, gapMs: 1 });
    const byTime = await run(planned([0, 50, 100, 150]), service, { warmupMs: 100 });
    expect(byTime.records.map(({ phase }) => phase)).toEqual(['warmup', 'warmup', 'measured', 'measured']);
    const byCount = await run(planned([0, 50, 100, 150]), service, { warmupRequestCount: 3 });
    expect(byCount.records.map(({ phase }) => phase)).toEqual(['warmup', 'warmup', 'warmup', 'measured']);
  });

  it('has one record for every request sent, whatever became of it', async () => {
    const outcomes = ['completed', 'rejected', 'failed'] as const;
    const times = Array.from({ length: 60 }, (_, i) => i * 7);
    const { records, client } = await run(planned(times), ({ index }) => ({
      ttftMs: 3 + (index % 5) * 40,
      gapMs: 2,
      outcome: outcomes[index % 3]!,
    }));
    expect(client.sent).toHaveLength(60);
    expect(records.map(({ index }) => index).sort((a, b) => a - b)).toEqual(times.map((_, i) => i));
    expect(records.filter(({ outcome }) => outcome === 'rejected')).toHaveLength(20);
  });

  it('a stop from outside sends no more and records the open ones as unfinished', async () => {
    const stop = new AbortController();
    const { records, client } = await run(
      planned([0, 10, 20, 30]),
      ({ index }) => {
        if (index === 1) stop.abort();
        return { ttftMs: 100, gapMs: 1 };
      },
      { signal: stop.signal },
    );
    expect(client.sent).toHaveLength(2);
    expect(records.map(({ outcome }) => outcome)).toEqual(['unfinished', 'unfinished']);
  });
});

describe('lengthClassOf', () => {
  it.each([
    [1, 'short'],
    [256, 'short'],
    [257, 'medium'],
    [1023, 'medium'],
    [1024, 'long'],
    [2048, 'long'],
    [2049, 'huge'],
  ] as const)('%d is %s', (count, name) => expect(lengthClassOf(count)).toBe(name));
});
