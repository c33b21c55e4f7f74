/** The text of `twostroke route --explain`: one decision with its inputs, both estimates, the choice, and
 *  what really happened. */
import { type RoutingStatus, realTimesOf } from '../control/prediction-errors.js';
import type { RequestRecord, RouteSummary } from '../control/request-record.js';
import { table } from './quantities.js';

/** Of GET /routes. */
export interface RoutesAnswer {
  /** Newest first. */
  readonly requests: readonly RequestRecord[];
  /** null: this key may not see it. */
  readonly routing: RoutingStatus | null;
}

/** Rows of the comparison: estimate, its meaning, what it is called in RealTimes. */
const rows = [
  ['messagesMs', 'messages'],
  ['waitMs', 'waiting for steps, earlier prompts, room'],
  ['prefillMs', 'prefill'],
  ['ttftMs', 'time to first token', 'ttftMs'],
  ['transferMs', 'exposed KV transfer', 'transferMs'],
  ['joinMs', 'until a step takes it'],
  ['stepMs', 'per further token'],
  ['tpotMs', 'TPOT', 'tpotMs'],
  ['e2elMs', 'E2EL at the expected length', 'e2elMs'],
  ['ttftUse', 'share of its TTFT SLO'],
  ['tpotUse', 'share of its TPOT SLO, no prompts beside it'],
] as const;

export function explanationText({ requests, routing }: RoutesAnswer): string {
  const [record] = requests;
  if (record === undefined) return 'no request has ended yet\n';
  const attempts = record.routes.flatMap((route, index) => attemptLines(record, route, index));
  return `${[`request ${record.id}: ${record.outcome}`, ...sloLines(record), ...attempts, '', planLine(routing)].join('\n')}\n`;
}

/** For the table: met, or what was missed. */
export function sloText({ sloMet, isLate }: RequestRecord): string {
  if (sloMet === undefined) return '-';
  const missed = (['ttft', 'tpot', 'e2el'] as const).filter((part) => !sloMet[part]);
  const text = missed.length === 0 ? 'met' : `missed ${missed.join(' ')}`;
  return isLate ? `${text} (late)` : text;
}

function sloLines(record: RequestRecord): readonly string[] {
  const { slo, isLate } = record;
  if (slo === undefined) return [];
  const goals = [`TTFT ${rounded(slo.ttftMs)} ms`, `TPOT ${rounded(slo.tpotMs)} ms`];
  if (slo.e2elMs !== undefined) goals.push(`E2EL ${rounded(slo.e2elMs)} ms`);
  const late = isLate ? '; predicted to be late when it came: served after all who could be in time' : '';
  return [`SLO: ${goals.join(', ')}: ${sloText({ ...record, isLate: false })}${late}`];
}

/** Who may do what now. */
export function planLine(routing: RoutingStatus | null): string {
  if (routing === null) return 'the plan in use is for the admin key';
  const { strategy, plan, prefillFirst } = routing;
  if (plan === null) return `strategy ${strategy}: no worker is live`;
  const first = prefillFirst.length === 0 ? '' : `, prefill-first: ${prefillFirst.join(', ')}`;
  return `strategy ${strategy}, plan ${plan}${first}`;
}

function attemptLines(record: RequestRecord, route: RouteSummary, index: number): readonly string[] {
  const inputs = Object.entries(route.inputs).map(([name, value]) => `${name} ${rounded(value)}`);
  const otherPath = route.path === 'collocated' ? 'disaggregated' : 'collocated';
  const head = ['', `${route.path} (${route.workers.join(' -> ')})`];
  if (route.otherWorkers !== undefined) head.push(`${otherPath} (${route.otherWorkers.join(' -> ')})`);
  const real: Readonly<Record<string, number | undefined>> = { ...realTimesOf(record) };
  const lines = rows.map(([name, meaning, realName]) => {
    const other = route.estimates[`other${name.charAt(0).toUpperCase()}${name.slice(1)}`];
    const cells = [meaning, shown(route.estimates[name])];
    if (route.otherWorkers !== undefined) cells.push(shown(other));
    return [...cells, realName === undefined ? '' : shown(real[realName])];
  });
  return [
    '',
    `attempt ${index + 1}: ${route.path} on ${route.workers.join(' -> ')}: ${route.reason}`,
    `plan: ${route.plan}`,
    `inputs: ${inputs.join(', ')}`,
    ...table([[...head, 'really'], ...lines]),
    `output: ${record.outputTokenCount} tokens, ${rounded(route.inputs.expectedTokenCount ?? Number.NaN)} expected`,
  ];
}

function shown(value: number | undefined): string {
  return value === undefined ? '-' : value.toFixed(2);
}

function rounded(value: number): string {
  return Number.isInteger(value) ? String(value) : value.toFixed(1);
}
