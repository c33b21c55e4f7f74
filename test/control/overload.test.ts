/** Who is refused for a wait, and when it is told to come back; whether an SLO was met. */
import { describe, expect, it } from 'vitest';
import { requestId } from '../../src/base/ids.js';
import { OverloadedError } from '../../src/control/admission.js';
import { lateAfterMs, refuseLate, refuseLongWait } from '../../src/control/overload.js';
import type { RequestRecord } from '../../src/control/request-record.js';
import { sloVerdictOf } from '../../src/control/slo-verdict.js';

function retryAfterOf(refuse: () => void): number | null {
  try {
    refuse();
  } catch (error) {
    if (error instanceof OverloadedError) return error.retryAfterMs;
    throw error;
  }
  return null;
}

describe('a refusal', () => {
  const slo = { ttftMs: 1000, tpotMs: 50 };

  it('of a late one says when its first token would be in time', () => {
    expect(retryAfterOf(() => refuseLate({ ttftMs: 6200, waitMs: 6000 }, slo.ttftMs, 200))).toBe(5200);
    expect(retryAfterOf(() => refuseLate({ ttftMs: 1000, waitMs: 900 }, slo.ttftMs, 200))).toBeNull();
  });

  it('is not given for an SLO that an idle server misses: that is no overload', () =>
    expect(retryAfterOf(() => refuseLate({ ttftMs: 6200, waitMs: 5000 }, slo.ttftMs, 1100))).toBeNull());

  it('comes sooner to who has had more than his share: half of what the TTFT leaves for waiting is for others', () => {
    expect(lateAfterMs(slo, 200, false)).toBe(1000);
    expect(lateAfterMs(slo, 200, true)).toBe(600);
    expect(lateAfterMs(slo, 1100, true)).toBe(1000);
  });

  it('of a long wait says when the wait is short enough', () => {
    expect(
      retryAfterOf(() =>
        refuseLongWait({ ttftMs: 70_000, waitMs: 65_000 }, Number.POSITIVE_INFINITY, 60_000),
      ),
    ).toBe(5000);
    expect(
      retryAfterOf(() =>
        refuseLongWait({ ttftMs: 70_000, waitMs: 59_000 }, Number.POSITIVE_INFINITY, 60_000),
      ),
    ).toBeNull();
  });

  it('comes when waiting takes it past its own deadline, not when its prompt alone does', () => {
    expect(retryAfterOf(() => refuseLongWait({ ttftMs: 3000, waitMs: 2800 }, 1000, 60_000))).toBe(2000);
    expect(retryAfterOf(() => refuseLongWait({ ttftMs: 3000, waitMs: 1000 }, 1000, 60_000))).toBeNull();
  });
});

describe('an SLO', () => {
  const slo = { ttftMs: 100, tpotMs: 10, e2elMs: 300 };
  const record = (more: Partial<RequestRecord>): RequestRecord => ({
    id: requestId('r'),
    outcome: 'finished',
    isMeasurement: false,
    isLate: false,
    routes: [],
    promptTokenCount: 5,
    cachedTokenCount: 0,
    outputTokenCount: 11,
    finishReasons: ['stop'],
    arrivalMs: 1000,
    firstTokenMs: 1080,
    doneMs: 1170,
    transferBytes: 0,
    exposedTransferMs: 0,
    reservationWaitMs: 0,
    handOverFailures: [],
    lossCount: 0,
    ...more,
  });
  const without = (name: 'firstTokenMs', made: RequestRecord) => {
    const { [name]: _, ...rest } = made;
    return rest;
  };

  it.each([
    ['is met', {}, { ttft: true, tpot: true, e2el: true, all: true }],
    ['is missed in TTFT', { firstTokenMs: 1101 }, { ttft: false, tpot: true, e2el: true, all: false }],
    ['is missed in TPOT', { doneMs: 1190 }, { ttft: true, tpot: false, e2el: true, all: false }],
    [
      'is missed in E2EL',
      { doneMs: 1301, outputTokenCount: 40 },
      { ttft: true, tpot: true, e2el: false, all: false },
    ],
    [
      'of one token has no TPOT',
      { doneMs: 1290, outputTokenCount: 1 },
      { ttft: true, tpot: true, e2el: true, all: true },
    ],
    [
      'of a failure keeps what came in time',
      { outcome: 'failed' },
      { ttft: true, tpot: false, e2el: false, all: false },
    ],
  ] as const)('%s', (_, more, verdict) =>
    expect(sloVerdictOf(record(more as Partial<RequestRecord>), slo)).toEqual(verdict),
  );

  it('of a client that left is judged only when it was late already', () => {
    expect(sloVerdictOf(record({ outcome: 'cancelled' }), slo)).toBeNull();
    expect(
      sloVerdictOf(without('firstTokenMs', record({ outcome: 'cancelled', doneMs: 1100 })), slo),
    ).toBeNull();
    const none = { ttft: false, tpot: false, e2el: false, all: false };
    expect(
      sloVerdictOf(without('firstTokenMs', record({ outcome: 'cancelled', doneMs: 1101 })), slo),
    ).toEqual(none);
  });
});
