/** A server that a sweep starts itself: it prints one JSON line with its `url` when it is ready (`twostroke
 *  serve --json`) and ends on SIGTERM.
 *  Invariant: stop() leaves no process of it behind. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Clock } from '../base/clock.js';
import { TwostrokeError } from '../base/errors.js';

const stderrCharsKept = 2000;
const stopMs = 15_000;

export class ServerProcess {
  readonly baseUrl: string;
  readonly #child: ChildProcess;
  readonly #clock: Clock;

  private constructor(baseUrl: string, child: ChildProcess, clock: Clock) {
    this.baseUrl = baseUrl;
    this.#child = child;
    this.#clock = clock;
  }

  /** Throws TwostrokeError 'unavailable' with the end of its stderr when it ends or stays silent for
   *  `readyMs`. */
  static async start(words: readonly string[], clock: Clock, readyMs: number): Promise<ServerProcess> {
    const [command = '', ...args] = words;
    // A session of its own: Linux then gives server and generator a fair share each (autogroup), and Ctrl-C
    // reaches this process alone.
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true });
    const onExit = () => void child.kill('SIGKILL');
    process.once('exit', onExit);
    child.once('exit', () => process.off('exit', onExit));
    let stderr = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr = (stderr + text).slice(-stderrCharsKept);
    });
    const ready = new Promise<string>((resolve, reject) => {
      const fail = (why: string) =>
        reject(new TwostrokeError('unavailable', `${words.join(' ')}: ${why}\n${stderr.trim()}`));
      child.on('error', (error) => fail(error.message));
      child.on('exit', (code, signal) =>
        fail(`ended before it was ready (${signal ?? `exit code ${code}`})`),
      );
      createInterface({ input: child.stdout }).on('line', (line) => {
        const url = urlOf(line);
        if (url !== null) resolve(url);
      });
      clock.after(readyMs, () => fail(`not ready after ${readyMs / 1000} s`));
    });
    try {
      return new ServerProcess(await ready, child, clock);
    } catch (error) {
      child.kill('SIGKILL');
      throw error;
    }
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = new Promise<void>((resolve) => this.#child.once('exit', () => resolve()));
    const timer = this.#clock.after(stopMs, () => this.#child.kill('SIGKILL'));
    this.#child.kill('SIGTERM');
    await exited;
    timer.cancel();
  }
}

function urlOf(line: string): string | null {
  try {
    const json: unknown = JSON.parse(line);
    const url = typeof json === 'object' && json !== null && 'url' in json ? json.url : null;
    return typeof url === 'string' ? url : null;
  } catch {
    return null;
  }
}
