/** Shows how far each worker has loaded: one line that rewrites itself on a terminal, a few plain lines
 *  elsewhere. Used by serve.ts. */
import type { WorkerId } from '../base/ids.js';
import type { LoadProgress } from '../model/model.js';
import { bar, type LineTarget, StatusLine } from './status-line.js';

const plainStepPercent = 25;
const barWidth = 16;

export class LoadDisplay {
  readonly #target: LineTarget;
  readonly #line: StatusLine;
  readonly #percentOf = new Map<WorkerId, number>();
  readonly #shownPercentOf = new Map<WorkerId, number>();

  constructor(target: LineTarget) {
    this.#target = target;
    this.#line = new StatusLine(target);
  }

  update(workerId: WorkerId, progress: LoadProgress): void {
    const percent =
      progress.totalBytes === 0 ? 100 : Math.floor((100 * progress.doneBytes) / progress.totalBytes);
    this.#percentOf.set(workerId, percent);
    if (this.#target.isTTY === true) this.#rewrite();
    else this.#tell(workerId, percent);
  }

  /** Clears the line on a terminal. */
  close(): void {
    this.#line.clear();
  }

  #rewrite(): void {
    const parts = [...this.#percentOf].map(
      ([id, percent]) => `${id} ${bar(percent / 100, barWidth)} ${percent}%`,
    );
    this.#line.show(`loading  ${parts.join('   ')}`);
  }

  #tell(workerId: WorkerId, percent: number): void {
    const step = Math.floor(percent / plainStepPercent) * plainStepPercent;
    if (step <= (this.#shownPercentOf.get(workerId) ?? 0)) return;
    this.#shownPercentOf.set(workerId, step);
    this.#target.write(`loading ${workerId}: ${step}%\n`);
  }
}
