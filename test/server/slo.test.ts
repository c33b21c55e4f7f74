/** SLOs over HTTP: what a request says in headers and body, what is refused, refusals before anything is
 *  sent, and the metrics. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { requestId } from '../../src/base/ids.js';
import { OverloadedError } from '../../src/control/admission.js';
import type { RequestRecord } from '../../src/control/request-record.js';
import { answerOf } from './answers.js';
import { say, startTestServer, type TestServer } from './demo-server.js';

let test: TestServer;
beforeAll(async () => {
  test = await startTestServer(say('hello'), { http: { strictFields: true } });
});
afterAll(() => test.close());
beforeEach(() => {
  test.gateway.refusal = null;
});

const messages = [{ role: 'user', content: 'Hi' }];
const endpoints = [
  ['/v1/chat/completions', { messages }],
  ['/v1/completions', { prompt: 'Hi' }],
] as const;

async function sloOf(route: string, body: object, headers: Record<string, string> = {}) {
  const response = await test.post(route, body, headers);
  expect(response.status).toBe(200);
  return test.gateway.submitted.at(-1)?.slo;
}

describe.each(endpoints)('%s', (route, body) => {
  it('takes an SLO from headers, from the body, and the body before the headers', async () => {
    const headers = { 'x-slo-ttft-ms': '500', 'x-slo-e2el-ms': '9000.5' };
    expect(await sloOf(route, body)).toEqual({});
    expect(await sloOf(route, body, headers)).toEqual({ ttftMs: 500, e2elMs: 9000.5 });
    expect(await sloOf(route, { ...body, slo: { tpot_ms: 20 } })).toEqual({ tpotMs: 20 });
    const both = { ...body, slo: { ttft_ms: 100, tpot_ms: 20, e2el_ms: null } };
    expect(await sloOf(route, both, headers)).toEqual({ ttftMs: 100, tpotMs: 20, e2elMs: 9000.5 });
    expect(await sloOf(route, { ...body, slo: null })).toEqual({});
  });

  it.each(['0', '-5', 'fast', '', '1e3', 'NaN', 'Infinity', '3600001', '5, 6', '9'.repeat(5000)])(
    'refuses the header %s by its name',
    async (value) => {
      const countBefore = test.gateway.submitted.length;
      const response = await test.post(route, body, { 'x-slo-tpot-ms': value });
      expect(response.status).toBe(400);
      const { error } = await answerOf(response);
      expect(error).toMatchObject({ param: 'x-slo-tpot-ms', type: 'invalid_request_error' });
      expect(error.message).toMatch(
        /^x-slo-tpot-ms: expected milliseconds above 0 and up to 3600000, not ".{0,33}"$/,
      );
      expect(test.gateway.submitted).toHaveLength(countBefore);
    },
  );

  it.each([
    [{ ttft_ms: 0 }, 'slo.ttft_ms', />0/],
    [{ tpot_ms: -1 }, 'slo.tpot_ms', />0/],
    [{ e2el_ms: '5' }, 'slo.e2el_ms', /expected number/],
    [{ ttft_ms: 3_600_001 }, 'slo.ttft_ms', /<=3600000/],
    [{ itl_ms: 5 }, 'slo.itl_ms', /unknown field/],
    [5, 'slo', /expected object/],
  ])('refuses the body field %j', async (slo, param, message) => {
    const response = await test.post(route, { ...body, slo });
    expect(response.status).toBe(400);
    const { error } = await answerOf(response);
    expect(error.param).toBe(param);
    expect(error.message).toMatch(message);
  });

  it.each([true, false])('a refusal for overload has its status and its time, stream %s', async (stream) => {
    test.gateway.refusal = new OverloadedError('the first token would take 6200 ms', 5200);
    const response = await test.post(route, { ...body, stream });
    expect(response.status).toBe(429);
    expect(response.headers.get('retry-after')).toBe('6');
    expect(response.headers.get('content-type')).toMatch(/json/);
    expect((await answerOf(response)).error).toMatchObject({
      message: 'the first token would take 6200 ms; retry in 6 s',
      code: 'rate_limit_exceeded',
    });
  });
});

describe('classes', () => {
  const premium = { name: 'premium', reservedShare: 0.1, priority: 100 };
  const free = { name: 'free', reservedShare: 0, priority: 1 };
  const classRules = [
    { header: { name: 'x-customer-tier', value: 'premium' }, serviceClass: premium },
    { header: null, serviceClass: free },
  ];
  let classed: TestServer;
  beforeAll(async () => {
    classed = await startTestServer(say('hello'), { http: { classRules } });
  });
  afterAll(() => classed.close());

  it.each(endpoints)(
    '%s is asked for by its class before its body is read, when it is taken in, and when it is served',
    async (route, body) => {
      const { gateway } = classed;
      for (const [headers, serviceClass] of [
        [{ 'x-customer-tier': 'premium' }, premium],
        [{ 'x-customer-tier': 'Premium' }, free],
        [{}, free],
      ] as const) {
        gateway.classesAsked.length = 0;
        expect((await classed.post(route, body, headers as Record<string, string>)).status).toBe(200);
        expect(gateway.classesAsked).toEqual([serviceClass.name, serviceClass.name]);
        expect(gateway.submitted.at(-1)?.serviceClass).toEqual(serviceClass);
      }
    },
  );

  it('of none where there are no rules', async () => {
    test.gateway.classesAsked.length = 0;
    await test.post('/v1/completions', { prompt: 'Hi' }, { 'x-customer-tier': 'premium' });
    expect(test.gateway.classesAsked).toEqual([undefined, undefined]);
    expect(test.gateway.submitted.at(-1)?.serviceClass).toBeUndefined();
  });
});

it('counts what was judged, met, late and refused, and tells it at /routes', async () => {
  const made: RequestRecord = {
    id: requestId('a'),
    outcome: 'finished',
    isMeasurement: false,
    isLate: false,
    routes: [],
    promptTokenCount: 5,
    cachedTokenCount: 0,
    outputTokenCount: 2,
    finishReasons: ['stop'],
    arrivalMs: 0,
    firstTokenMs: 5,
    doneMs: 9,
    transferBytes: 0,
    exposedTransferMs: 0,
    reservationWaitMs: 0,
    handOverFailures: [],
    lossCount: 0,
    slo: { ttftMs: 10, tpotMs: 3 },
    sloMet: { ttft: true, tpot: false, e2el: true, all: false },
  };
  const records: RequestRecord[] = [
    made,
    { ...made, sloMet: { ttft: true, tpot: true, e2el: true, all: true } },
    {
      ...made,
      isLate: true,
      outcome: 'failed',
      errorCode: 'overloaded',
      sloMet: { ttft: false, tpot: false, e2el: false, all: false },
    },
  ];
  const { sloMet: _, ...unjudged } = made;
  const ofClass = { ...made, serviceClass: 'premium' };
  for (const record of [ofClass, ...records, unjudged])
    for (const listen of test.gateway.recordListeners) listen(record);
  const text = await (await fetch(`${test.url}/metrics`)).text();
  const value = (name: string, labels = '') => {
    const line = text.split('\n').find((each) => each.startsWith(`twostroke_${name}{class="none"${labels}`));
    return Number(line?.split(' ').at(-1));
  };
  expect(value('slo_judged_total')).toBe(3);
  expect(['ttft', 'tpot', 'e2el', 'all'].map((slo) => value('slo_met_total', `,slo="${slo}"`))).toEqual([
    2, 1, 2, 1,
  ]);
  expect(value('requests_late_total')).toBe(1);
  expect(value('requests_shed_total')).toBe(1);
  expect(text).toMatch(/^twostroke_slo_met_total{class="premium",slo="ttft",.*} 1$/m);
  expect(text).toMatch(/twostroke_inter_token_latency_seconds_bucket/);
  const { requests } = (await (await fetch(`${test.url}/routes?count=4`)).json()) as {
    requests: RequestRecord[];
  };
  expect(requests[1]).toMatchObject({ slo: { ttftMs: 10, tpotMs: 3 }, isLate: true, sloMet: { all: false } });
});
