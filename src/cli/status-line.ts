/** A line that rewrites itself on a terminal, and nothing elsewhere: how far something is. Used by
 *  load-display.ts, profile.ts and serve.ts. */

/** Where it goes; process.stderr fits. */
export interface LineTarget {
  readonly isTTY?: boolean;
  write(text: string): unknown;
}

const measureBarWidth = 24;

export class StatusLine {
  readonly #target: LineTarget;
  #shownText = '';

  constructor(target: LineTarget) {
    this.#target = target;
  }

  show(text: string): void {
    if (this.#target.isTTY !== true || text === this.#shownText) return;
    this.#target.write(`\r${text.padEnd(this.#shownText.length)}`);
    this.#shownText = text;
  }

  clear(): void {
    if (this.#shownText !== '') this.#target.write(`\r${' '.repeat(this.#shownText.length)}\r`);
    this.#shownText = '';
  }
}

/** `[####....]` */
export function bar(share: number, width: number): string {
  const filled = Math.round(share * width);
  return `[${'#'.repeat(filled)}${'.'.repeat(width - filled)}]`;
}

/** Of a measurement. */
export function measuringText(share: number, what: string): string {
  return `measuring ${bar(share, measureBarWidth)} ${Math.round(100 * share)}%  ${what}`;
}
