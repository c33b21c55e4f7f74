/** The simplex method against optima known from textbooks. */
import { describe, expect, it } from 'vitest';
import { maximum } from '../../../src/sim/goodput/linear-program.js';

describe('maximum', () => {
  it('finds the corner', () => {
    const rows = [
      { coefficients: [1, 0], atMost: 4 },
      { coefficients: [0, 2], atMost: 12 },
      { coefficients: [3, 2], atMost: 18 },
    ];
    expect(maximum({ objective: [3, 5], rows })).toBeCloseTo(36, 9);
  });

  it('does not turn in a circle where the steepest column would (Beale)', () => {
    const rows = [
      { coefficients: [1 / 4, -60, -1 / 25, 9], atMost: 0 },
      { coefficients: [1 / 2, -90, -1 / 50, 3], atMost: 0 },
      { coefficients: [0, 0, 1, 0], atMost: 1 },
    ];
    expect(maximum({ objective: [3 / 4, -150, 1 / 50, -6], rows })).toBeCloseTo(1 / 20, 9);
  });

  it('is Infinity where nothing limits it, and 0 where nothing gains', () => {
    expect(maximum({ objective: [1], rows: [{ coefficients: [-1], atMost: 1 }] })).toBe(
      Number.POSITIVE_INFINITY,
    );
    expect(maximum({ objective: [-1], rows: [{ coefficients: [1], atMost: 1 }] })).toBe(0);
  });
});
