/** SIGINT and SIGTERM: the first asks for an orderly end, the second ends at once. Used by every command that
 *  takes a while. */
import { exitCodes } from './fail.js';
import { InterruptedError } from './interrupted.js';

interface StopSignal {
  /** Resolves with the signal's name when the first one comes. */
  readonly received: Promise<NodeJS.Signals>;
  /** Aborted then. */
  readonly signal: AbortSignal;
  /** `work`, unless a signal comes first: then it throws InterruptedError, and whoever waits for nothing more
   *  may end the process. */
  orStopped<T>(work: Promise<T>): Promise<T>;
  /** Back to the default meaning of the signals. */
  dispose(): void;
}

export function listenForStop(): StopSignal {
  const cut = new AbortController();
  let resolveReceived: (signal: NodeJS.Signals) => void = () => undefined;
  const received = new Promise<NodeJS.Signals>((resolve) => {
    resolveReceived = resolve;
  });
  const onSignal = (signal: NodeJS.Signals) => {
    if (cut.signal.aborted) process.exit(exitCodes.interrupted);
    cut.abort();
    resolveReceived(signal);
  };
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  const stopped = received.then((signal) => {
    throw new InterruptedError(`stopped by ${signal}`);
  });
  stopped.catch(() => {}); // also when nobody waits for it
  const orStopped = <T>(work: Promise<T>) => Promise.race([work, stopped]);
  return {
    received,
    signal: cut.signal,
    orStopped,
    dispose: () => void process.off('SIGINT', onSignal).off('SIGTERM', onSignal),
  };
}
