/** What a sweep leaves behind: `sweep.json` (settings, machine, list of runs) and `requests.jsonl.gz` (every
 *  request of every run; `.br` once packed). Everything a report says is derived from these two. A line of
 *  the second is a run, with a column per field of its requests: half the bytes of a line per request. */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { InvalidRequestError, messageOf } from '../base/errors.js';
import type { LoadRecord } from './load-record.js';
import { appendRecords, readRecords, writeRecords } from './records-file.js';

/** 'warmup': the saturation load once, on every server, so that none is measured cold, and a point's rate
 *  before its first repetition; 'unloaded': one request at a time; 'saturation': as many as the server takes;
 *  'point': open loop at a rate; 'repeat': a point of the first static mode once more, on another server of
 *  it, to show the noise (A/A). */
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
  /** The servers got the SLO of each request. Absent: they were not. */
  readonly sentSlo?: boolean;
  readonly ttftFactor: number;
  readonly tpotFactor: number;
  readonly runs: readonly SweepRun[];
}

export interface SweepData {
  readonly header: SweepHeader;
  /** By runIndex. */
  readonly records: ReadonlyMap<number, readonly LoadRecord[]>;
}

interface RunLine {
  readonly run: number;
  readonly requestCount: number;
  /** By field; `predicted.ttftMs` for one inside another. null: this request has none. A field that no
   *  request has is left out. */
  readonly columns: Readonly<Record<string, readonly unknown[]>>;
}

const sweepFileNames = {
  header: 'sweep.json',
  records: 'requests.jsonl.gz',
  packed: 'requests.jsonl.br',
} as const;

/** Keeps a sweep as it grows: each call writes what the calls before have not, so that it takes the time of
 *  what is new, however long the sweep has run. What the folder held before is replaced by the first. */
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
      for (const name of [sweepFileNames.records, sweepFileNames.packed])
        rmSync(path.join(this.#folder, name), { force: true });
    }
    const fresh = [...records].filter(([run]) => !this.#keptRuns.has(run));
    appendRecords(
      file,
      fresh.map(([run, list]) => lineOf(run, list)),
    );
    for (const [run] of fresh) this.#keptRuns.add(run);
    writeFileSync(path.join(this.#folder, sweepFileNames.header), `${JSON.stringify(header, null, 2)}\n`);
  }
}

/** For a repository: without the gaps between tokens, so that no ITL can be derived any more, in a fourth to
 *  a third of the bytes. */
export function packSweep(folder: string): void {
  const { records } = readSweep(folder);
  const lines = [...records].map(([run, list]) =>
    lineOf(
      run,
      list.map((record) => ({ ...record, gapsMs: [] })),
    ),
  );
  writeRecords(path.join(folder, sweepFileNames.packed), lines);
  rmSync(path.join(folder, sweepFileNames.records), { force: true });
}

function lineOf(run: number, records: readonly LoadRecord[]): RunLine {
  const rows = records.map((record): Readonly<Record<string, unknown>> => {
    const { predicted = {}, ...fields } = shortened(record);
    return {
      ...fields,
      ...Object.fromEntries(
        Object.entries(predicted).map(([name, value]) => [predictedPrefix + name, value]),
      ),
    };
  });
  const names = [...new Set(rows.flatMap(Object.keys))];
  return {
    run,
    requestCount: rows.length,
    columns: Object.fromEntries(names.map((name) => [name, rows.map((row) => row[name] ?? null)])),
  };
}

function recordsOf({ requestCount, columns }: RunLine): readonly LoadRecord[] {
  return Array.from({ length: requestCount }, (_, index) => {
    const fields = Object.entries(columns)
      .map(([name, column]): [string, unknown] => [name, column[index]])
      .filter(([, value]) => value !== null);
    const isEstimate = ([name]: [string, unknown]) => name.startsWith(predictedPrefix);
    const predicted = fields
      .filter(isEstimate)
      .map(([name, value]) => [name.slice(predictedPrefix.length), value]);
    const record = Object.fromEntries(fields.filter((field) => !isEstimate(field)));
    return {
      ...record,
      ...(predicted.length === 0 ? {} : { predicted: Object.fromEntries(predicted) }),
    } as unknown as LoadRecord;
  });
}

const predictedPrefix = 'predicted.';

/** Without what only joins files while they are made; times to 10 µs, gaps, which are most of the bytes, to
 *  100 µs, estimates to three digits. */
function shortened({ id: _, predicted, ...record }: LoadRecord): LoadRecord {
  return {
    ...record,
    scheduledMs: rounded(record.scheduledMs, 100),
    sentMs: rounded(record.sentMs, 100),
    delayMs: rounded(record.delayMs, 100),
    ...(record.firstTokenMs === undefined ? {} : { firstTokenMs: rounded(record.firstTokenMs, 100) }),
    endMs: rounded(record.endMs, 100),
    gapsMs: record.gapsMs.map((ms) => rounded(ms, 10)),
    ...(predicted === undefined
      ? {}
      : {
          predicted: Object.fromEntries(
            Object.entries(predicted).map(([name, value]) => [name, Number(value.toPrecision(3))]),
          ),
        }),
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
  const records = new Map<number, readonly LoadRecord[]>(header.runs.map(({ runIndex }) => [runIndex, []]));
  const packed = path.join(folder, sweepFileNames.packed);
  for (const line of readRecords<RunLine>(
    existsSync(packed) ? packed : path.join(folder, sweepFileNames.records),
  )) {
    if (!records.has(line.run))
      throw new InvalidRequestError(
        `${folder}: requests of run ${line.run}, which ${sweepFileNames.header} does not list`,
      );
    records.set(line.run, recordsOf(line));
  }
  return { header, records };
}
