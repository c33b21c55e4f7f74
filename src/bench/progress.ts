/** The one line that shows a running load test. Used by serve.ts. */
import type { Clock } from '../base/clock.js';
import type { RunProgress } from './run.js';

const redrawMs = 250;
/** Of the newest records, for the figures that move. */
const windowCount = 50;

export class ProgressLine {
  readonly #clock: Clock;
  readonly #write: ((text: string) => void) | null;
  readonly #label: string;
  #drawnMs = Number.NEGATIVE_INFINITY;
  #width = 0;

  /** `write` null: nothing is shown. */
  constructor(clock: Clock, write: ((text: string) => void) | null, label: string) {
    this.#clock = clock;
    this.#write = write;
    this.#label = label;
  }

  update(progress: RunProgress): void {
    const nowMs = this.#clock.nowMs();
    if (this.#write === null || nowMs - this.#drawnMs < redrawMs) return;
    this.#drawnMs = nowMs;
    const text = progressText(this.#label, progress);
    this.#write(`\r${text.padEnd(this.#width)}`);
    this.#width = text.length;
  }

  close(): void {
    if (this.#width > 0) this.#write?.(`\r${''.padEnd(this.#width)}\r`);
    this.#width = 0;
  }
}

function progressText(label: string, { elapsedMs, sentCount, inFlightCount, records }: RunProgress): string {
  const ended = records.length;
  const badCount = records.reduce((count, { outcome }) => count + (outcome === 'completed' ? 0 : 1), 0);
  const recent = records.slice(-windowCount);
  const [first, last] = [recent[0], recent.at(-1)];
  const spanMs = first === undefined || last === undefined ? 0 : last.endMs - first.endMs;
  const tokenCount = recent.slice(1).reduce((sum, { outputTokenCount }) => sum + outputTokenCount, 0);
  const rate = spanMs > 0 ? `  ${((tokenCount / spanMs) * 1000).toFixed(0)} tok/s` : '';
  const bad = badCount === 0 ? '' : `  ${badCount} not completed`;
  return `${label}  ${(elapsedMs / 1000).toFixed(0)} s  sent ${sentCount}  open ${inFlightCount}  ended ${ended}${bad}${rate}`;
}
