/** Many requests at once, on workers whose memory holds a part of them: what waits, waits before anything is
 *  computed. */
import { describe, expect, it } from 'vitest';
import type { PlannedRequest } from '../../src/bench/load-record.js';
import type { RequestRecord } from '../../src/control/request-record.js';
import { readProfile } from '../../src/profile/profile-file.js';
import type { Strategy } from '../../src/router/route.js';
import { timesFromProfiles } from '../../src/sim/profile-times.js';
import { simulate } from '../../src/sim/simulation.js';
import { cluster, load, poisson, settings } from '../sim/clusters.js';

const profile = readProfile('profiles/nvidia-h200-qwen3-4096x36-151936-bf16-kv-bf16.json');
const steadyRate = 30;

/** After a steady load, from which lengths and plan are learned, all the others at one moment. */
function* steadyThenBurst(steadyCount: number, burstCount: number, seed: number): Iterable<PlannedRequest> {
  let burstAt: PlannedRequest['at'] = 0;
  for (const request of poisson('mixed', steadyRate, steadyCount + burstCount, seed)) {
    if (request.index <= steadyCount) burstAt = request.at;
    yield { ...request, at: burstAt, wantedTokenCount: 128, maxTokenCount: 256 };
  }
}

/** Two H200 that hold `blockCount` blocks each. */
async function served(
  strategy: Strategy,
  blockCount: number,
  plan: Iterable<PlannedRequest>,
  workers = 'any:cuda:0,any:cuda:1',
) {
  const routed: RequestRecord[] = [];
  const gpu = {
    tokenBudget: 2048,
    prefillChunkTokenCount: 2048,
    sequenceCountMax: 256,
    maxModelTokenCount: 8192,
  };
  const { records } = await simulate(
    cluster(workers, strategy, {
      settings: { ...settings, ...gpu, blockCount },
      timesOf: timesFromProfiles([profile])(1),
      profileOf: () => profile,
      onRequestDone: (record) => routed.push(record),
    }),
    plan,
    { ...load, concurrencyMax: 256 },
  );
  return { records, handOverFailures: routed.flatMap(({ handOverFailures }) => handOverFailures) };
}

describe('256 requests at once', () => {
  it('hand-overs find room although prompts queue where they go', async () => {
    const { records, handOverFailures } = await served(
      'adaptive',
      11_020,
      steadyThenBurst(600, 350, 2),
      'prefill:cuda:0,any:cuda:1',
    );
    expect(records.filter(({ outcome }) => outcome === 'completed')).toHaveLength(950);
    expect(records.filter(({ route }) => route?.startsWith('disaggregated'))).not.toHaveLength(0);
    expect(handOverFailures).toEqual([]);
  });

  it('little memory: no hand-over fails, and adaptive serves as many as collocated in the same time', async () => {
    const burstMs = async (strategy: Strategy) => {
      const { records, handOverFailures } = await served(strategy, 6000, steadyThenBurst(300, 256, 1));
      expect(handOverFailures).toEqual([]);
      const burst = records.filter(({ index }) => index >= 300);
      expect(burst.filter(({ outcome }) => outcome === 'completed')).toHaveLength(256);
      return Math.max(...burst.map(({ endMs }) => endMs)) - Math.min(...burst.map(({ sentMs }) => sentMs));
    };
    expect(await burstMs('adaptive')).toBeLessThan(1.05 * (await burstMs('collocated')));
  });
});
