/** Decisions are told in full, judged by what happened, and remembered within bounds. */
import { describe, expect, it } from 'vitest';
import { workerId } from '../../src/base/ids.js';
import { explanationText, planLine } from '../../src/cli/route-explanation.js';
import { errorsOf, PredictionErrors, realTimesOf } from '../../src/control/prediction-errors.js';
import { strideKeys } from '../../src/control/prefix-affinity.js';
import type { RequestRecord } from '../../src/control/request-record.js';
import { anyone } from '../../src/server/keys.js';
import { RecentRequests } from '../../src/server/recent-requests.js';
import { FakeCluster } from './fake-cluster.js';

async function served(strategy: 'adaptive' | 'disaggregated', count: number) {
  const cluster = new FakeCluster({ roles: ['any', 'any'], strategy });
  for (let i = 0; i < count; i++) await cluster.clock.drive(cluster.ask(`r${i}`, 64, 12));
  await cluster.clock.drive(cluster.settle());
  return cluster;
}

describe('a decision', () => {
  it('is told with inputs, estimates of the path taken, and what really happened', async () => {
    const cluster = await served('disaggregated', 2);
    const [record] = cluster.records;
    const [route] = record!.routes;
    expect(route?.inputs).toMatchObject({
      promptTokenCount: 64,
      uncachedTokenCount: 64,
      choiceCount: 1,
      prefillQueuedTokenCount: 0,
    });
    expect(route?.estimates.ttftMs).toBeGreaterThan(0);
    expect(route?.estimates.transferMs).toBeGreaterThan(0);
    const text = explanationText({ requests: [record!], routing: cluster.coordinator.routing });
    expect(text).toMatch(/attempt 1: disaggregated on w0 -> w1/);
    expect(text).toMatch(
      new RegExp(
        `time to first token +${route!.estimates.ttftMs!.toFixed(2)} +${realTimesOf(record!).ttftMs!.toFixed(2)}`,
      ),
    );
  });

  it('is told with the plan it was made within, and the plan in use', async () => {
    const cluster = await served('adaptive', 1);
    const { routing } = cluster.coordinator;
    expect([routing.plan, routing.prefillFirst]).toEqual(['collocated', []]);
    const text = explanationText({ requests: [cluster.records[0]!], routing });
    expect(text).toMatch(/^plan: collocated$/m);
    expect(text).toMatch(/^strategy adaptive, plan collocated$/m);
    expect(text).toMatch(/share of its TTFT SLO +0\.\d\d/);
    const first = { ...routing, plan: 'prefill-first 1:1', prefillFirst: [workerId('w1')] };
    expect(planLine(first)).toBe('strategy adaptive, plan prefill-first 1:1, prefill-first: w1');
    expect(planLine({ ...routing, plan: null })).toMatch(/no worker is live/);
    const apart = new FakeCluster({ roles: ['prefill', 'decode'], strategy: 'disaggregated' });
    await apart.clock.drive(apart.ask('r', 64, 12));
    await apart.clock.drive(apart.settle());
    expect(apart.coordinator.routing.plan).toBe('disaggregated 1:1');
    expect(apart.records[0]?.routes[0]?.plan).toBe('disaggregated 1:1');
  });

  it('is judged: errors by hand, with the real length and with the expected one', async () => {
    const cluster = await served('disaggregated', 1);
    const made = cluster.records[0]!;
    const estimates = { ttftMs: 20, transferMs: 4, joinMs: 1, stepMs: 10, e2elMs: 50 };
    const times = {
      arrivalMs: 0,
      firstTokenMs: 25,
      resumedMs: 30,
      exposedTransferMs: 5,
      doneMs: 125,
      outputTokenCount: 11,
    };
    const record: RequestRecord = { ...made, ...times, routes: [{ ...made.routes[0]!, estimates }] };
    const errors = errorsOf(record);
    expect(errors.ttft).toBeCloseTo(5 / 25, 9);
    expect(errors.transfer).toBeCloseTo(1 / 5, 9);
    expect(errors.tpot).toBeCloseTo(0.5 / 10, 9); // (4 + 1 + 100) / 10 against 100 / 10
    expect(errors.e2el).toBeCloseTo(0, 9); // 20 + 105 against 125
    expect(errors.e2elExpectedLength).toBeCloseTo(75 / 125, 9);
    expect(errorsOf({ ...record, routes: [...record.routes, ...record.routes] })).toEqual({});
  });

  it('is forgotten in time', async () => {
    const cluster = await served('adaptive', 1);
    const record = cluster.records[0]!;
    const errors = new PredictionErrors();
    let tell: (record: RequestRecord) => void = () => {};
    const recent = new RecentRequests({ onRequestDone: (listener) => (tell = listener) });
    for (let i = 0; i < 3000; i++) {
      errors.observe(record);
      tell(record);
    }
    expect(errors.summary.ttft.count).toBe(512);
    expect(recent.last(anyone, 10_000).length).toBe(1000);
    expect(recent.find(anyone, record.id).length).toBe(1000);
    expect(recent.find(anyone, 'nobody')).toEqual([]);
  });
});

it('with nobody left, nothing is counted anywhere', async () => {
  const cluster = await served('adaptive', 1);
  cluster.records.length = 0;
  await cluster.clock.drive(cluster.ask('last', 64, 4));
  await cluster.clock.drive(cluster.settle());
  const { inputs } = cluster.records[0]!.routes[0]!;
  expect(inputs.prefillQueuedTokenCount).toBe(0);
  expect(inputs.decodeDecodingCount).toBe(0);
  expect(inputs.decodeExpectedCount).toBe(0);
});

it('prompts under different salts have no beginning in common', () => {
  const promptIds = Array.from({ length: 256 }, (_, index) => index);
  const keys = [undefined, 'a', 'b', 'ab', 'ba'].map((salt) => strideKeys(promptIds, salt));
  expect(new Set(keys.flat()).size).toBe(5 * 4);
  expect(strideKeys(promptIds, 'a')).toEqual(keys[1]);
});
