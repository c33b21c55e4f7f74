/** SIGINT and SIGTERM: the first asks for an orderly end, the second ends at once. Used by serve.ts and generate.ts. */
import { exitCodes } from './fail.js';

export interface StopSignal {
  /** Resolves with the signal's name when the first one comes. */
  readonly received: Promise<NodeJS.Signals>;
  /** Back to the default meaning of the signals. */
  dispose(): void;
}

export function listenForStop(): StopSignal {
  let count = 0;
  let resolveReceived: (signal: NodeJS.Signals) => void = () => undefined;
  const received = new Promise<NodeJS.Signals>((resolve) => {
    resolveReceived = resolve;
  });
  const onSignal = (signal: NodeJS.Signals) => {
    count += 1;
    if (count > 1) process.exit(exitCodes.interrupted);
    resolveReceived(signal);
  };
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  return { received, dispose: () => void process.off('SIGINT', onSignal).off('SIGTERM', onSignal) };
}
