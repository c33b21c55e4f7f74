/** What `--model` means on this machine: a folder, or what its name downloads, with the progress on stderr.
 *  Used by serve.ts, generate.ts and profile.ts. */
import { systemClock } from '../base/clock.js';
import { findModel } from '../hub/find-model.js';
import type { PullOptions } from '../hub/pull.js';
import { hubSettings } from './hub-environment.js';
import { PullDisplay } from './pull-display.js';

export const modelOptionText =
  'a folder, a GGUF file, org/name[@revision][:file] on Hugging Face\'s hub, or "demo"';

const hubTryCount = 5;

/** An absolute path of a folder or a GGUF file. Throws TwostrokeError. */
export function modelPath(model: string, loadFormat: 'auto' | 'dummy', signal: AbortSignal): Promise<string> {
  return withDisplay(model, signal, (options) =>
    findModel(model, { ...options, parts: loadFormat === 'dummy' ? 'text' : 'all' }),
  );
}

/** Runs what may download, and shows how far it is. */
export async function withDisplay<T>(
  model: string,
  signal: AbortSignal,
  run: (options: PullOptions) => Promise<T>,
): Promise<T> {
  const display = new PullDisplay(process.stderr, model, systemClock);
  try {
    return await run({
      settings: hubSettings(),
      parts: 'all',
      clock: systemClock,
      signal,
      tryCount: hubTryCount,
      onProgress: (progress) => display.update(progress),
      tell: (line) => display.tell(line),
    });
  } finally {
    display.close();
  }
}
