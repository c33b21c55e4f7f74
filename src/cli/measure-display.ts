/** How far a measurement is: one line that rewrites itself on a terminal, nothing elsewhere. Used by profile.ts and learn-costs.ts. */
import type { LineTarget } from './load-display.js';

const barWidth = 24;

export class MeasureDisplay {
  readonly #target: LineTarget;
  #shownText = '';

  constructor(target: LineTarget) {
    this.#target = target;
  }

  update(share: number, what: string): void {
    if (this.#target.isTTY !== true) return;
    const filled = Math.round(share * barWidth);
    const bar = `[${'#'.repeat(filled)}${'.'.repeat(barWidth - filled)}]`;
    const text = `measuring ${bar} ${Math.round(100 * share)}%  ${what}`;
    if (text === this.#shownText) return;
    this.#target.write(`\r${text.padEnd(this.#shownText.length)}`);
    this.#shownText = text;
  }

  /** Clears the line. */
  close(): void {
    if (this.#shownText !== '') this.#target.write(`\r${' '.repeat(this.#shownText.length)}\r`);
    this.#shownText = '';
  }
}
