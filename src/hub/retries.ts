/** Trying again what may work later: cut connections, full servers, limited rates. Used by pull.ts and
 *  file-download.ts. */
import type { Clock } from '../base/clock.js';
import { TwostrokeError } from '../base/errors.js';

/** May work later. */
export class TransientError extends Error {
  /** As the server asks; null: it does not. */
  readonly retryAfterMs: number | null;

  constructor(message: string, retryAfterMs: number | null) {
    super(message);
    this.retryAfterMs = retryAfterMs;
  }
}

export interface RetryContext {
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** Hears why something is tried again. */
  tell(line: string): void;
}

interface Retries {
  readonly what: string;
  /** In a row, without an advance between them. */
  readonly failureCountMax: number;
  /** Whether the last try brought enough to count as a first one. */
  hasAdvanced?(): boolean;
}

const waitMsMax = 30_000;
/** A server that asks for more is taken at its word: we come back when we are asked to. */
const retryAfterMsMax = 300_000;

/** Throws what `work` throws, and TwostrokeError `unavailable` when it keeps failing. */
export async function retried<T>(
  work: () => Promise<T>,
  retries: Retries,
  context: RetryContext,
): Promise<T> {
  for (let failureCount = 1; ; failureCount++) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof TransientError)) throw error;
      if (retries.hasAdvanced?.() === true) failureCount = 1;
      await waitBeforeNext(error, failureCount, retries, context);
    }
  }
}

async function waitBeforeNext(
  error: TransientError,
  failureCount: number,
  { what, failureCountMax }: Retries,
  { clock, signal, tell }: RetryContext,
): Promise<void> {
  const waitMs = error.retryAfterMs ?? Math.min(500 * 2 ** failureCount, waitMsMax);
  const seconds = Math.ceil(waitMs / 1000);
  if (failureCount >= failureCountMax || waitMs > retryAfterMsMax) {
    const asked = error.retryAfterMs === null ? '' : `; try again in ${seconds} s`;
    throw new TwostrokeError('unavailable', `${what}: ${error.message}${asked}`, { cause: error });
  }
  tell(`${what}: ${error.message}; again in ${seconds} s`);
  await Promise.race([clock.sleep(waitMs), aborted(signal)]);
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
}
