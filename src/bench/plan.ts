/** Joins arrivals and workload into the requests of one run, lazily, and fits them into the model's context.
 *  Used by serve.ts.
 *  Invariant: max_tokens says nothing about the answer's length: it is one number for the whole workload, at
 *  least twice its longest answer, lowered only where the context ends. */
import { lengthClassOf, type PlannedRequest } from './load-record.js';
import type { SloByClass } from './slo.js';
import type { Sample, Workload } from './workload.js';

interface PlanOptions {
  /** 'forced': the server ends the answer at the wanted length, max_tokens is far above. 'limit': max_tokens
   *  is the wanted length. */
  readonly outputLength: 'forced' | 'limit';
  /** LoadPrompt and answer together; null: not known. */
  readonly contextTokenCount: number | null;
  readonly requestCountMax: number;
  /** No arrival after this. */
  readonly durationMs: number;
  /** By class of prompt length, sent along with each request. Absent: the server's own. */
  readonly sentSlos?: SloByClass;
}

export interface PlanCounts {
  /** Requests shortened to fit the context. */
  shortenedCount: number;
}

export function* planRequests(
  arrivalTimes: Iterator<number | 'asap'>,
  workload: Workload,
  options: PlanOptions,
  counts: PlanCounts,
): Generator<PlannedRequest, void, undefined> {
  const requestCount = Math.min(options.requestCountMax, workload.sampleCount);
  for (let index = 0; index < requestCount; index++) {
    const next = arrivalTimes.next();
    if (next.done === true) return;
    if (next.value !== 'asap' && next.value > options.durationMs) return;
    const sample = workload.sample(index);
    const fitted = fitToContext(sample, options, 2 * workload.outputTokenCountMax);
    if (
      fitted.promptTokenCount < sample.promptTokenCount ||
      fitted.wantedTokenCount < sample.outputTokenCount
    )
      counts.shortenedCount++;
    const slo = options.sentSlos?.[lengthClassOf(fitted.promptTokenCount)];
    yield { index, at: next.value, ...fitted, ...(slo === undefined ? {} : { slo }) };
  }
}

/** An answer keeps at least a quarter of the context (half of it wanted, twice that allowed); a longer prompt
 *  loses its end. */
function fitToContext(
  { prompt, ...sample }: Sample,
  { outputLength, contextTokenCount }: PlanOptions,
  maxTokenCount: number,
) {
  const context = contextTokenCount ?? Number.POSITIVE_INFINITY;
  const factor = outputLength === 'forced' ? 2 : 1;
  const keptTokenCount = Math.min(factor * sample.outputTokenCount, Math.max(1, Math.floor(context / 4)));
  const promptTokenCount =
    prompt.kind === 'ids'
      ? Math.min(sample.promptTokenCount, context - keptTokenCount)
      : sample.promptTokenCount;
  const room = Math.max(1, context - promptTokenCount);
  const wantedTokenCount = Math.max(1, Math.min(sample.outputTokenCount, Math.floor(room / factor)));
  return {
    prompt:
      prompt.kind === 'ids' ? { kind: 'ids' as const, ids: prompt.ids.slice(0, promptTokenCount) } : prompt,
    promptTokenCount,
    wantedTokenCount,
    maxTokenCount: outputLength === 'forced' ? Math.min(room, maxTokenCount) : wantedTokenCount,
  };
}
