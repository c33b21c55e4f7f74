/** Adaptive against the better static mode, on a small form of `npm run bench:goodput`: counts of requests,
 *  the same every time. */
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { readProfile } from '../../../src/profile/profile-file.js';
import { goodputModes, type ModeResult, measureMode } from '../../../src/sim/goodput/goodput-point.js';
import { publishedReference } from '../../../src/sim/goodput/goodput-reference.js';
import { goodputCluster, namedWorkload } from '../../../src/sim/goodput/goodput-setup.js';

const file = path.resolve(
  import.meta.dirname,
  '../../../profiles/nvidia-h200-qwen3-4096x36-151936-bf16-kv-bf16.json',
);
const cluster = goodputCluster(readProfile(file), 2);
const size = { settleMs: 2000, warmupMs: 1000, tailMs: 500, countedMin: 200, countedMs: 0 };
/** Collocated without pacing has less than with it at these points. */
const modes = goodputModes.filter(({ strategy, pacing }) => pacing === 'on' || strategy === 'disaggregated');

async function measureAll(
  name: 'short' | 'long' | 'mixed',
  ofSaturation: number,
): Promise<readonly ModeResult[]> {
  const workload = namedWorkload(name, cluster.profile);
  const reference = publishedReference(cluster.profile, 2, name)!;
  const results: ModeResult[] = [];
  for (const mode of modes) {
    const options = {
      cluster,
      workload,
      reference,
      ofSaturation,
      seeds: [1],
      onOverload: 'shed',
      size,
    } as const;
    results.push(await measureMode(options, mode, ofSaturation * reference.saturationPerSecond));
  }
  return results;
}

describe('serving late ones', () => {
  it.each([
    ['mixed', 1.1],
    ['long', 1],
  ] as const)(
    'leaves 0.95 × the good requests of refusing them: %s at %d of saturation, collocated',
    async (name, ofSaturation) => {
      const workload = namedWorkload(name, cluster.profile);
      const reference = publishedReference(cluster.profile, 2, name)!;
      const results = [];
      for (const onOverload of ['shed', 'late'] as const) {
        const options = { cluster, workload, reference, ofSaturation, seeds: [1], onOverload, size };
        const mode = { strategy: 'collocated', pacing: 'on' } as const;
        results.push(await measureMode(options, mode, ofSaturation * reference.saturationPerSecond));
      }
      const [shed, late] = results as [ModeResult, ModeResult];
      expect(shed.shedCount).toBeGreaterThan(20); // there is something to refuse
      expect(late.shedCount).toBe(0);
      expect(late.goodCount).toBeGreaterThanOrEqual(0.95 * shed.goodCount);
    },
    600_000,
  );
});

describe('adaptive', () => {
  it.each([
    ['mixed', 0.5],
    ['mixed', 0.75],
    ['mixed', 1],
    ['long', 0.75],
    ['short', 1],
  ] as const)(
    'has 0.97 × the good requests of the better static mode: %s at %d of saturation',
    async (name, ofSaturation) => {
      const results = await measureAll(name, ofSaturation);
      const goodCounts = (isAdaptive: boolean) =>
        results
          .filter(({ strategy }) => (strategy === 'adaptive') === isAdaptive)
          .map(({ goodCount }) => goodCount);
      const better = Math.max(...goodCounts(false));
      expect(better).toBeGreaterThan(0);
      expect(Math.max(...goodCounts(true))).toBeGreaterThanOrEqual(0.97 * better);
    },
    600_000,
  );
});
