/** What a sweep leaves behind: `sweep.json` (settings, machine, list of runs) and `requests.jsonl.gz` (every request of every run).
 *  Everything a report says is derived from these two. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { InvalidRequestError, messageOf } from '../base/errors.js';
import { appendRecords, readRecords } from './records-file.js';
import type { RequestRecord } from './request-record.js';

/** 'warmup': the saturation load once, on every server, so that none is measured cold, and a point's rate before its first repetition; 'unloaded': one request at a time; 'saturation': as many
 *  as the server takes; 'point': open loop at a rate; 'repeat': a point of the first static mode once more, on another server of it, to show
 *  the noise (A/A). */
export type Stage = 'warmup' | 'unloaded' | 'saturation' | 'point' | 'repeat';

export interface SweepRun {
  readonly runIndex: number;
  readonly stage: Stage;
  readonly workload: string;
  readonly mode: string;
  readonly repetition: number;
  /** Requests per second; null: no arrival times. */
  readonly ratePerSecond: number | null;
  /** Of the saturation of the better static mode; null: rates were given. */
  readonly rateFraction: number | null;
  readonly coreShare: number;
  readonly shortenedCount: number;
}

export interface SweepHeader {
  readonly date: string;
  readonly machine: string;
  /** What the user wants to be remembered: commit, GPU. Absent in older files. */
  readonly metadata?: Readonly<Record<string, string>>;
  readonly model: string;
  readonly seed: number;
  /** Mode → URL or command line. */
  readonly targets: Readonly<Record<string, string>>;
  /** The mode under test; the others are what it is held against. */
  readonly candidate: string;
  readonly ttftFactor: number;
  readonly tpotFactor: number;
  readonly runs: readonly SweepRun[];
}

export interface SweepData {
  readonly header: SweepHeader;
  /** By runIndex. */
  readonly records: ReadonlyMap<number, readonly RequestRecord[]>;
}

type Line = RequestRecord & { readonly run: number };

const sweepFileNames = { header: 'sweep.json', records: 'requests.jsonl.gz' } as const;

/** Keeps a sweep as it grows: each call writes what the calls before have not, so that it takes the time of what is new, however long the
 *  sweep has run. What the folder held before is replaced by the first. */
export class SweepFiles {
  readonly #folder: string;
  readonly #keptRuns = new Set<number>();

  constructor(folder: string) {
    this.#folder = folder;
  }

  keep({ header, records }: SweepData): void {
    const file = path.join(this.#folder, sweepFileNames.records);
    if (this.#keptRuns.size === 0) {
      mkdirSync(this.#folder, { recursive: true });
      rmSync(file, { force: true });
    }
    const fresh = [...records].filter(([run]) => !this.#keptRuns.has(run));
    appendRecords(
      file,
      fresh.flatMap(([run, list]) => list.map((record) => lineOf(run, record))),
    );
    for (const [run] of fresh) this.#keptRuns.add(run);
    writeFileSync(path.join(this.#folder, sweepFileNames.header), `${JSON.stringify(header, null, 2)}\n`);
  }
}

/** Without what only joins files while they are made; times to 10 µs, gaps, which are most of the bytes, to 100 µs. */
function lineOf(run: number, { id: _, predicted, ...record }: RequestRecord): Line {
  return {
    run,
    ...record,
    scheduledMs: rounded(record.scheduledMs, 100),
    sentMs: rounded(record.sentMs, 100),
    delayMs: rounded(record.delayMs, 100),
    ...(record.firstTokenMs === undefined ? {} : { firstTokenMs: rounded(record.firstTokenMs, 100) }),
    endMs: rounded(record.endMs, 100),
    gapsMs: record.gapsMs.map((ms) => rounded(ms, 10)),
    ...(predicted === undefined
      ? {}
      : { predicted: Object.fromEntries(Object.entries(predicted).map(([name, value]) => [name, rounded(value, 100)])) }),
  };
}

const rounded = (value: number, perUnit: number) => Math.round(value * perUnit) / perUnit;

/** Throws InvalidRequestError when the folder holds no sweep. */
export function readSweep(folder: string): SweepData {
  const file = path.join(folder, sweepFileNames.header);
  let header: SweepHeader;
  try {
    header = JSON.parse(readFileSync(file, 'utf8')) as SweepHeader;
  } catch (error) {
    throw new InvalidRequestError(`no sweep in ${folder}: ${messageOf(error)}`);
  }
  const records = new Map<number, RequestRecord[]>(header.runs.map(({ runIndex }) => [runIndex, []]));
  for (const { run, ...record } of readRecords<Line>(path.join(folder, sweepFileNames.records))) {
    const list = records.get(run);
    if (list === undefined)
      throw new InvalidRequestError(`${folder}: a request of run ${run}, which ${sweepFileNames.header} does not list`);
    list.push(record);
  }
  return { header, records };
}
