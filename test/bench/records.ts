/** Records and sweeps made up by the tests. */
import { type LoadRecord, lengthClassOf } from '../../src/bench/load-record.js';
import type { SweepData, SweepRun } from '../../src/bench/sweep-file.js';

export interface RecordShape {
  readonly index?: number;
  readonly promptTokenCount?: number;
  readonly tokenCount?: number;
  readonly scheduledMs?: number;
  readonly delayMs?: number;
  readonly ttftMs?: number;
  readonly gapMs?: number;
  readonly outcome?: LoadRecord['outcome'];
  readonly extra?: Partial<LoadRecord>;
}

export function record(shape: RecordShape = {}): LoadRecord {
  const {
    index = 0,
    promptTokenCount = 100,
    tokenCount = 5,
    scheduledMs = 0,
    delayMs = 0,
    ttftMs = 50,
    gapMs = 10,
  } = shape;
  const { outcome = 'completed' } = shape;
  const sentMs = scheduledMs + delayMs;
  const isDone = outcome === 'completed';
  return {
    index,
    phase: 'measured',
    lengthClass: lengthClassOf(promptTokenCount),
    promptTokenCount,
    wantedTokenCount: tokenCount,
    maxTokenCount: 4 * tokenCount,
    outputTokenCount: isDone ? tokenCount : 0,
    scheduledMs,
    sentMs,
    delayMs,
    inFlightCount: 0,
    ...(isDone ? { firstTokenMs: sentMs + ttftMs } : {}),
    endMs: isDone ? sentMs + ttftMs + gapMs * (tokenCount - 1) : sentMs + 1,
    gapsMs: isDone ? Array.from({ length: tokenCount - 1 }, () => gapMs) : [],
    outcome,
    ...shape.extra,
  };
}

/** 'short' prompts of one workload; `shapeOf` says how each mode answers request i of a repetition. */
export function sweepData(
  rates: readonly number[],
  modes: readonly string[],
  requestCount: number,
  shapeOf: (mode: string, rate: number, repetition: number, index: number) => RecordShape,
): SweepData {
  const runs: SweepRun[] = [];
  const records = new Map<number, readonly LoadRecord[]>();
  const add = (
    run: Omit<SweepRun, 'runIndex' | 'workload' | 'coreShare' | 'shortenedCount'>,
    list: readonly LoadRecord[],
  ) => {
    const runIndex = runs.length;
    runs.push({ ...run, runIndex, workload: 'short', coreShare: 0.1, shortenedCount: 0 });
    records.set(runIndex, list);
  };
  for (const mode of modes.slice(0, -1)) {
    const unloaded = Array.from({ length: 5 }, (_, index) =>
      record({ ...shapeOf(mode, 0, 0, index), index }),
    );
    add({ stage: 'unloaded', mode, repetition: 0, ratePerSecond: null, rateFraction: null }, unloaded);
  }
  for (let repetition = 0; repetition < 3; repetition++) {
    for (const [i, rate] of rates.entries()) {
      const list = (mode: string) =>
        Array.from({ length: requestCount }, (_, index) =>
          record({ scheduledMs: (index * 1000) / rate, ...shapeOf(mode, rate, repetition, index), index }),
        );
      const rateFraction = (i + 1) / rates.length;
      for (const mode of modes)
        add({ stage: 'point', mode, repetition, ratePerSecond: rate, rateFraction }, list(mode));
      const first = modes[0]!;
      add({ stage: 'repeat', mode: first, repetition, ratePerSecond: rate, rateFraction }, list(first));
    }
  }
  const header = {
    date: '2026-01-01T00:00:00',
    machine: 'test machine',
    model: 'test',
    seed: 1,
    targets: Object.fromEntries(modes.map((mode) => [mode, `http://${mode}`])),
    candidate: modes.at(-1)!,
    ttftFactor: 5,
    tpotFactor: 2,
    runs,
  };
  return { header, records };
}
