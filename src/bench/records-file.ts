/** Per-request records as JSON lines, compressed as the file's name says: gzip is quick and can be appended
 *  to, brotli a third smaller. The committed evidence of a benchmark. */
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import { brotliCompressSync, brotliDecompressSync, constants, gunzipSync, gzipSync } from 'node:zlib';
import { InvalidRequestError, messageOf } from '../base/errors.js';

export function writeRecords(path: string, records: readonly object[]): void {
  writeFileSync(path, bytesOf(path, records));
}

/** To a compressed file as a gzip member of its own: readers see one stream. */
export function appendRecords(path: string, records: readonly object[]): void {
  appendFileSync(path, bytesOf(path, records));
}

function bytesOf(path: string, records: readonly object[]): string | Uint8Array {
  const text = records.map((record) => `${JSON.stringify(record)}\n`).join('');
  if (path.endsWith('.br'))
    return brotliCompressSync(text, { params: { [constants.BROTLI_PARAM_LGWIN]: 24 } });
  return path.endsWith('.gz') ? gzipSync(text, { level: 9 }) : text;
}

/** Throws InvalidRequestError naming file and line. */
export function readRecords<Record>(path: string): readonly Record[] {
  const text = readText(path);
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line, index) => {
      try {
        return JSON.parse(line) as Record;
      } catch {
        throw new InvalidRequestError(`${path}, line ${index + 1}: not JSON`);
      }
    });
}

function readText(path: string): string {
  try {
    const bytes = readFileSync(path);
    if (path.endsWith('.br')) return brotliDecompressSync(bytes).toString('utf8');
    return (path.endsWith('.gz') ? gunzipSync(bytes) : bytes).toString('utf8');
  } catch (error) {
    throw new InvalidRequestError(`cannot read ${path}: ${messageOf(error)}`);
  }
}
