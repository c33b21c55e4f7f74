/** Shows how far each worker has loaded: one line that rewrites itself on a terminal, a few plain lines elsewhere. Used by serve.ts. */
import type { WorkerId } from '../base/ids.js';
import type { LoadProgress } from '../model/model.js';

/** Where the lines go; process.stderr fits. */
export interface LineTarget {
  readonly isTTY?: boolean;
  write(text: string): unknown;
}

const plainStepPercent = 25;

export class LoadDisplay {
  readonly #target: LineTarget;
  readonly #percentOf = new Map<WorkerId, number>();
  readonly #toldPercentOf = new Map<WorkerId, number>();
  #shownText = '';

  constructor(target: LineTarget) {
    this.#target = target;
  }

  update(workerId: WorkerId, progress: LoadProgress): void {
    const percent = progress.totalBytes === 0 ? 100 : Math.floor((100 * progress.doneBytes) / progress.totalBytes);
    this.#percentOf.set(workerId, percent);
    if (this.#target.isTTY === true) this.#rewrite();
    else this.#tell(workerId, percent);
  }

  /** Clears the line on a terminal. */
  close(): void {
    if (this.#shownText !== '') this.#target.write(`\r${' '.repeat(this.#shownText.length)}\r`);
    this.#shownText = '';
  }

  #rewrite(): void {
    const text = `loading  ${[...this.#percentOf].map(([id, percent]) => `${id} ${bar(percent)} ${percent}%`).join('   ')}`;
    if (text === this.#shownText) return;
    this.#target.write(`\r${text.padEnd(this.#shownText.length)}`);
    this.#shownText = text;
  }

  #tell(workerId: WorkerId, percent: number): void {
    const step = Math.floor(percent / plainStepPercent) * plainStepPercent;
    if (step <= (this.#toldPercentOf.get(workerId) ?? 0)) return;
    this.#toldPercentOf.set(workerId, step);
    this.#target.write(`loading ${workerId}: ${step}%\n`);
  }
}

const barWidth = 16;

function bar(percent: number): string {
  const filled = Math.round((percent / 100) * barWidth);
  return `[${'#'.repeat(filled)}${'.'.repeat(barWidth - filled)}]`;
}
