/** Steps are paced by deadlines: who decodes keeps its TPOT, prompts get all the rest, the earliest deadline
 *  first, late ones last. */
import { describe, expect, it } from 'vitest';
import type { GenerationRequest } from '../../src/engine/engine.js';
import { efficientChunk } from '../../src/router/paced-step.js';
import { stepMs } from '../../src/router/step-cost.js';
import { asked, cost, TimedEngine, type TimedEngineOptions } from './timed-engine.js';

const longPrompt = { promptTokenCount: 7000, ttftMs: 5000 };
const efficient = efficientChunk((work) => stepMs(cost, work), 2048);
const depths = [1, 2] as const;

/** Eight that decode, and a prompt that comes when they have `headStartMs` of tokens. */
async function besideDecodes(options: TimedEngineOptions, headStartMs = 0) {
  const timed = new TimedEngine(options);
  const decoding = Array.from({ length: 8 }, () =>
    timed.comes(0, asked({ promptTokenCount: 16, outputTokenCount: 400 })),
  );
  const prompt = timed.comes(10 + headStartMs, asked(longPrompt));
  await timed.run();
  const slowestTpotMs = Math.max(...decoding.map((each) => timed.tpotMs(each)));
  return {
    timed,
    decoding,
    prompt,
    slowestTpotMs,
    promptSteps: timed.steps.filter((step) => step.prefillTokenCount > 16 * 8),
  };
}

describe.each(depths)('a long prompt beside decodes, %i steps in flight', (depth) => {
  it.each([0.9, 1, 1.1])(
    'they keep their TPOT, and waste little of it, when steps are believed to take %f of what they do',
    async (believed) => {
      const { timed, decoding, prompt } = await besideDecodes({ depth, believed });
      const doneMs = timed.firstMs(prompt);
      for (const each of decoding) {
        const before = timed.tokensMs.get(each.id)![0]!.filter((atMs) => atMs <= doneMs);
        const meanMs = (before.at(-1)! - before[0]!) / (before.length - 1);
        expect(meanMs).toBeLessThan(10.001); // its SLO
        expect(meanMs).toBeGreaterThan(8.8); // 5 would do without the prompt
        expect(timed.tpotMs(each)).toBeLessThan(10.001);
      }
    },
  );

  it('without pacing the same prompt holds them up', async () => {
    const { timed, prompt, decoding } = await besideDecodes({ depth, pacing: 'off' });
    const gaps = timed.tokensMs.get(decoding[0]!.id)![0]!.map((atMs, i, all) => atMs - (all[i - 1] ?? atMs));
    expect(Math.max(...gaps)).toBeGreaterThan(40);
    expect(timed.firstMs(prompt)).toBeLessThan(300);
  });

  it('what they are ahead of their schedule is spent: the longer they have decoded undisturbed, the sooner the prompt is done', async () => {
    const ttftMs = async (headStartMs: number) => {
      const { timed, prompt, slowestTpotMs } = await besideDecodes({ depth }, headStartMs);
      expect(slowestTpotMs).toBeLessThan(10.001);
      return timed.firstMs(prompt) - 10 - headStartMs;
    };
    const [none, some, much] = [await ttftMs(0), await ttftMs(200), await ttftMs(800)];
    const alone = new TimedEngine({ depth });
    const prompt = alone.comes(0, asked(longPrompt));
    await alone.run();
    expect(some).toBeLessThan(0.9 * none);
    expect(much).toBeLessThan(1.15 * alone.firstMs(prompt)); // as fast as it can be
  });

  it('who comes with a delay, as from a hand-over, leaves room for it all the same, and is in time', async () => {
    const timed = new TimedEngine({ depth });
    const delayMs = 60;
    const handedOver = Array.from({ length: 8 }, () => {
      const each = asked({ promptTokenCount: 16, outputTokenCount: 200 });
      const deadlines = { ...each.deadlines!, sinceFirstTokenMs: delayMs };
      return timed.comes(0, { ...each, outputs: [[5]], deadlines });
    });
    timed.comes(1, asked(longPrompt));
    await timed.run();
    const chunks = timed.steps.filter((step) => step.decodeCount === 8).map((step) => step.prefillTokenCount);
    // 288 without a delay; 128 if 16 tokens made it good
    for (const count of chunks.slice(1, 8)) expect(count).toBeGreaterThan(220);
    for (const each of handedOver) {
      const last = timed.tokensMs.get(each.id)![0]!.at(-1)!;
      expect((last + delayMs) / 199).toBeLessThan(10.001);
    }
  });

  it('each choice of many keeps it', async () => {
    const timed = new TimedEngine({ depth });
    const many = timed.comes(0, asked({ promptTokenCount: 16, outputTokenCount: 300, choiceCount: 6 }));
    timed.comes(20, asked(longPrompt));
    await timed.run();
    for (let choice = 0; choice < 6; choice++) {
      expect(timed.tokensMs.get(many.id)![choice]!.length).toBe(300);
      expect(timed.tpotMs(many, choice)).toBeLessThan(10.001);
    }
  });

  it('who has missed its TPOT for good holds nothing up', async () => {
    const timed = new TimedEngine({ depth });
    timed.comes(0, asked({ promptTokenCount: 16, outputTokenCount: 300, tpotMs: 1 })); // 5 ms are the least
    const prompt = timed.comes(200, asked(longPrompt));
    await timed.run();
    expect(Math.max(...timed.steps.map((step) => step.prefillTokenCount))).toBe(efficient);
    expect(timed.firstMs(prompt) - 200).toBeLessThan(200);
  });
});

describe('alone', () => {
  it('a prompt is computed in the smallest steps that are efficient', async () => {
    const timed = new TimedEngine();
    timed.comes(0, asked(longPrompt));
    await timed.run();
    const chunks = timed.steps.map((step) => step.prefillTokenCount);
    expect(efficient).toBeLessThan(2048);
    expect(efficient).toBeGreaterThan(64);
    expect(chunks.slice(0, -1).every((count) => count === efficient)).toBe(true);
  });

  it('with a model of device that is always better with more, steps are as full as they may be', async () => {
    const rowKnots = [
      { rowCount: 1, ms: 100 },
      { rowCount: 4096, ms: 101 },
    ];
    const timed = new TimedEngine({ steps: { ...cost, rowKnots } });
    timed.comes(0, asked(longPrompt));
    await timed.run();
    expect(timed.steps[0]?.prefillTokenCount).toBe(2048);
  });
});

describe('without', () => {
  const load = (timed: TimedEngine, deadlines: boolean) => {
    for (let i = 0; i < 12; i++)
      timed.comes(
        7 * i,
        asked({
          promptTokenCount: 300 + 100 * i,
          outputTokenCount: 30,
          ttftMs: deadlines ? 900 - 50 * i : null,
        }),
      );
  };
  const stepsOf = async (pacing: 'on' | 'off', deadlines: boolean) => {
    const timed = new TimedEngine({ pacing });
    load(timed, deadlines);
    await timed.run();
    return timed;
  };

  it('pacing, deadlines change nothing', async () => {
    const [none, some] = [await stepsOf('off', false), await stepsOf('off', true)];
    expect(some.steps).toEqual(none.steps);
  });

  it('deadlines, pacing leaves the order of arrival and makes efficient steps', async () => {
    const timed = await stepsOf('on', false);
    const firsts = [...timed.tokensMs.values()].map(([first]) => first![0]!);
    expect(firsts).toEqual([...firsts].sort((a, b) => a - b));
    expect(Math.max(...timed.steps.map((step) => step.prefillTokenCount))).toBeLessThanOrEqual(efficient);
  });
});

describe('the order of prompts', () => {
  const together = async (requests: readonly GenerationRequest[], options: TimedEngineOptions = {}) => {
    const timed = new TimedEngine(options);
    timed.comes(0, asked({ promptTokenCount: 600 })); // runs when the others come
    for (const each of requests) timed.comes(1, each);
    await timed.run();
    const byFirst = [...requests].sort((a, b) => timed.firstMs(a) - timed.firstMs(b));
    return { timed, order: byFirst.map((each) => requests.indexOf(each)) };
  };

  it('is that of their deadlines', async () => {
    const requests = [900, 300, 600].map((ttftMs) => asked({ promptTokenCount: 1000, ttftMs }));
    expect((await together(requests)).order).toEqual([1, 2, 0]);
  });

  it('a running prompt gives way to one that is due before it', async () => {
    const timed = new TimedEngine();
    const long = timed.comes(0, asked({ promptTokenCount: 7000, ttftMs: 5000 }));
    const short = timed.comes(30, asked({ promptTokenCount: 100, ttftMs: 80 }));
    await timed.run();
    expect(timed.firstMs(short)).toBeLessThan(110);
    expect(timed.firstMs(long)).toBeGreaterThan(timed.firstMs(short));
  });

  it('priority comes before deadlines, and who promises nothing after them', async () => {
    const prompt = { promptTokenCount: 2000 };
    const requests = [
      asked({ ...prompt, ttftMs: null }),
      asked({ ...prompt, ttftMs: 400 }),
      asked({ ...prompt, ttftMs: 900, priority: -1 }),
      asked({ ...prompt, ttftMs: null, priority: -2 }),
    ];
    expect((await together(requests)).order).toEqual([3, 2, 1, 0]);
  });

  it('those that will be late anyway come after those that can be in time, which lose nothing by them', async () => {
    const late = [1, 2].map((i) => asked({ promptTokenCount: 3000, ttftMs: 20 + i }));
    const others = [400, 500].map((ttftMs) => asked({ promptTokenCount: 1000, ttftMs }));
    const { timed, order } = await together([...late, ...others]);
    expect(order).toEqual([2, 3, 0, 1]);
    const sole = await together(others);
    const [alone, beside] = [sole, { timed, order }].map(({ timed: each }, i) =>
      each.firstMs([others, others][i]![1]!),
    );
    expect(beside! - alone!).toBeLessThanOrEqual(10);
  });

  it('a late one that has begun gives way as well, and is ended', async () => {
    const timed = new TimedEngine();
    const late = timed.comes(0, asked({ promptTokenCount: 7000, ttftMs: 30 }));
    const later = timed.comes(60, asked({ promptTokenCount: 2000, ttftMs: 200 }));
    await timed.run();
    expect(timed.firstMs(later) - 60).toBeLessThan(200);
    expect(timed.firstMs(late)).toBeGreaterThan(timed.firstMs(later));
  });
});

describe('a late prompt waits no longer than its age allows', () => {
  /** Prompts in time without end, and always some that wait: nothing is left over for others. */
  function flood(timed: TimedEngine, forMs: number): void {
    for (let i = 0; i < 3; i++) timed.comes(0, asked({ promptTokenCount: efficient, ttftMs: 2000 }));
    for (let atMs = 0; atMs < forMs; atMs += 20)
      timed.comes(atMs, asked({ promptTokenCount: efficient, ttftMs: 2000 }));
  }

  it('it gets an eighth of every step once it is late by four times its TTFT', async () => {
    const timed = new TimedEngine();
    flood(timed, 3000);
    const late = timed.comes(5, asked({ promptTokenCount: 400, ttftMs: 100, lateByMs: 100 }));
    await timed.run();
    const stepsNeeded = 400 / (efficient / 8);
    const longestStepMs = Math.max(...timed.steps.map(({ ms }) => ms));
    expect(timed.firstMs(late)).toBeGreaterThan(400);
    expect(timed.firstMs(late)).toBeLessThan(405 + (stepsNeeded + 4) * longestStepMs);
  });

  it('also when it needs more memory than is ever free at once', async () => {
    const blockCount = 120;
    const timed = new TimedEngine({ blockCount });
    // small ones that come before the last ones have gone hold half of the memory at any time
    for (let atMs = 0; atMs < 4000; atMs += 12)
      timed.comes(atMs, asked({ promptTokenCount: 160, outputTokenCount: 12, ttftMs: 1000 }));
    const late = timed.comes(50, asked({ promptTokenCount: 1600, ttftMs: 100, lateByMs: 200 }));
    await timed.run();
    expect(timed.firstMs(late)).toBeLessThan(1500);
  });

  it('also when those who decode leave it no room for its TPOT', async () => {
    const timed = new TimedEngine();
    for (let atMs = 0; atMs < 4000; atMs += 4)
      timed.comes(atMs, asked({ promptTokenCount: 16, outputTokenCount: 40, ttftMs: 1000, tpotMs: 50 }));
    const late = timed.comes(
      300,
      asked({ promptTokenCount: 100, outputTokenCount: 20, ttftMs: 100, lateByMs: 200, tpotMs: 5.3 }),
    );
    await timed.run();
    expect(timed.firstMs(late)).toBeLessThan(2000);
  });
});

describe('how many may decode together', () => {
  /** Ten milliseconds a sequence of TPOT 10: 0.1 ms for each row. */
  const steps = { ...cost, msPerSampledRow: 0.1 };
  const rowsMax = (timed: TimedEngine) => Math.max(...timed.steps.map(({ decodeCount }) => decodeCount));

  it.each(depths)(
    'as many as keep the TPOT; the others wait with their prompts; %i steps in flight',
    async (depth) => {
      const timed = new TimedEngine({ steps, depth });
      const all = Array.from({ length: 120 }, () =>
        timed.comes(0, asked({ promptTokenCount: 32, outputTokenCount: 60, ttftMs: 20_000 })),
      );
      await timed.run();
      expect(rowsMax(timed)).toBeGreaterThan(40);
      expect(rowsMax(timed)).toBeLessThanOrEqual(47); // 5 + 0.1 n up to 9.7
      for (const each of all) expect(timed.tpotMs(each)).toBeLessThan(10.001);
    },
  );

  it('choices count each', async () => {
    const timed = new TimedEngine({ steps });
    for (let i = 0; i < 20; i++)
      timed.comes(0, asked({ promptTokenCount: 32, outputTokenCount: 60, ttftMs: 20_000, choiceCount: 8 }));
    await timed.run();
    expect(rowsMax(timed)).toBe(40);
  });

  it('who could not keep its TPOT even alone starts all the same', async () => {
    const timed = new TimedEngine({ steps });
    for (let i = 0; i < 60; i++)
      timed.comes(0, asked({ promptTokenCount: 32, outputTokenCount: 60, tpotMs: 1, ttftMs: 20_000 }));
    await timed.run();
    expect(rowsMax(timed)).toBe(60);
  });

  it('prompts that decode elsewhere do not count, and start whatever decodes here', async () => {
    const timed = new TimedEngine({ steps });
    for (let i = 0; i < 80; i++)
      timed.comes(0, asked({ promptTokenCount: 32, outputTokenCount: 100, ttftMs: 20_000 }));
    const handedOver = Array.from({ length: 8 }, () =>
      timed.comes(20, asked({ promptTokenCount: 300, ttftMs: 500 }), 'prefill'),
    );
    await timed.run(500);
    for (const each of handedOver) expect(timed.firstMs(each)).toBeLessThan(500);
  });
});

it('a prompt to be handed over is computed beside decodes like any other: in spans that follow each other, and they keep their TPOT', async () => {
  const timed = new TimedEngine();
  const spans: [number, number, boolean][] = [];
  timed.hooks = {
    onLayer: (layer, chunks) => {
      if (layer === 0)
        for (const { firstToken, endToken, isLast } of chunks) spans.push([firstToken, endToken, isLast]);
    },
  };
  const decoding = timed.comes(0, asked({ promptTokenCount: 16, outputTokenCount: 300 }));
  const prompt = timed.comes(20, asked({ promptTokenCount: 5000, ttftMs: 4000 }), 'prefill');
  await timed.run(5000);
  expect(timed.tokensMs.get(prompt.id)![0]!.length).toBe(1);
  expect(spans.length).toBeGreaterThan(5);
  let nextToken = 0;
  for (const [first, end] of spans) {
    expect(first).toBe(nextToken);
    nextToken = end;
  }
  expect(spans.map(([, , isLast]) => isLast)).toEqual(spans.map((_, i) => i === spans.length - 1));
  expect(nextToken).toBe(5000);
  expect(timed.tpotMs(decoding)).toBeLessThan(10.001);
  timed.engine.release(prompt.id);
});

it('a preempted sequence is not late: its first token has come, and its further ones are due as before', async () => {
  const timed = new TimedEngine({ blockCount: 128 });
  const ttftMs = 100; // long over when memory runs out
  const first = timed.comes(0, asked({ promptTokenCount: 320, outputTokenCount: 800, ttftMs }));
  const victim = timed.comes(5, asked({ promptTokenCount: 320, outputTokenCount: 800, ttftMs }));
  while (timed.engine.snapshot().preemptionCount === 0) await timed.run(5);
  const newcomer = timed.comes(0, asked({ promptTokenCount: 900, outputTokenCount: 2, ttftMs: 5000 }));
  const before = timed.tokensMs.get(victim.id)![0]!.length;
  await timed.run();
  const again = timed.tokensMs.get(victim.id)![0]![before]!;
  expect(again).toBeLessThan(timed.firstMs(newcomer));
  expect(timed.tokensMs.get(first.id)![0]!.length).toBe(800);
  expect(timed.tokensMs.get(victim.id)![0]!.length).toBe(800);
});

it('planning a step asks the model no more often for 256 sequences than for 8', async () => {
  const perStep = async (decodingCount: number) => {
    const timed = new TimedEngine();
    for (let i = 0; i < decodingCount; i++)
      timed.comes(0, asked({ promptTokenCount: 16, outputTokenCount: 400, ttftMs: 20_000, tpotMs: 30 }));
    timed.comes(0, asked({ promptTokenCount: 7000, ttftMs: 30_000 }));
    await timed.run(600);
    const [stepCount, predictionCount] = [timed.steps.length, timed.predictionCount];
    await timed.run(400);
    return (timed.predictionCount - predictionCount) / (timed.steps.length - stepCount);
  };
  const [few, many] = [await perStep(8), await perStep(256)];
  expect(few).toBeLessThan(16);
  expect(many).toBeLessThan(16);
});
