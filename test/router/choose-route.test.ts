/** The rule of choose-route.ts, clause by clause, and what holds whatever the workers are. */
import { describe, expect, it } from 'vitest';
import { workerId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import { chooseRoute, pinnedRoute } from '../../src/router/choose-route.js';
import { alone, planOf } from '../../src/router/plan.js';
import type { Route, Strategy } from '../../src/router/route.js';
import { workersOf } from '../../src/router/route.js';
import type { RequestFacts, WorkerSnapshot } from '../../src/router/snapshot.js';
import { costs, facts, held, type LoadNumbers, worker } from './workers.js';

function route(
  workers: readonly WorkerSnapshot[],
  request: RequestFacts,
  strategy: Strategy = 'adaptive',
  first: string[] = [],
): Route {
  const plan = planOf(workers, strategy, new Set(first.map(workerId)));
  if (plan === null) throw new Error('nobody is live');
  return chooseRoute(request, plan);
}

/** Worker p is prefill-first, d decodes; adaptive. */
function ofTwo(p: LoadNumbers, d: LoadNumbers, request: RequestFacts): Route {
  return route([worker('p', 'any', p), worker('d', 'any', d)], request, 'adaptive', ['p']);
}

const slo = (ttftMs: number, tpotMs = 40) => ({ slo: { ttftMs, tpotMs } });
const crowd = { decodingCount: 24, remainingEach: 200 };

describe('with a prefill-first worker', () => {
  it('a prompt stays there while its first token is due within half of its TTFT', () => {
    const early = ofTwo({}, crowd, facts({ promptTokenCount: 1000, ...slo(400) }));
    expect(early).toMatchObject({ path: 'disaggregated', prefillWorker: 'p', decodeWorker: 'd' });
    expect(early.estimate.ttftUse).toBeLessThan(0.5);
    expect(early.reason).toMatch(/prefill-first: \d+ % of its TTFT/);
    expect(early.other?.workers).toEqual(['d']);
  });

  it('beyond that its first token decides: beside decodes if it comes earlier there', () => {
    const request = facts({ promptTokenCount: 300, ...slo(700) });
    const behindAQueue = ofTwo({ queuedTokenCount: 4000 }, { decodingCount: 4 }, request);
    expect(behindAQueue).toMatchObject({
      path: 'collocated',
      worker: 'd',
      reason: 'first token is earlier beside decodes',
    });
    expect(behindAQueue.other?.workers).toEqual(['p', 'd']);
    expect(behindAQueue.other!.estimate.ttftUse).toBeGreaterThan(behindAQueue.estimate.ttftUse);
  });

  it('and on the prefill-first worker if it comes earlier there, late as it is', () => {
    const request = facts({ promptTokenCount: 300, ...slo(700) });
    const both = ofTwo({ queuedTokenCount: 4000 }, { decodingCount: 4, queuedTokenCount: 4500 }, request);
    expect(both).toMatchObject({ path: 'disaggregated', reason: 'earliest first token' });
    expect(both.estimate.ttftUse).toBeGreaterThan(0.5);
  });

  it('when the decode worker cannot keep its TPOT, the prefill-first worker takes it whole', () => {
    const full = { decodingCount: 240, kvTokensEach: 60 };
    const spilled = ofTwo({}, full, facts(slo(400, 20)));
    expect(spilled).toMatchObject({
      path: 'collocated',
      worker: 'p',
      reason: 'no decode worker can keep its TPOT',
    });
    expect(spilled.other!.estimate.tpotUse).toBeGreaterThan(1);
  });

  it('a worker of role prefill takes nothing whole', () => {
    const workers = [worker('p', 'prefill'), worker('d', 'decode', { decodingCount: 240, kvTokensEach: 60 })];
    expect(route(workers, facts(slo(400, 20)))).toMatchObject({
      path: 'disaggregated',
      prefillWorker: 'p',
      decodeWorker: 'd',
    });
  });

  it('when nothing keeps its SLO, it goes where that is missed least', () => {
    const request = facts({ promptTokenCount: 2000, ...slo(20) });
    const least = ofTwo(
      { queuedTokenCount: 3000, queuedDueMs: 0 },
      { queuedTokenCount: 500, queuedDueMs: 0 },
      request,
    );
    expect(least).toMatchObject({ path: 'collocated', worker: 'd', reason: 'its SLO is missed least' });
    const behind = { queuedTokenCount: 3000, queuedDueMs: 0, decodingCount: 1 };
    const other = ofTwo({ queuedTokenCount: 500, queuedDueMs: 0 }, behind, request);
    expect(workersOf(other)[0]).toBe('p');
    expect(other.estimate.ttftUse).toBeLessThanOrEqual(other.other!.estimate.ttftUse);
  });
});

describe('where every worker takes whole requests', () => {
  const of = (a: LoadNumbers, b: LoadNumbers, request = facts()) =>
    route([worker('a', 'any', a), worker('b', 'any', b)], request);

  it('TTFT and TPOT together decide, each by its SLO', () => {
    const [prompts, rows] = [{ queuedTokenCount: 500 }, { decodingCount: 60 }];
    expect(of(prompts, rows, facts(slo(200, 400)))).toMatchObject({ worker: 'b' });
    expect(of(prompts, rows, facts(slo(4000, 20)))).toMatchObject({ worker: 'a' });
    expect(of(prompts, {})).toMatchObject({ worker: 'b' });
  });

  it('of equals the first', () => {
    expect(of({}, {})).toMatchObject({ worker: 'a' });
    expect(of(crowd, crowd)).toMatchObject({ worker: 'a' });
  });

  it('a held prefix draws, as far as it shortens the first token', () => {
    const request = facts({ promptTokenCount: 2000, ...held('b', 1984) });
    expect(of({}, { decodingCount: 2 }, request)).toMatchObject({ worker: 'b' });
    expect(of({}, { queuedTokenCount: 6000, queuedDueMs: 0 }, request)).toMatchObject({ worker: 'a' });
  });
});

describe('a pair', () => {
  const workers = (d: LoadNumbers, d2: LoadNumbers) => [
    worker('p', 'prefill'),
    worker('d', 'decode', d),
    worker('d2', 'decode', d2),
  ];

  it('decodes where a step with one more row takes least', () => {
    expect(route(workers({}, { decodingCount: 2 }), facts(), 'disaggregated')).toMatchObject({
      decodeWorker: 'd',
    });
    expect(
      route(workers({ decodingCount: 9 }, { decodingCount: 2 }), facts(), 'disaggregated'),
    ).toMatchObject({
      decodeWorker: 'd2',
    });
  });

  it('prefills where the first token comes first: on the idle one, the one that holds the prefix, the faster one', () => {
    const sources = (p: object, p2: object, request = facts()) =>
      route(
        [worker('p', 'prefill', p), worker('p2', 'prefill', p2), worker('d', 'decode')],
        request,
        'disaggregated',
      );
    expect(sources({ queuedTokenCount: 800 }, {})).toMatchObject({ prefillWorker: 'p2' });
    const prefixed = facts({ promptTokenCount: 2000, ...held('p', 1984) });
    expect(sources({ queuedTokenCount: 800 }, {}, prefixed)).toMatchObject({ prefillWorker: 'p' });
    const step = {
      ...costs.step,
      rowKnots: costs.step.rowKnots.map(({ rowCount, ms }) => ({ rowCount, ms: 3 * ms })),
    };
    const slow = { costs: { ...costs, step } };
    expect(sources(slow, {})).toMatchObject({ prefillWorker: 'p2' });
    expect(sources(slow, { queuedTokenCount: 2000 })).toMatchObject({ prefillWorker: 'p' }); // slow, but sooner
  });

  it('is never one worker twice: with nobody else to decode, the one worker does both', () => {
    const one = [worker('p', 'any'), worker('d', 'decode', { isLive: false })];
    expect(route(one, facts(), 'disaggregated')).toMatchObject({ path: 'collocated', worker: 'p' });
    const self = [worker('a', 'any'), worker('d', 'decode', { decodingCount: 50 })];
    expect(route(self, facts(), 'disaggregated')).toMatchObject({ prefillWorker: 'a', decodeWorker: 'd' });
  });

  it('reckons with the link: a slow one lets the TPOT suffer, and the prompt stays beside the decodes', () => {
    const slow = { ...costs, links: [{ connector: 'tcp', latencyMs: 50, bytesPerSecond: 1e7 }] };
    const request = facts({ promptTokenCount: 3000, ...slo(900) });
    const on = (kept: typeof costs) =>
      route([worker('p', 'any', { costs: kept }), worker('d', 'any', { costs: kept })], request, 'adaptive', [
        'p',
      ]);
    expect(on(costs)).toMatchObject({ path: 'disaggregated' });
    expect(on(slow)).toMatchObject({ path: 'collocated' });
  });
});

describe('KV memory and batch slots', () => {
  /** 16,000 tokens, all claimed. */
  const full = { decodingCount: 10, kvTokensEach: 800, remainingEach: 800 };
  const roomy = { decodingCount: 12, kvTokensEach: 800, remainingEach: 40 };

  it.each(['collocated', 'disaggregated', 'adaptive'] as const)(
    '%s passes by who has no room',
    (strategy) => {
      const isWhole = strategy === 'collocated';
      const workers = [
        worker('p', isWhole ? 'any' : 'prefill', isWhole ? full : {}),
        worker('a', 'any', full),
        worker('b', 'any', roomy),
      ];
      expect(workersOf(route(workers, facts(), strategy)).at(-1)).toBe('b');
    },
  );

  it('when nobody has room, the least used one is waited for', () => {
    expect(
      route([worker('a', 'any', { ...full, decodingCount: 11 }), worker('b', 'any', full)], facts()),
    ).toMatchObject({
      worker: 'b',
    });
  });

  it('among many, where a glance leaves few', () => {
    const workers = Array.from({ length: 40 }, (_, i) =>
      worker(`w${i}`, 'any', i === 33 ? { ...roomy, decodingCount: 10 } : full),
    );
    const sole = workers.map((each, i) =>
      i === 33 ? each : worker(`w${i}`, 'any', { ...full, decodingCount: 9, batchSlotCount: 9 }),
    );
    for (const crowdOf of [workers, sole])
      expect(workersOf(route(crowdOf, facts(), 'collocated'))).toEqual(['w33']);
  });
});

describe('many workers', () => {
  it('of 64, the one that is idle', () => {
    for (const idle of [0, 31, 63]) {
      const workers = Array.from({ length: 64 }, (_, i) =>
        worker(`w${i}`, 'any', i === idle ? {} : { queuedTokenCount: 300 + i, decodingCount: 1 + (i % 7) }),
      );
      expect(route(workers, facts())).toMatchObject({ worker: `w${idle}` });
    }
  });
});

describe('a place that is given', () => {
  const workers = [worker('a', 'any'), worker('b', 'any', crowd), worker('c', 'any', { isLive: false })];
  const [a, b, c] = ['a', 'b', 'c'].map(workerId) as [
    ReturnType<typeof workerId>,
    ReturnType<typeof workerId>,
    ReturnType<typeof workerId>,
  ];

  it('is taken, whatever it costs', () => {
    expect(pinnedRoute(facts(), workers, { path: 'collocated', worker: b })).toMatchObject({
      worker: 'b',
      reason: 'as asked',
    });
    const pair = pinnedRoute(facts(), workers, { path: 'disaggregated', prefillWorker: b, decodeWorker: a });
    expect(pair).toMatchObject({ prefillWorker: 'b', decodeWorker: 'a', reason: 'as asked' });
  });

  it('is refused while one of its workers is not live', () => {
    expect(pinnedRoute(facts(), workers, { path: 'collocated', worker: c })).toBeNull();
    expect(
      pinnedRoute(facts(), workers, { path: 'disaggregated', prefillWorker: a, decodeWorker: c }),
    ).toBeNull();
  });
});

it('a request with tokens already is computed again from all of them, where its plan allows', () => {
  const workers = [worker('d', 'decode', { decodingCount: 9 }), worker('d2', 'decode')];
  const again = chooseRoute(facts({ outputTokenCount: 50 }), alone(workers, 'recompute'));
  expect(again).toMatchObject({ path: 'collocated', worker: 'd2' });
  expect(again.prefill.tokenCount).toBe(150);
});

it('any live set and any load gives a route to live workers that the roles allow, with finite estimates and a reason', () => {
  const prng = new Prng(7);
  for (let round = 0; round < 2000; round++) {
    const workers = Array.from({ length: prng.integer(1, 5) }, (_, i) =>
      worker(`w${i}`, prng.pick(['any', 'prefill', 'decode'] as const), {
        isLive: prng.uniform() < 0.8,
        queuedTokenCount: prng.integer(0, 3000),
        decodingCount: prng.integer(0, 20),
        pacing: prng.pick(['on', 'off'] as const),
      }),
    );
    const strategy = prng.pick(['collocated', 'disaggregated', 'adaptive'] as const);
    const any = workers.filter(({ role }) => role === 'any').map(({ id }) => id);
    const plan = planOf(workers, strategy, new Set(any.slice(1, prng.integer(1, 3))));
    const live = workers.filter((each) => each.isLive);
    expect(plan === null).toBe(live.length === 0);
    if (plan === null) continue;
    const request = facts({
      promptTokenCount: prng.integer(1, 4000),
      ...slo(prng.integer(1, 2000), prng.integer(1, 80)),
    });
    const chosen = chooseRoute(request, plan);
    const roleOf = (id: string) => live.find((each) => each.id === id)?.role;
    expect(chosen.reason.length).toBeGreaterThan(5);
    expect(Object.values(chosen.estimate).every((value) => Number.isFinite(value) && value >= 0)).toBe(true);
    for (const id of workersOf(chosen)) expect(roleOf(id)).toBeDefined();
    if (chosen.path === 'collocated') continue;
    expect(chosen.prefillWorker).not.toBe(chosen.decodeWorker);
    expect(roleOf(chosen.prefillWorker)).not.toBe('decode');
    expect(roleOf(chosen.decodeWorker)).not.toBe('prefill');
  }
});
