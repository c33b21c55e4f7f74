/** The one way out of the CLI on an error: what a person needs on one line, and an honest exit code. Used by
 *  main.ts only.
 *
 *    2   the command line is wrong (unknown option, bad value, roles that forbid the strategy)
 *    0   done, also when the reader of its output has left early
 *    1   it cannot be done (no model, port in use, server not reachable, disk full)
 *    130 a signal ended it before it was done
 *    70  a bug of ours; the stack only with --log-level debug */
import { CommanderError } from 'commander';
import { type ErrorCode, messageOf, TwostrokeError } from '../base/errors.js';
import { InterruptedError } from './interrupted.js';
import { describeSystemError, isSystemError } from './system-error.js';

export const exitCodes = { done: 0, failed: 1, usage: 2, internal: 70, interrupted: 130 } as const;

export function exitCodeOf(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.done : exitCodes.usage;
  if (error instanceof InterruptedError) return exitCodes.interrupted;
  if (isSystemError(error)) return exitCodes.failed;
  if (!(error instanceof TwostrokeError)) return exitCodes.internal;
  if (error.code === 'internal') return exitCodes.internal;
  const isUsage = error.code === 'invalid_request' || error.code === 'context_length_exceeded';
  return isUsage ? exitCodes.usage : exitCodes.failed;
}

/** One line per problem, for stderr; empty when commander has already said it. */
export function describeFailure(error: unknown, detail: 'short' | 'stack'): string {
  if (error instanceof CommanderError || error instanceof InterruptedError) return '';
  const knownCode: ErrorCode | null =
    error instanceof TwostrokeError && error.code !== 'internal' ? error.code : null;
  const stack = detail === 'stack' && error instanceof Error ? `\n${error.stack ?? ''}` : '';
  if (knownCode !== null) return `twostroke: ${messageOf(error)}${stack}`;
  if (isSystemError(error)) return `twostroke: ${describeSystemError(error)}${stack}`;
  const hint =
    detail === 'stack' ? '' : '\ntwostroke: this is a bug; run again with --log-level debug to see where';
  return `twostroke: internal error: ${messageOf(error)}${hint}${stack}`;
}
