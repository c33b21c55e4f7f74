/** Structured logs to stderr. One logger per process, made in cli/ and handed down. */
import { type Logger, pino, stdSerializers } from 'pino';
import { TwostrokeError } from './errors.js';

export type { Logger };
export type LogLevel = 'debug' | 'info' | 'warn' | 'error' | 'silent';

/** What was thrown on purpose says all in its message; stacks are for bugs, and for those who ask with
 *  `debug`. */
export function createLogger(level: LogLevel, name: string): Logger {
  const err = (error: Error) =>
    error instanceof TwostrokeError && level !== 'debug'
      ? { code: error.code, message: error.message }
      : stdSerializers.err(error);
  return pino({ level, name, base: { pid: process.pid }, serializers: { err } }, standardError());
}

/** A log that cannot be written (a full disk, a reader that has left) is no reason to stop, nor to keep what
 *  it says: from then on it is silent. */
function standardError() {
  const destination = pino.destination({ dest: 2, sync: false });
  const silence = () =>
    Object.assign(destination, { write: () => true, flush: () => {}, flushSync: () => {}, end: () => {} });
  return destination.on('error', silence);
}

export const silentLogger: Logger = pino({ level: 'silent' });
