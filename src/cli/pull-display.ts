/** Shows how far a download is: one line that rewrites itself on a terminal, a line for every tenth
 *  elsewhere. Used by model-option.ts. */
import type { Clock } from '../base/clock.js';
import type { PullProgress } from '../hub/pull.js';
import { shortBytes } from './quantities.js';
import { bar, type LineTarget, StatusLine } from './status-line.js';

const barWidth = 24;
/** The rate is of this long. */
const windowMs = 5000;
const rewriteMs = 100;
const plainStepPercent = 10;

interface Sample {
  readonly ms: number;
  readonly receivedBytes: number;
}

export class PullDisplay {
  readonly #target: LineTarget;
  readonly #line: StatusLine;
  readonly #name: string;
  readonly #clock: Clock;
  #samples: Sample[] = [];
  #shownMs = Number.NEGATIVE_INFINITY;
  #shownPercent = -1;

  constructor(target: LineTarget, name: string, clock: Clock) {
    this.#target = target;
    this.#line = new StatusLine(target);
    this.#name = name;
    this.#clock = clock;
  }

  update(progress: PullProgress): void {
    const ms = this.#clock.nowMs();
    const isDone = progress.doneBytes === progress.totalBytes;
    if (this.#target.isTTY === true) {
      if (ms - this.#shownMs < rewriteMs && !isDone) return;
      this.#shownMs = ms;
      this.#line.show(this.#text(progress, ms));
      return;
    }
    const percent =
      plainStepPercent * Math.floor((100 * progress.doneBytes) / progress.totalBytes / plainStepPercent);
    if (percent <= this.#shownPercent) return;
    this.#shownPercent = percent;
    this.#target.write(`${this.#text(progress, ms)}\n`);
  }

  tell(line: string): void {
    this.#line.clear();
    this.#target.write(`twostroke: ${line}\n`);
  }

  close(): void {
    this.#line.clear();
  }

  #text({ doneBytes, totalBytes, receivedBytes }: PullProgress, ms: number): string {
    const rate = this.#bytesPerSecond({ ms, receivedBytes });
    const share = totalBytes === 0 ? 1 : doneBytes / totalBytes;
    const parts = [
      `downloading ${this.#name} ${bar(Math.max(0, share), barWidth)} ${Math.floor(100 * share)}%`,
      `${shortBytes(doneBytes)} of ${shortBytes(totalBytes)}`,
      ...(rate > 0 ? [`${shortBytes(rate)}/s`, `${duration((totalBytes - doneBytes) / rate)} left`] : []),
    ];
    return parts.join('  ');
  }

  #bytesPerSecond(now: Sample): number {
    const kept = this.#samples.filter(({ ms }) => now.ms - ms <= windowMs);
    this.#samples = [...kept, now];
    const [first] = this.#samples;
    if (first === undefined || now.ms === first.ms) return 0;
    return (1000 * (now.receivedBytes - first.receivedBytes)) / (now.ms - first.ms);
  }
}

/** 4 s, 3 min 20 s, 2 h 5 min. */
export function duration(seconds: number): string {
  const whole = Math.ceil(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}
