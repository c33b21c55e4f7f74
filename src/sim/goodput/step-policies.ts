/** What a modelled worker puts into its next step. Used by policies.ts. The paced ones are what
 *  engine/pacer.ts would do if it knew how long answers become and how long steps take on average. */
import {
  aimedTpotShare,
  leastPromptTokenCount,
  type PredictMs,
  promptRoomWithin,
  stepWith,
} from '../../router/paced-step.js';
import type { ModelSequence, ModelStep, Policy } from './cluster-model.js';

/** What is known of the workers; all are alike. */
export interface Knowledge {
  readonly predictMs: PredictMs;
  /** Query tokens per step. */
  readonly tokenBudget: number;
  /** Sequences per batch. */
  readonly sequenceCountMax: number;
}

/** Of a paced step, as a share of the budget: larger ones compute prompts hardly faster and make others
 *  wait. */
const largestShare = 1 / 4;

export function largestPaced({ tokenBudget }: Knowledge): number {
  return Math.max(leastPromptTokenCount, Math.ceil(tokenBudget * largestShare));
}

type PlanStep = Policy['step'];

/** Prompts in order of arrival, as many tokens as the budget allows beside the decodes. */
export function budgeted({ sequenceCountMax }: Knowledge, tokenBudget: number): PlanStep {
  return ({ decoding, prompts }) => {
    const decodes = decoding.slice(0, sequenceCountMax);
    return { decodes, chunks: fill(prompts, tokenBudget - decodes.length, () => true) };
  };
}

interface Pacing {
  /** Of the TPOT, that steps aim at. */
  readonly aimedShare: number;
  /** What a decode may be slowed by in a step: up to its TPOT, or all that it has saved and will not need
   *  until its end. */
  readonly spend: 'step' | 'answer';
  /** Who cannot have its first token in time: waits for all others, or is given up. */
  readonly late: 'waits' | 'rejected';
  /** Among those who can. */
  readonly order: 'due' | 'shortest';
}

export function paced(knowledge: Knowledge, pacing: Pacing): PlanStep {
  const { predictMs, tokenBudget, sequenceCountMax } = knowledge;
  const largest = largestPaced(knowledge);
  return (worker, startMs, reject) => {
    const decodes = worker.decoding.slice(0, sequenceCountMax);
    const [first] = worker.prompts;
    if (first === undefined) return { decodes, chunks: [] };
    const rows = rowsOf(decodes);
    const most = Math.max(leastPromptTokenCount, Math.min(largest, tokenBudget - decodes.length));
    const { capMs, wholeMs } = capsOf(decodes, startMs, predictMs(stepWith(rows, 0)), pacing);
    const stepMs = (tokenCount: number) => predictMs(stepWith(rows, tokenCount, first.computedCount));
    const fitting = promptRoomWithin(predictMs, rows, capMs, { most, firstPosition: first.computedCount });
    const block = stepMs(leastPromptTokenCount) <= wholeMs ? leastPromptTokenCount : 0;
    const room = Math.max(block, fitting);
    const counted = Math.max(leastPromptTokenCount, room);
    const msPerToken = stepMs(counted) / counted;
    const isLate = (sequence: ModelSequence) =>
      startMs + uncomputedOf(sequence) * msPerToken > dueMsOf(sequence);
    const late = worker.prompts.filter(isLate);
    if (pacing.late === 'rejected') for (const sequence of late) reject(sequence);
    const inTime =
      late.length === 0 ? [...worker.prompts] : worker.prompts.filter((sequence) => !late.includes(sequence));
    inTime.sort(
      pacing.order === 'due'
        ? (a, b) => dueMsOf(a) - dueMsOf(b)
        : (a, b) => uncomputedOf(a) - uncomputedOf(b),
    );
    const queue = pacing.late === 'rejected' ? inTime : [...inTime, ...late];
    return { decodes, chunks: fill(queue, room, (sequence) => mayBegin(sequence, knowledge)) };
  };
}

/** What the step may take: the least that any decode allows, and if all that it has saved were spent at once
 *  on a block that does not fit otherwise. Who cannot keep its TPOT any more allows anything. */
function capsOf(
  decodes: readonly ModelSequence[],
  startMs: number,
  baseMs: number,
  { spend, aimedShare }: Pacing,
) {
  let capMs = Number.POSITIVE_INFINITY;
  let wholeMs = Number.POSITIVE_INFINITY;
  for (const { request, drawnCount, firstStepMs } of decodes) {
    const { tpotMs } = request.slo;
    const leftCount = request.outputTokenCount - drawnCount;
    const allowedMs = (request.outputTokenCount - 1) * tpotMs;
    const elapsedMs = Math.max(0, startMs - firstStepMs);
    if ((allowedMs - elapsedMs) / leftCount < aimedTpotShare * baseMs) continue;
    const own = spend === 'step' ? aimedShare * tpotMs : (aimedShare * allowedMs - elapsedMs) / leftCount;
    capMs = Math.min(capMs, own);
    wholeMs = Math.min(wholeMs, aimedShare * tpotMs * drawnCount - elapsedMs);
  }
  return { capMs, wholeMs };
}

/** Once begun it will decode: not before those who decode, or will, can keep their TPOT with it. */
function mayBegin(
  { request, computedCount, decodeWorker }: ModelSequence,
  { predictMs, sequenceCountMax }: Knowledge,
): boolean {
  if (computedCount > 0) return true;
  const others = [...decodeWorker.decoding, ...begun(decodeWorker.incoming), ...begun(decodeWorker.prompts)];
  if (others.length === 0) return true;
  const { count, kvTokenCount } = rowsOf(others);
  const together = { count: count + 1, kvTokenCount: kvTokenCount + request.promptTokenCount };
  return count < sequenceCountMax && predictMs(stepWith(together, 0)) <= aimedTpotShare * request.slo.tpotMs;
}

function begun(sequences: Iterable<ModelSequence>): readonly ModelSequence[] {
  return [...sequences].filter(({ computedCount }) => computedCount > 0);
}

function fill(
  queue: readonly ModelSequence[],
  tokenCount: number,
  mayTake: (sequence: ModelSequence) => boolean,
): ModelStep['chunks'] {
  const chunks: { sequence: ModelSequence; tokenCount: number }[] = [];
  let room = tokenCount;
  for (const sequence of queue) {
    if (room <= 0) break;
    if (!mayTake(sequence)) continue;
    const chunkTokenCount = Math.min(room, uncomputedOf(sequence));
    chunks.push({ sequence, tokenCount: chunkTokenCount });
    room -= chunkTokenCount;
  }
  return chunks;
}

export function rowsOf(sequences: readonly ModelSequence[]): {
  readonly count: number;
  readonly kvTokenCount: number;
} {
  let kvTokenCount = 0;
  for (const { request, drawnCount } of sequences) kvTokenCount += request.promptTokenCount + drawnCount;
  return { count: sequences.length, kvTokenCount };
}

export function uncomputedOf({ request, computedCount }: ModelSequence): number {
  return request.promptTokenCount - computedCount;
}

export function dueMsOf({ request }: Pick<ModelSequence, 'request'>): number {
  return request.atMs + request.slo.ttftMs;
}
