/** What a command does when its output has nowhere to go. Used by main.ts for all of them, by generate.ts and
 *  serve.ts while they run.
 *
 *    stdout is a closed pipe (`| head -1`)   the reader has what it wanted: the command ends early, without a word
 *    stdout cannot be written (a full disk)  one line on stderr, exit code 1
 *    stderr, either                          nothing: there is nobody to tell
 *
 *  Invariant: a broken output never ends a command in the middle: it is reported at `flushed`, and `signal`
 *  is aborted before. */
import { systemClock } from '../base/clock.js';
import { TwostrokeError } from '../base/errors.js';
import { systemReason } from './system-error.js';

/** What this needs of process.stdout. */
interface OutputStream {
  on(event: 'error', listener: (error: Error) => void): unknown;
  write(text: string, done: () => void): unknown;
}

export class Output {
  readonly #stream: OutputStream;
  readonly #broken = new AbortController();
  #error: NodeJS.ErrnoException | null = null;

  constructor(stream: OutputStream) {
    this.#stream = stream;
    stream.on('error', (error) => {
      this.#error ??= error;
      this.#broken.abort();
    });
  }

  /** Aborted when what is written goes nowhere any more. */
  get signal(): AbortSignal {
    return this.#broken.signal;
  }

  /** Resolves when all is written, or the reader has gone. Throws TwostrokeError when it cannot be
   *  written. */
  async flushed(): Promise<void> {
    if (this.#error === null) await new Promise<void>((resolve) => this.#stream.write('', resolve));
    await systemClock.yield(); // a failed write is reported after its own turn
    if (this.#error === null || this.#error.code === 'EPIPE') return;
    throw new TwostrokeError('unavailable', `cannot write to standard output: ${systemReason(this.#error)}`, {
      cause: this.#error,
    });
  }
}

export const standardOutput = new Output(process.stdout);
process.stderr.on('error', () => {});
