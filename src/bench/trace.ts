/** Arrival traces of real services, in the two formats that are published: Azure's CSV (TIMESTAMP,
 *  ContextTokens, GeneratedTokens) and Mooncake's JSON lines (timestamp, input_length, output_length,
 *  hash_ids). Used by workload.ts and scripts/score-lengths.mjs. */
import { InvalidRequestError } from '../base/errors.js';

export interface TraceEntry {
  /** Since the first entry. */
  readonly atMs: number;
  readonly promptTokenCount: number;
  readonly outputTokenCount: number;
  /** One per `traceBlockTokenCount` tokens of the prompt: equal ids are equal prefixes. Absent: nothing is
   *  shared. */
  readonly blockIds?: readonly number[];
}

export const traceBlockTokenCount = 512;

/** Entries in the order of their arrival. Throws InvalidRequestError naming the line that cannot be read. */
export function parseTrace(text: string, fileName: string): readonly TraceEntry[] {
  const lines = text
    .replace(/^\uFEFF/, '')
    .split('\n')
    .map((line) => line.trim());
  const isCsv = !(lines[0] ?? '').startsWith('{');
  const entries: TraceEntry[] = [];
  lines.forEach((line, index) => {
    if (line === '' || (isCsv && index === 0)) return;
    const entry = isCsv ? csvEntry(line) : jsonEntry(line);
    if (entry === null)
      throw new InvalidRequestError(
        `${fileName}, line ${index + 1}: not an entry of a known trace format: ${line.slice(0, 80)}`,
      );
    entries.push(entry);
  });
  if (entries.length === 0) throw new InvalidRequestError(`${fileName}: no entries`);
  entries.sort((a, b) => a.atMs - b.atMs);
  const firstMs = entries[0]?.atMs ?? 0;
  return entries.map((entry) => ({ ...entry, atMs: entry.atMs - firstMs }));
}

function csvEntry(line: string): TraceEntry | null {
  const [timestamp = '', prompt, output] = line.split(',');
  const match = /^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(\.\d+)?/.exec(timestamp);
  if (match === null) return null;
  const atMs = Date.parse(`${match[1]}T${match[2]}Z`) + Number(match[3] ?? 0) * 1000; // JavaScript's dates end at milliseconds
  return checked({ atMs, promptTokenCount: Number(prompt), outputTokenCount: Number(output) });
}

function jsonEntry(line: string): TraceEntry | null {
  let json: unknown;
  try {
    json = JSON.parse(line);
  } catch {
    return null;
  }
  if (typeof json !== 'object' || json === null) return null;
  const {
    timestamp,
    input_length: input,
    output_length: output,
    hash_ids: hashes,
  } = json as Record<string, unknown>;
  const entry = {
    atMs: Number(timestamp),
    promptTokenCount: Number(input),
    outputTokenCount: Number(output),
  };
  const isShared = Array.isArray(hashes) && hashes.every((id) => Number.isSafeInteger(id));
  return checked(isShared ? { ...entry, blockIds: hashes as number[] } : entry);
}

function checked(entry: TraceEntry): TraceEntry | null {
  const isCount = (value: number) => Number.isSafeInteger(value) && value >= 0;
  if (!Number.isFinite(entry.atMs) || !isCount(entry.promptTokenCount) || !isCount(entry.outputTokenCount))
    return null;
  return entry;
}
