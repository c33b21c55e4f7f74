/** The pacer on a clock of its own, with a model of steps that is right. */
import { describe, expect, it } from 'vitest';
import type { Clock } from '../../src/base/clock.js';
import { Pacer } from '../../src/engine/pacer.js';
import type { StepPlan } from '../../src/engine/step-plan.js';
import { leastPromptTokenCount, slackTokenCount } from '../../src/router/paced-step.js';
import type { StepWork } from '../../src/router/step-work.js';

interface Paced {
  /** Prompt tokens of each step. */
  readonly rooms: readonly number[];
  readonly meanStepMs: number;
}

/** One sequence decodes `stepCount` times while prompts wait. */
function pace(predictMs: (work: StepWork) => number, tpotMs: number, stepCount: number): Paced {
  let nowMs = 0;
  const clock = { nowMs: () => nowMs } as unknown as Clock;
  const pacer = new Pacer({ predictMs, observe: () => {} }, clock, 512);
  const deadlines = { firstTokenDueMs: 0, ttftMs: 100, tpotMs };
  const rooms: number[] = [];
  for (let index = 0; index < stepCount; index++) {
    const sequence = {
      request: { deadlines, outputLimit: stepCount + 1 },
      firstTokenMs: 0,
      drawCount: index + 2,
    };
    const plan = { entries: [{ sequence, endToken: 100 + index }] } as unknown as StepPlan;
    const prefillTokenCount = pacer.promptRoom(plan, 0);
    const work = { decodeCount: 1, decodeKvTokenCount: 100 + index, prefillTokenCount, prefillPairCount: 0 };
    pacer.onLaunch(work);
    nowMs += predictMs(work);
    pacer.onEnd(work, predictMs(work));
    rooms.push(prefillTokenCount);
  }
  return { rooms, meanStepMs: nowMs / stepCount };
}

/** As of a small model on a CPU: a block of a prompt takes as long as the decodes. */
const slowPrompts = ({ decodeCount, prefillTokenCount }: StepWork) =>
  0.8 * decodeCount + 0.05 * prefillTokenCount;

describe('Pacer', () => {
  it('keeps a TPOT that not even one block fits into, by steps without prompts between', () => {
    const { rooms, meanStepMs } = pace(slowPrompts, 1.3, 200);
    expect(meanStepMs).toBeLessThanOrEqual(1.3);
    const tokenCount = rooms.reduce((sum, room) => sum + room, 0);
    // most of what is left beside the decodes
    expect(tokenCount).toBeGreaterThan((0.8 * 200 * (1.3 - 0.8)) / 0.05);
    expect(rooms).toContain(0);
  });

  it('lets prompts go on where decodes alone break their TPOT', () => {
    const { rooms } = pace(slowPrompts, 0.79, 200);
    for (let from = 0; from + slackTokenCount <= rooms.length; from++)
      expect(Math.max(...rooms.slice(from, from + slackTokenCount))).toBeGreaterThanOrEqual(
        leastPromptTokenCount,
      );
  });

  it('fills steps up to the TPOT where blocks fit', () => {
    const { rooms, meanStepMs } = pace((work) => 2 + slowPrompts(work), 8, 50);
    expect(meanStepMs).toBeLessThanOrEqual(8);
    expect(meanStepMs).toBeGreaterThan(0.9 * 8);
    expect(Math.min(...rooms)).toBeGreaterThan(0);
  });
});
