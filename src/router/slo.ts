/** What a request is to be served within: a service level objective. Given by the client or made by
 *  default-slo.ts; paced by the engine, weighed by the router, judged by metrics. */

/** Milliseconds. */
export interface Slo {
  /** From arrival to the first token. */
  readonly ttftMs: number;
  /** Per token after the first, on average over the answer. */
  readonly tpotMs: number;
  /** From arrival to the last token. Judged only: nobody knows beforehand how long an answer becomes, so
   *  nothing is paced by it. */
  readonly e2elMs?: number;
}
