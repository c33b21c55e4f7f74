/** The modelled cluster against times computed by hand. */
import { describe, expect, it } from 'vitest';
import { at } from '../../../src/base/assert.js';
import { type ModelRequest, type Policy, serve } from '../../../src/sim/goodput/cluster-model.js';
import { budgeted, type Knowledge, paced } from '../../../src/sim/goodput/step-policies.js';
import { plainTimes } from '../clusters.js';

const slo = { ttftMs: 100, tpotMs: 4 };
const requestAt = (atMs: number, promptTokenCount: number, outputTokenCount: number): ModelRequest => ({
  atMs,
  promptTokenCount,
  outputTokenCount,
  slo,
});
const knowledge: Knowledge = { predictMs: plainTimes().steps.draw, tokenBudget: 100, sequenceCountMax: 8 };
const whole = (step: Policy['step']): Policy => ({
  name: 'whole',
  route: (_, workers) => [at(workers, 0), at(workers, 0)],
  step,
});
const split = (step: Policy['step']): Policy => ({
  name: 'split',
  route: (_, workers) => [at(workers, 0), at(workers, 1)],
  step,
});

// messages 0.5 ms there, 0.25 back; 0.02 ms a prompt token, 2 ms for decodes; a hand-over 0.25 + 1 + 0.1 ms,
// its bytes 1024 a token at 1 GB/s
describe('serve', () => {
  it('times one request from prompt to end', () => {
    const [served] = serve([requestAt(0, 100, 5)], whole(budgeted(knowledge, 100)), [plainTimes()]);
    expect(served?.ttftMs).toBeCloseTo(0.5 + 2 + 0.25, 9);
    expect(served?.tpotMs).toBeCloseTo(2, 9);
  });

  it('times a hand-over between first and second token', () => {
    const [served] = serve([requestAt(0, 100, 5)], split(budgeted(knowledge, 100)), [
      plainTimes(),
      plainTimes(),
    ]);
    expect(served?.ttftMs).toBeCloseTo(0.5 + 2 + 0.1024 + 0.25, 9);
    expect(served?.tpotMs).toBeCloseTo((1.35 + 4 * 2) / 4, 9);
  });

  it('computes a prompt in chunks beside a decode', () => {
    const requests = [requestAt(0, 100, 5), requestAt(0, 150, 1)];
    const [first, second] = serve(requests, whole(budgeted(knowledge, 100)), [plainTimes()]);
    // two steps were on their way when the second came: the first prompt, and its first decode
    expect(second?.ttftMs).toBeCloseTo(0.5 + 2 + 2 + (2 + 99 * 0.02) + (2 + 51 * 0.02) + 0.25, 9);
    expect(first?.tpotMs).toBeCloseTo((2 + 3.98 + 3.02 + 2) / 4, 9);
  });

  it('gives up what is hopeless, and that costs nobody anything', () => {
    const pacing = { aimedShare: 1, spend: 'step', late: 'rejected', order: 'due' } as const;
    const requests = [requestAt(0, 100, 1), requestAt(0, 20_000, 1), requestAt(1, 100, 1)];
    const served = serve(requests, whole(paced(knowledge, pacing)), [plainTimes()]);
    expect(served.map(({ ttftMs }) => Number.isFinite(ttftMs))).toEqual([true, false, true]);
    const alone = serve([at(requests, 0), at(requests, 2)], whole(paced(knowledge, pacing)), [plainTimes()]);
    expect(served[2]?.ttftMs).toBe(alone[1]?.ttftMs);
  });

  it('begins a prompt once the worker that will decode has room for it', () => {
    const draw: Knowledge['predictMs'] = ({ decodeCount, prefillTokenCount }) =>
      2 * decodeCount + 0.02 * prefillTokenCount;
    const pacing = { aimedShare: 1, spend: 'step', late: 'waits', order: 'due' } as const;
    const requests = [requestAt(0, 100, 5), requestAt(1, 100, 5)].map((each) => ({
      ...each,
      slo: { ttftMs: 100, tpotMs: 3 },
    }));
    const times = () => ({ ...plainTimes(), steps: { draw } });
    const policy = split(paced({ ...knowledge, predictMs: draw }, pacing));
    const [first, second] = serve(requests, policy, [times(), times()]);
    const firstEndMs = (first?.ttftMs ?? 0) + 4 * (first?.tpotMs ?? 0);
    // its last tokens are in steps that have been planned
    expect(second?.ttftMs).toBeGreaterThan(firstEndMs - 1 - 3);
    expect(second?.tpotMs).toBeLessThanOrEqual(3);
  });

  it('keeps the TPOT of those who decode when steps are paced', () => {
    const pacing = { aimedShare: 1, spend: 'step', late: 'waits', order: 'due' } as const;
    const requests = [requestAt(0, 25, 20), ...Array.from({ length: 10 }, () => requestAt(5, 100, 1))];
    const tight = requests.map((request) => ({ ...request, slo: { ttftMs: 100, tpotMs: 2.4 } }));
    const [first, ...others] = serve(tight, whole(paced({ ...knowledge, tokenBudget: 400 }, pacing)), [
      plainTimes(),
    ]);
    const [hurried] = serve(tight, whole(budgeted(knowledge, 400)), [plainTimes()]);
    expect(first?.tpotMs).toBeLessThanOrEqual(2.4);
    expect(hurried?.tpotMs).toBeGreaterThan(2.4);
    expect(others.every(({ ttftMs }) => Number.isFinite(ttftMs))).toBe(true);
  });
});
