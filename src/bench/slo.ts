/** SLOs and whether a request met them. A request that was rejected, failed or never ended has missed its
 *  SLO. */
import { InvalidRequestError } from '../base/errors.js';
import {
  e2elMsOf,
  type LengthClass,
  type LoadRecord,
  lengthClasses,
  tpotMsOf,
  ttftMsOf,
} from './load-record.js';

/** What is absent is met by every completed request. */
export interface GoodputSlo {
  readonly ttftMs?: number;
  readonly tpotMs?: number;
  readonly e2elMs?: number;
}

/** One per class of prompt length; classes that are absent have none. */
export type SloByClass = Readonly<Partial<Record<LengthClass, GoodputSlo>>>;

/** `ttft:500 tpot:50 long.ttft:2000`: the form of vLLM's --goodput, milliseconds; with a class before the dot
 *  it is that class's own, in place of the general one. */
export function parseGoodput(pairs: readonly string[]): SloByClass {
  const general: MutableSlo = {};
  const own: Record<LengthClass, MutableSlo> = { short: {}, medium: {}, long: {}, huge: {} };
  for (const pair of pairs) {
    const [, name, metric = '', value = ''] = /^(?:(\w+)\.)?(\w+):(.+)$/.exec(pair) ?? [];
    const ms = Number(value);
    const lengthClass = lengthClasses.find((known) => known === name);
    const isMetric = metric === 'ttft' || metric === 'tpot' || metric === 'e2el';
    if (!isMetric || !(ms > 0) || (name !== undefined && lengthClass === undefined)) {
      const classes = lengthClasses.join(', ');
      throw new InvalidRequestError(
        `--goodput ${pair}: expected ttft:MS, tpot:MS or e2el:MS, with CLASS. before it for one of ${classes}`,
        'goodput',
      );
    }
    const slo = lengthClass === undefined ? general : own[lengthClass];
    slo[`${metric}Ms`] = ms;
  }
  return Object.fromEntries(
    lengthClasses.map((lengthClass) => [lengthClass, { ...general, ...own[lengthClass] }]),
  );
}

type MutableSlo = { -readonly [Metric in keyof GoodputSlo]: GoodputSlo[Metric] };

/** An answer of one token has no TPOT and cannot miss it. */
export function meets(record: LoadRecord, slo: GoodputSlo): boolean {
  if (record.outcome !== 'completed') return false;
  const within = (value: number | undefined, most: number | undefined) =>
    most === undefined || value === undefined || value <= most;
  const ttftMs = ttftMsOf(record);
  if (ttftMs === undefined) return false;
  return (
    within(ttftMs, slo.ttftMs) && within(tpotMsOf(record), slo.tpotMs) && within(e2elMsOf(record), slo.e2elMs)
  );
}

export function scaledSlo(slos: SloByClass, factor: number): SloByClass {
  const scaled = (most: number | undefined) => (most === undefined ? undefined : most * factor);
  return Object.fromEntries(
    Object.entries(slos).map(([lengthClass, slo]) => [
      lengthClass,
      Object.fromEntries(
        Object.entries(slo)
          .map(([metric, most]) => [metric, scaled(most)])
          .filter(([, most]) => most !== undefined),
      ),
    ]),
  );
}

export function meetsItsClass(record: LoadRecord, slos: SloByClass): boolean {
  return meets(record, slos[record.lengthClass] ?? {});
}
