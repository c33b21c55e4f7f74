/** SLOs as an operator states them, `ttft:5x,tpot:2x` or `ttft:500,tpot:50,e2el:20000`: milliseconds, or
 *  multiples of what a request takes alone. Read by cli/ and control/service-class.ts, made into a
 *  request's SLO by default-slo.ts. */
import { InvalidRequestError } from '../base/errors.js';
import type { Slo } from './slo.js';

type SloTerm =
  | { readonly unit: 'ms'; readonly value: number }
  | { readonly unit: 'multiple'; readonly value: number };

export interface SloSpec {
  readonly ttft: SloTerm;
  readonly tpot: SloTerm;
  readonly e2elMs?: number;
}

/** The usual multiples of load tests (DistServe, Splitwise). */
export const usualSloSpec: SloSpec = {
  ttft: { unit: 'multiple', value: 5 },
  tpot: { unit: 'multiple', value: 2 },
};

/** An hour; shorter than what timers can count, longer than anybody waits. */
export const sloMsMax = 3_600_000;
/** Beyond it the shortest prompt's TTFT is minutes. */
const multipleMax = 10_000;

/** What is not named is as in `base`. Throws InvalidRequestError naming `option` and what it takes. */
export function parseSloSpec(text: string, option: string, base: SloSpec = usualSloSpec): SloSpec {
  let spec = base;
  const named = new Set<string>();
  for (const pair of text.split(',')) {
    const [, metric = '', digits = '', unit = ''] =
      /^\s*(\w+):(\d+(?:\.\d+)?|\.\d+)(x|ms)?\s*$/.exec(pair) ?? [];
    if (!isMetric(metric) || named.has(metric)) throw wrong(option, text);
    named.add(metric);
    spec = withTerm(spec, metric, { unit: unit === 'x' ? 'multiple' : 'ms', value: Number(digits) }, () =>
      wrong(option, text),
    );
  }
  return spec;
}

type Metric = 'ttft' | 'tpot' | 'e2el';

function isMetric(name: string): name is Metric {
  return name === 'ttft' || name === 'tpot' || name === 'e2el';
}

function withTerm(spec: SloSpec, metric: Metric, term: SloTerm, error: () => Error): SloSpec {
  const valueMax = term.unit === 'ms' ? sloMsMax : multipleMax;
  if (!(term.value > 0 && term.value <= valueMax)) throw error();
  if (metric !== 'e2el') return { ...spec, [metric]: term };
  if (term.unit === 'multiple') throw error(); // of what? how long the answer becomes is not known
  return { ...spec, e2elMs: term.value };
}

function wrong(option: string, text: string): InvalidRequestError {
  return new InvalidRequestError(
    `${option} ${text}: expected ttft:MS,tpot:MS,e2el:MS, each at most once and up to ${sloMsMax} ms; ttft and tpot also as multiples of ` +
      'what a request takes alone, such as ttft:5x,tpot:2x',
    'slo',
  );
}

/** Of a request that takes `unloaded` alone. */
export function sloFrom({ ttft, tpot, e2elMs }: SloSpec, unloaded: Pick<Slo, 'ttftMs' | 'tpotMs'>): Slo {
  return {
    ttftMs: msOf(ttft, unloaded.ttftMs),
    tpotMs: msOf(tpot, unloaded.tpotMs),
    ...(e2elMs === undefined ? {} : { e2elMs }),
  };
}

function msOf({ unit, value }: SloTerm, unloadedMs: number): number {
  return unit === 'ms' ? value : value * unloadedMs;
}
