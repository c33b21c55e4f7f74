/** The two nouns of a load test: what was planned for one request and what came of it. Records are what
 *  result files keep; every figure of a report is derived from them again, so nothing that a figure needs may
 *  live elsewhere. All times are milliseconds since the run began. */

export const lengthClasses = ['short', 'medium', 'long', 'huge'] as const;
export type LengthClass = (typeof lengthClasses)[number];

/** Classes of prompt length with an SLO each: up to 256, 1023, 2048 tokens, and beyond. */
export function lengthClassOf(promptTokenCount: number): LengthClass {
  if (promptTokenCount <= 256) return 'short';
  if (promptTokenCount < 1024) return 'medium';
  return promptTokenCount <= 2048 ? 'long' : 'huge';
}

export type LoadPrompt =
  | { readonly kind: 'ids'; readonly ids: readonly number[] }
  | { readonly kind: 'text'; readonly text: string };

export interface PlannedRequest {
  readonly index: number;
  /** 'asap': as soon as a slot is free (rate inf, or serial). */
  readonly at: number | 'asap';
  readonly prompt: LoadPrompt;
  /** Exact for ids, an estimate for text. */
  readonly promptTokenCount: number;
  /** How long the answer is to be. */
  readonly wantedTokenCount: number;
  readonly maxTokenCount: number;
  /** Sent along, for servers that pace by it. Absent: the server's own. */
  readonly slo?: { readonly ttftMs?: number; readonly tpotMs?: number; readonly e2elMs?: number };
}

/** 'completed': the stream ended in order. 'rejected': 429 or 503. 'failed': anything else that ended it.
 *  'unfinished': still running when the drain time was over, cut by the generator. */
export type Outcome = 'completed' | 'rejected' | 'failed' | 'unfinished';

/** Of the path that was taken: transferMs is exposed between first and second token, stepMs per token; tpotMs
 *  and e2elMs are for expectedTokenCount tokens. */
export const predictedNames = [
  'ttftMs',
  'transferMs',
  'joinMs',
  'stepMs',
  'tpotMs',
  'e2elMs',
  'expectedTokenCount',
] as const;
type PredictedName = (typeof predictedNames)[number];

export interface LoadRecord {
  readonly index: number;
  readonly phase: 'warmup' | 'measured';
  readonly lengthClass: LengthClass;
  readonly promptTokenCount: number;
  readonly wantedTokenCount: number;
  readonly maxTokenCount: number;
  readonly outputTokenCount: number;
  readonly scheduledMs: number;
  readonly sentMs: number;
  /** The generator's own lateness: sent minus scheduled, without waiting for a slot of --max-concurrency. */
  readonly delayMs: number;
  /** Requests of this run that were open when this one was sent. */
  readonly inFlightCount: number;
  /** Absent: no token came. */
  readonly firstTokenMs?: number;
  readonly endMs: number;
  /** Between the arrivals of chunks with tokens, as in vLLM's benchmark. */
  readonly gapsMs: readonly number[];
  readonly outcome: Outcome;
  readonly status?: number;
  readonly error?: string;
  /** The server's id of the answer. */
  readonly id?: string;
  /** x-twostroke-route: path and workers. */
  readonly route?: string;
  /** The router's estimates when it chose, where the server tells them. */
  readonly predicted?: Readonly<Partial<Record<PredictedName, number>>>;
  /** From the first token until the decode side went on with the request, as the server timed it; absent:
   *  nothing was handed over. */
  readonly transferMs?: number;
}

export const ttftMsOf = (record: LoadRecord): number | undefined =>
  record.firstTokenMs === undefined ? undefined : record.firstTokenMs - record.sentMs;

export const e2elMsOf = (record: LoadRecord): number => record.endMs - record.sentMs;

/** (E2EL − TTFT) / (tokens − 1), as in vLLM's benchmark; undefined for answers of less than two tokens. */
export function tpotMsOf(record: LoadRecord): number | undefined {
  const ttftMs = ttftMsOf(record);
  if (ttftMs === undefined || record.outputTokenCount < 2) return undefined;
  return (e2elMsOf(record) - ttftMs) / (record.outputTokenCount - 1);
}

export function pathOf({ route }: LoadRecord): 'collocated' | 'disaggregated' | 'unknown' {
  if (route?.startsWith('collocated') === true) return 'collocated';
  return route?.startsWith('disaggregated') === true ? 'disaggregated' : 'unknown';
}
