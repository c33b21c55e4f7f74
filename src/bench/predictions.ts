/** How far the router's estimates were from what came: |predicted − real| / real of single requests. Used by
 *  sweep-summary.ts. TTFT, transfer, TPOT and E2EL are judged apart, given the length the answer really had,
 *  so that none is blamed for the length predictor; E2EL with the predicted length, as the router used it, is
 *  the fifth row. */
import { percentile } from '../base/percentiles.js';
import { e2elMsOf, type LoadRecord, tpotMsOf, ttftMsOf } from './load-record.js';

export const predictionNames = ['ttft', 'transfer', 'tpot', 'e2el', 'e2elOfPredictedLength'] as const;
type PredictionName = (typeof predictionNames)[number];

export const predictionTitles = {
  ttft: 'TTFT',
  transfer: 'transfer',
  tpot: 'TPOT, real length',
  e2el: 'E2EL, real length',
  e2elOfPredictedLength: 'E2EL, predicted length',
} as const;

interface Prediction {
  readonly predictedMs: number;
  readonly realMs: number;
}

interface PredictionError {
  readonly requestCount: number;
  readonly median: number;
  readonly p90: number;
}

export type ErrorsByName = Readonly<Partial<Record<PredictionName, PredictionError>>>;

/** undefined: nothing was predicted, or nothing came to compare it with. */
export function predictionOf(record: LoadRecord, name: PredictionName): Prediction | undefined {
  const { predicted, outcome } = record;
  if (predicted === undefined || outcome !== 'completed') return undefined;
  const predictedMs = predictedMsOf(record, predicted, name);
  const realMs = realMsOf(record, name);
  if (predictedMs === undefined || realMs === undefined || !(predictedMs > 0) || !(realMs > 0))
    return undefined;
  return { predictedMs, realMs };
}

/** After the first token come the transfer and joining a step, exposed once, and one step a token. */
function predictedMsOf(
  { outputTokenCount }: LoadRecord,
  { ttftMs, transferMs = 0, joinMs = 0, stepMs, e2elMs }: NonNullable<LoadRecord['predicted']>,
  name: PredictionName,
): number | undefined {
  const furtherCount = outputTokenCount - 1;
  const afterMs = stepMs === undefined ? undefined : transferMs + joinMs + furtherCount * stepMs;
  if (name === 'ttft') return ttftMs;
  if (name === 'transfer') return transferMs;
  if (name === 'tpot') return afterMs === undefined || furtherCount < 1 ? undefined : afterMs / furtherCount;
  if (name === 'e2el') return afterMs === undefined || ttftMs === undefined ? undefined : ttftMs + afterMs;
  return e2elMs;
}

function realMsOf(record: LoadRecord, name: PredictionName): number | undefined {
  if (name === 'ttft') return ttftMsOf(record);
  if (name === 'transfer') return record.transferMs;
  return name === 'tpot' ? tpotMsOf(record) : e2elMsOf(record);
}

/** Names without a single judged request are left out. */
export function predictionErrors(records: readonly LoadRecord[]): ErrorsByName {
  const entries = predictionNames.flatMap((name): [PredictionName, PredictionError][] => {
    const errors = records.flatMap((record) => {
      const prediction = predictionOf(record, name);
      return prediction === undefined
        ? []
        : [Math.abs(prediction.predictedMs - prediction.realMs) / prediction.realMs];
    });
    if (errors.length === 0) return [];
    errors.sort((a, b) => a - b);
    return [
      [name, { requestCount: errors.length, median: percentile(errors, 0.5), p90: percentile(errors, 0.9) }],
    ];
  });
  return Object.fromEntries(entries);
}
