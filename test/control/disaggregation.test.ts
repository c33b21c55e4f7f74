/** Invariant I3 on real processes: prefilled here and decoded there gives the tokens of one worker, which are
 *  the reference's. */
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import type { Gateway } from '../../src/control/gateway.js';
import type { RequestRecord } from '../../src/control/request-record.js';
import type { SamplingParams } from '../../src/engine/sampling-params.js';
import type { StepSample } from '../../src/router/step-work.js';
import {
  type Answer,
  collect,
  expectNothingOwned,
  type GoldenCase,
  goldens,
  inputOf,
  isFull,
  type RealOptions,
  startGateway,
} from './real-cluster.js';

const running: Gateway[] = [];
afterEach(async () => {
  for (const gateway of running.splice(0)) await gateway.stop();
});

async function start(workers: string, options: RealOptions) {
  const started = await startGateway(workers, options);
  running.push(started.gateway);
  return started;
}

const upTo = (promptTokenCount: number) =>
  goldens.cases.filter(({ prompt_ids }) => prompt_ids.length <= promptTokenCount);

async function alone(
  gateway: Gateway,
  cases: readonly GoldenCase[],
  sampling: Partial<SamplingParams> = {},
): Promise<Answer[]> {
  const answers: Answer[] = [];
  for (const golden of cases) answers.push(await collect(gateway, inputOf(golden, sampling)));
  return answers;
}

const batched = (gateway: Gateway, cases: readonly GoldenCase[], sampling: Partial<SamplingParams> = {}) =>
  Promise.all(cases.map((golden) => collect(gateway, inputOf(golden, sampling))));

function expectGoldens(answers: readonly Answer[], cases: readonly GoldenCase[]): void {
  for (const [i, { name, continuation_ids }] of cases.entries())
    expect(answers[i]?.outputs[0], name).toEqual(continuation_ids);
}

/** [chunk, threads, longest prompt by default]. A chunk of one token makes a step of every token: short
 *  prompts only. */
const shapes: readonly [number, number, number][] = [
  [1, 1, 70],
  [16, 2, 300],
  [64, 1, 2000],
  [512, 2, 4096],
];

/** inputOf names a request after its case, with a number behind. */
const caseOf = ({ id }: RequestRecord) => id.slice(0, id.lastIndexOf('-'));
const decodeWorkerOf = ({ routes }: RequestRecord) => routes.at(-1)?.workers.at(-1);

describe('disaggregated equals the reference', () => {
  it.each(shapes)('chunk %d, %d threads', async (prefillChunkTokenCount, threads, promptTokenCountMax) => {
    const workers = `prefill:cpu?threads=${threads},decode:cpu?threads=${threads}`;
    const { gateway, records } = await start(workers, {
      settings: { prefillChunkTokenCount, prefixCaching: 'off' },
    });
    const cases = upTo(isFull ? 4096 : promptTokenCountMax);
    expectGoldens(await batched(gateway, cases), cases);
    const few = isFull ? cases : cases.filter((_, i) => i % 4 === 0);
    expectGoldens(await alone(gateway, few), few);
    expect(new Set(records.flatMap(({ routes }) => routes.map(({ path }) => path)))).toEqual(
      new Set(['disaggregated']),
    );
    for (const { resumedMs, firstTokenMs, outcome } of records) {
      expect(outcome).toBe('finished');
      expect(resumedMs).toBeGreaterThan(firstTokenMs!);
    }
    await expectNothingOwned(gateway);
  });

  it('and the gateway hears what the steps computed and took', async () => {
    const { gateway } = await start('prefill:cpu?threads=1,decode:cpu?threads=1', {
      settings: { prefixCaching: 'off' },
    });
    const heard = new Map<string, StepSample[]>();
    gateway.onStepSamples((id, samples) => heard.set(id, [...(heard.get(id) ?? []), ...samples]));
    const golden = goldens.cases[0]!;
    await collect(gateway, inputOf(golden));
    while ((heard.get('w1')?.length ?? 0) < 2) await systemClock.sleep(10);
    const prefill = heard.get('w0')!;
    expect(prefill.reduce((sum, { prefillTokenCount }) => sum + prefillTokenCount, 0)).toBe(
      golden.prompt_ids.length,
    );
    expect(
      heard
        .get('w1')!
        .every(
          ({ decodeCount, prefillTokenCount, ms }) => decodeCount === 1 && prefillTokenCount === 0 && ms > 0,
        ),
    ).toBe(true);
  });

  it('with the prefix cache on both sides, asked twice, and two workers of each role', async () => {
    const { gateway, records } = await start('prefill:cpu*2?threads=1,decode:cpu*2?threads=1', {
      settings: { prefillChunkTokenCount: 64 },
    });
    const cases = upTo(1200);
    expectGoldens(await batched(gateway, cases), cases);
    await expectNothingOwned(gateway);
    const first = records.splice(0);
    expectGoldens(await batched(gateway, cases), cases);
    // the router weighs prefixes against load, so some go elsewhere; where decode holds the prompt already,
    // its last block alone is pushed
    const again = records.filter((record) =>
      first.some(
        (before) => caseOf(before) === caseOf(record) && decodeWorkerOf(before) === decodeWorkerOf(record),
      ),
    );
    expect(again.length).toBeGreaterThan(0);
    const blockBytes = gateway.workers()[0]!.ready!.blockBytes;
    for (const { id, transferBytes } of again) expect(transferBytes, id).toBeLessThanOrEqual(blockBytes);
    expect(first.some(({ transferBytes }) => transferBytes > 4 * blockBytes)).toBe(true);
    expect(records.filter(({ cachedTokenCount }) => cachedTokenCount > 0).length).toBeGreaterThan(4);
    await expectNothingOwned(gateway);
  });
});

describe('disaggregated equals collocated', () => {
  const samplings: readonly [string, Partial<SamplingParams>][] = [
    ['sampled', { temperature: 0.9, topP: 0.95, topK: 50, seed: 7, maxTokenCount: 40 }],
    ['three choices', { temperature: 1.1, minP: 0.02, seed: 123456789, choiceCount: 3, maxTokenCount: 24 }],
    [
      'penalties and bias',
      {
        temperature: 0.7,
        seed: 3,
        repetitionPenalty: 1.2,
        presencePenalty: 0.4,
        frequencyPenalty: 0.3,
        logitBias: [[284, -5]],
        maxTokenCount: 30,
      },
    ],
    ['log-probabilities', { topLogprobCount: 5, promptLogprobCount: 2, maxTokenCount: 12 }],
    ['minimum and stop ids', { minTokenCount: 12, stopTokenIds: [16, 266], maxTokenCount: 40 }],
    ['one token', { maxTokenCount: 1 }],
    ['two choices, one token', { maxTokenCount: 1, choiceCount: 2, temperature: 1, seed: 5 }],
  ];

  it('whatever is asked, to the last bit of the log-probabilities, in bf16 KV too', async () => {
    const cases = upTo(300);
    const options = { settings: { prefillChunkTokenCount: 32, kvDtype: 'bf16' as const } };
    const collocated = await start('any:cpu?threads=1', { ...options, strategy: 'collocated' });
    const disaggregated = await start('any:cpu*2?threads=1', { ...options, strategy: 'disaggregated' });
    for (const [name, sampling] of samplings) {
      const [expected, actual] = [
        await batched(collocated.gateway, cases, sampling),
        await batched(disaggregated.gateway, cases, sampling),
      ];
      for (const [i, golden] of cases.entries())
        expect(actual[i], `${name}: ${golden.name}`).toEqual(expected[i]);
    }
    for (const { gateway } of [collocated, disaggregated]) await expectNothingOwned(gateway);
    expect(new Set(collocated.records.flatMap(({ routes }) => routes.map(({ path }) => path)))).toEqual(
      new Set(['collocated']),
    );
    expect(new Set(disaggregated.records.flatMap(({ routes }) => routes.map(({ path }) => path)))).toEqual(
      new Set(['disaggregated']),
    );
  });

  it('when decode has hardly any memory: nothing is lost and everyone gets a turn', async () => {
    const cases = upTo(100);
    const { gateway, records } = await start('prefill:cpu?threads=1,decode:cpu?threads=1', {
      settings: { blockCount: 40, maxModelTokenCount: 300, sequenceCountMax: 16 },
      limits: { holdMs: 100 },
    });
    const answers = (await Promise.all([1, 2, 3].map(() => batched(gateway, cases)))).flat();
    expectGoldens(answers, [...cases, ...cases, ...cases]);
    expect(records.some(({ reservationWaitMs }) => reservationWaitMs > 50)).toBe(true);
    await expectNothingOwned(gateway);
  });
});
