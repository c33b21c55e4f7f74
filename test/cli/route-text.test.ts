/** What `twostroke route` says of a request's SLO. */
import { expect, it } from 'vitest';
import { requestId } from '../../src/base/ids.js';
import { explanationText, sloText } from '../../src/cli/route-explanation.js';
import type { RequestRecord } from '../../src/control/request-record.js';

const record: RequestRecord = {
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
  slo: { ttftMs: 250.25, tpotMs: 3 },
  sloMet: { ttft: true, tpot: true, e2el: true, all: true },
};
const missed = { ttft: false, tpot: true, e2el: false, all: false };

it('says what was met and what was missed', () => {
  expect(sloText(record)).toBe('met');
  expect(sloText({ ...record, isLate: true, sloMet: missed })).toBe('missed ttft e2el (late)');
  const { sloMet: _, ...unjudged } = record;
  expect(sloText(unjudged)).toBe('-');
});

it('gives its limits in full', () => {
  const textOf = (more: Partial<RequestRecord>) =>
    explanationText({ requests: [{ ...record, ...more }], routing: null }).split('\n')[1];
  expect(textOf({})).toBe('SLO: TTFT 250.3 ms, TPOT 3 ms: met');
  const late = textOf({ isLate: true, sloMet: missed, slo: { ttftMs: 1, tpotMs: 3, e2elMs: 900 } });
  expect(late).toMatch(
    /^SLO: TTFT 1 ms, TPOT 3 ms, E2EL 900 ms: missed ttft e2el; predicted to be late .*: served after all/,
  );
});
