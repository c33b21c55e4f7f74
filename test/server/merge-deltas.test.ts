/** Many prompts of one request: each delta takes the same work however many there are, they take turns, and
 *  none is left running. */
import { describe, expect, it } from 'vitest';
import type { RequestInput } from '../../src/control/gateway-api.js';
import type { Generation as GenerationType } from '../../src/server/generation.js';
import { countWork } from '../work-counter.js';

const { TwostrokeError } = await import('../../src/base/errors.js');
const { systemClock } = await import('../../src/base/clock.js');
const { requestId } = await import('../../src/base/ids.js');
const { EventQueue } = await import('../../src/control/generation-stream.js');
const { greedy } = await import('../../src/engine/sampling-params.js');
const { CompletionFormat } = await import('../../src/server/completion-format.js');
const { Generation } = await import('../../src/server/generation.js');
const { mergeDeltas: mergeInTurns } = await import('../../src/server/merge-deltas.js');
const { demoModel } = await import('./demo-server.js');

/** Prompts whose tokens come when the test says so. */
class Prompts {
  readonly queues = new Map<string, InstanceType<typeof EventQueue>>();
  readonly cancelled: string[] = [];
  readonly ended: string[] = [];
  readonly generations: readonly GenerationType[];

  constructor(promptCount: number, choiceCount = 1) {
    const metrics = {
      onFirstToken: () => {},
      onTokenGap: () => {},
      onRequestEnd: ({ outcome }: { outcome: string }) => this.ended.push(outcome),
      onResponse: () => {},
      render: async () => ({ contentType: '', text: '' }),
    };
    const gateway = { submit: (input: RequestInput) => this.#submit(input) };
    const text = { tokenizer: null, stopStrings: [], stopTokenIds: [], minTokenCount: 0, includeStop: false };
    const sampling = { ...greedy, choiceCount, maxTokenCount: 10_000 };
    this.generations = Array.from(
      { length: promptCount },
      (_, i) =>
        new Generation(
          { gateway, metrics, clock: systemClock },
          { id: requestId(`p${i}`), promptIds: [1, 2, 3], sampling },
          { ...text, special: 'skip', position: 'start' },
        ),
    );
  }

  say(index: number, end: 'goes on' | 'ends' = 'goes on'): void {
    const finish = end === 'ends' ? { finishReason: 'length' as const } : {};
    const tokens = [{ tokenId: 7 }];
    this.queues
      .get(`p${index}`)
      ?.push({ kind: 'tokens', requestId: requestId(`p${index}`), choiceIndex: 0, tokens, ...finish });
  }

  #submit({ id }: RequestInput) {
    const queue = new EventQueue(() => {});
    this.queues.set(id, queue);
    return {
      [Symbol.asyncIterator]: () => queue,
      cancel: () => {
        if (!this.cancelled.includes(id)) this.cancelled.push(id);
        queue.end(null);
      },
      stopChoice: () => {},
      route: new Promise<never>(() => {}),
    };
  }
}

const mergeDeltas = (generations: readonly GenerationType[], atOnce: number) =>
  mergeInTurns(generations, { atOnce, turn: async () => {}, onAllBegun: () => {} });

const everyPrompt = (count: number) => Array.from({ length: count }, (_, i) => `p${i}`);

it('gives the deltas of each prompt in order, as they come', async () => {
  const prompts = new Prompts(3);
  const deltas = mergeDeltas(prompts.generations, 3);
  const first = deltas.next();
  await systemClock.yield();
  for (const index of [2, 0, 0, 1]) prompts.say(index);
  for (const index of [2, 0, 1]) prompts.say(index, 'ends');
  const seen = [(await first).value?.[0]];
  for await (const [index] of deltas) seen.push(index);
  expect(seen.slice(0, 3)).toEqual([2, 0, 1]);
  expect(seen.filter((index) => index === 0)).toHaveLength(3);
  expect(prompts.ended).toEqual(['length', 'length', 'length']);
});

it('begins no more of them than may be in flight, and the next when one has ended', async () => {
  const prompts = new Prompts(5);
  const deltas = mergeDeltas(prompts.generations, 2);
  const began: number[] = [];
  for (let index = 0; index < 5; index++) {
    const next = deltas.next();
    await systemClock.yield();
    began.push(prompts.queues.size);
    prompts.say(index, 'ends');
    expect((await next).value?.[0]).toBe(index);
  }
  expect(began).toEqual([2, 3, 4, 5, 5]);
  expect((await deltas.next()).done).toBe(true);
});

it('begins one of them in each turn, and says when all have begun', async () => {
  const prompts = new Prompts(5);
  let turnCount = 0;
  const began: number[] = [];
  let allBegunAt: number | null = null;
  const turn = async () => {
    turnCount++;
    began.push(prompts.queues.size);
  };
  const onAllBegun = () => {
    allBegunAt = prompts.queues.size;
  };
  const deltas = mergeInTurns(prompts.generations, { atOnce: 3, turn, onAllBegun });
  const first = deltas.next();
  await systemClock.yield();
  expect([turnCount, ...began, allBegunAt]).toEqual([3, 1, 2, 3, null]);
  for (const index of [0, 1, 2]) prompts.say(index, 'ends'); // in one step
  expect((await first).value?.[0]).toBe(0);
  for (const index of [1, 2]) expect((await deltas.next()).value?.[0]).toBe(index);
  const fourth = deltas.next();
  await systemClock.yield();
  expect([...began, allBegunAt]).toEqual([1, 2, 3, 4, 5, 5]);
  for (const index of [3, 4]) prompts.say(index, 'ends');
  expect((await fourth).value?.[0]).toBe(3);
  await deltas.return();
});

describe('cancels all the others', () => {
  it('when the consumer leaves', async () => {
    const prompts = new Prompts(4);
    const deltas = mergeDeltas(prompts.generations, 3);
    const first = deltas.next();
    await systemClock.yield();
    prompts.say(1);
    expect((await first).value?.[0]).toBe(1);
    await deltas.return();
    await systemClock.yield();
    expect([...prompts.cancelled].sort()).toEqual(everyPrompt(3));
    expect(prompts.ended).toEqual(['abort', 'abort', 'abort']);
    expect(prompts.queues.size).toBe(3); // the fourth has never begun
  });

  it('when one of them fails', async () => {
    const prompts = new Prompts(4);
    const deltas = mergeDeltas(prompts.generations, 4);
    const first = deltas.next();
    await systemClock.yield();
    prompts.queues.get('p2')?.end(new TwostrokeError('internal', 'broken'));
    await expect(first).rejects.toThrow('broken');
    await systemClock.yield();
    expect([...prompts.cancelled].sort()).toEqual(everyPrompt(4));
    expect([...prompts.ended].sort()).toEqual(['abort', 'abort', 'abort', 'error']);
  });
});

it('a delta takes the same work however many prompts there are', async () => {
  const deltaCount = 16;
  const works: number[] = [];
  const counts = [2, 2, 64, 4096]; // the first makes what is made once
  for (const promptCount of counts) {
    const prompts = new Prompts(promptCount);
    const body = {
      prompt: 'x',
      stream: true,
      stream_options: { include_usage: true, continuous_usage_stats: true },
    };
    const context = { model: demoModel, clock: systemClock } as never;
    const texts = prompts.generations.map(() => ({ ids: [1], text: null }));
    const format = new CompletionFormat('id', context, body as never, texts, prompts.generations);
    const deltas = mergeDeltas(prompts.generations, promptCount);
    const first = deltas.next();
    prompts.say(0);
    await first;
    works.push(
      await countWork(async () => {
        for (let i = 0; i < deltaCount; i++) {
          const next = deltas.next();
          prompts.say(1);
          const { value } = await next;
          if (value !== undefined) format.chunks(value[0], value[1]);
        }
      }),
    );
    await deltas.return();
  }
  const [, least = 0, ...more] = works;
  expect(least).toBeGreaterThan(deltaCount);
  for (const work of more)
    expect(work, `work for ${counts.join(', ')} prompts: ${works.join(', ')}`).toBeLessThan(1.1 * least);
});
