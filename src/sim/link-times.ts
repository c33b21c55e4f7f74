/** How long simulated copies between workers take: drawn from copies that were measured, with their scatter.
 *  Used by timed-device.ts. */
import { assert } from '../base/assert.js';
import type { Prng } from '../base/prng.js';
import { fitNonNegative } from '../profile/least-squares.js';
import type { ProfileFile } from '../router/cost-parameters.js';

export interface LinkTimes {
  /** Milliseconds from the last byte's copy until the other side may know of it, this time. */
  drawLatency(): number;
  /** Milliseconds that this many bytes keep the link busy this time. */
  draw(bytes: number): number;
}

const neighbourCount = 5;

/** Fitted once for a profile, drawn from by every worker with its own random sequence. */
export class MeasuredLink {
  readonly #latencyMs: number;
  readonly #msPerByte: number;
  readonly #scatter: readonly { readonly bytes: number; readonly ratio: number }[];
  readonly #nearest = new Map<number, readonly number[]>();

  constructor(samples: ProfileFile['linkSamples']) {
    assert(samples.length > 0, 'no link was measured');
    const [latencyMs = 0, msPerByte = 0] = fitNonNegative(
      samples.map(({ bytes, ms }) => ({ features: [1, bytes], value: ms })),
    );
    this.#latencyMs = latencyMs;
    this.#msPerByte = msPerByte;
    this.#scatter = samples.map(({ bytes, ms }) => ({ bytes, ratio: ms / (latencyMs + bytes * msPerByte) }));
  }

  timesFor(prng: Prng): LinkTimes {
    return {
      drawLatency: () => this.#latencyMs * prng.pick(this.#near(0)),
      draw: (bytes) => bytes * this.#msPerByte * prng.pick(this.#near(Math.round(Math.log2(1 + bytes)))),
    };
  }

  /** Ratios of the measured copies whose bytes are closest to 2^`magnitude`. */
  #near(magnitude: number): readonly number[] {
    const known = this.#nearest.get(magnitude);
    if (known !== undefined) return known;
    const distance = ({ bytes }: { readonly bytes: number }) => Math.abs(Math.log2(1 + bytes) - magnitude);
    const sorted = [...this.#scatter].sort((a, b) => distance(a) - distance(b));
    const near = sorted.slice(0, neighbourCount).map(({ ratio }) => ratio);
    this.#nearest.set(magnitude, near);
    return near;
  }
}

/** Measurements of the connector that moves a megabyte fastest: the one that workers would choose. */
export function fastestLinkSamples(samples: ProfileFile['linkSamples']): ProfileFile['linkSamples'] {
  const names = [...new Set(samples.map(({ connector }) => connector))];
  const byName = names.map((name) => samples.filter(({ connector }) => connector === name));
  const rate = (group: ProfileFile['linkSamples']) => Math.max(...group.map(({ bytes, ms }) => bytes / ms));
  return byName.reduce((best, group) => (rate(group) > rate(best) ? group : best), byName[0] ?? []);
}
