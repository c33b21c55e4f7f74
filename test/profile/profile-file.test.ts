/** Profile files: what is written is what is read; a file for other workers, or one that is none, is not
 *  taken. */
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { type Burst, burstsFor } from '../../src/profile/bursts.js';
import {
  findProfile,
  profileFolders,
  readProfile,
  withStepLimits,
  writeProfile,
} from '../../src/profile/profile-file.js';
import { profileFileName, profileKeyOf } from '../../src/profile/profile-key.js';
import type { ProfileFile, ProfileKey } from '../../src/router/cost-parameters.js';

const folder = mkdtempSync(path.join(os.tmpdir(), 'twostroke-profile-'));
afterAll(() => rmSync(folder, { recursive: true }));

const key: ProfileKey = {
  deviceName: 'AMD EPYC (test)',
  threadCount: 2,
  modelName: 'qwen3/256x6/4096',
  weightFormat: 'bf16',
  kvDtype: 'f32',
  version: 1,
};
const profile: ProfileFile = {
  key,
  measuredAt: '2026-01-02T03:04:05',
  parameters: {
    step: {
      rowKnots: [
        { rowCount: 1, ms: 1 },
        { rowCount: 512, ms: 20 },
      ],
      msPerSampledRow: 0.1,
      msPerDecodeKvToken: 1e-4,
      msPerPrefillPair: 0,
    },
    links: [{ connector: 'peer', latencyMs: 0.1, bytesPerSecond: 1e9 }],
    request: { arrivalMs: 1, tokenMs: 1, handOverMs: 2, handOverMsPerToken: 0.01 },
    kvBytesPerToken: 3072,
    tokenBudget: 512,
    prefillChunkTokenCount: 256,
  },
  readable: {
    prefillMsPerToken: 0.04,
    decodeMsPerStep: 1,
    batchThreshold: 4,
    interferenceMsPerToken: 0.04,
    linkGBPerSecond: 1,
  },
  fitError: { median: 0.05, p90: 0.2 },
  samples: [{ decodeCount: 1, decodeKvTokenCount: 17, prefillTokenCount: 0, prefillPairCount: 0, ms: 1.25 }],
  linkSamples: [{ connector: 'peer', bytes: 98304, ms: 1.5 }],
};

describe('a profile file', () => {
  it('is found by its key alone, in the first folder that has it', () => {
    const [first, second] = [path.join(folder, 'first'), path.join(folder, 'second')];
    writeProfile(path.join(second, profileFileName(key)), profile);
    expect(findProfile(key, [first, second])).toEqual(profile);
    writeProfile(path.join(first, profileFileName(key)), { ...profile, linkSamples: [], samples: [] });
    expect(findProfile(key, [first, second])?.samples).toEqual([]);
    const others: Partial<ProfileKey>[] = [
      { threadCount: 1 },
      { kvDtype: 'bf16' },
      { weightFormat: 'f32' },
      { modelName: 'qwen3/256x7/4096' },
      { deviceName: 'AMD EPYC [test]' }, // the same file name
    ];
    for (const other of others) expect(findProfile({ ...key, ...other }, [first, second])).toBeNull();
  });

  it.each([
    ['no JSON', 'half a fi'],
    ['parameters', JSON.stringify({ ...profile, parameters: { ...profile.parameters, kvBytesPerToken: 0 } })],
    ['version', JSON.stringify({ ...profile, key: { ...key, version: 2 } })],
    [
      'rowKnots',
      JSON.stringify(profile).replace('"rowCount":512', '"rowCount":1'), // a row count twice
    ],
  ])('that is wrong is refused, by name: %s', (what, text) => {
    const file = path.join(folder, 'wrong.json');
    writeFileSync(file, text);
    expect(() => readProfile(file)).toThrow(file);
    if (what !== 'no JSON') expect(() => readProfile(file)).toThrow(what);
  });

  it('takes the step limits of the server that uses it', () => {
    const { parameters } = withStepLimits(profile, {
      tokenBudget: 64,
      prefillChunkTokenCount: 32,
      sequenceCountMax: 8,
    });
    expect([parameters.tokenBudget, parameters.prefillChunkTokenCount]).toEqual([64, 32]);
  });

  it('names a GPU without threads', () => {
    const device = { name: 'NVIDIA H200', threadCount: 0 } as never;
    const kv = { modelName: 'qwen3/4096x36/151936', dtype: 'bf16' } as never;
    const gpu = profileKeyOf({ device, kv, weightFormat: 'bf16', batchInvariant: 'off' });
    expect(profileFileName(gpu)).toBe('nvidia-h200-qwen3-4096x36-151936-bf16-kv-bf16.json');
  });

  it('of a batch-invariant GPU is another one; a CPU always is batch-invariant', () => {
    const key = (kind: 'cpu' | 'cuda', batchInvariant: 'on' | 'off') => {
      const device = { name: 'NVIDIA H200', threadCount: 0, kind } as never;
      return profileKeyOf({
        device,
        kv: { modelName: 'm', dtype: 'bf16' } as never,
        weightFormat: 'bf16',
        batchInvariant,
      });
    };
    const [usual, invariant] = [key('cuda', 'off'), key('cuda', 'on')];
    expect(profileFileName(invariant)).toBe('nvidia-h200-m-bf16-kv-bf16-batch-invariant.json');
    const own = path.join(folder, 'invariant');
    writeProfile(path.join(own, profileFileName(usual)), { ...profile, key: usual });
    expect(findProfile(invariant, [own])).toBeNull();
    // a file of the wrong name
    writeProfile(path.join(own, profileFileName(usual)), { ...profile, key: invariant });
    expect(findProfile(usual, [own])).toBeNull();
    writeProfile(path.join(own, profileFileName(invariant)), { ...profile, key: invariant });
    expect(findProfile(invariant, [own])?.key).toEqual(invariant);
    expect(key('cpu', 'on')).toEqual(key('cpu', 'off'));
  });

  it('of the package is as readProfile wants it', () => {
    const [, packaged] = profileFolders();
    const names = readdirSync(packaged).filter((name) => name.endsWith('.json'));
    expect(names.length).toBeGreaterThan(0);
    for (const name of names) expect(profileFileName(readProfile(path.join(packaged, name)).key)).toBe(name);
  });
});

describe('bursts', () => {
  const tokensOf = ({ crowd, guests }: Burst) =>
    [...crowd, ...guests].map(
      ({ promptTokenCount, outputTokenCount }) => promptTokenCount + outputTokenCount,
    );

  it.each([
    { tokenBudget: 512, batchSlotCount: 64, contextTokenCount: 4096, kvTokenCount: 13_000 },
    { tokenBudget: 2048, batchSlotCount: 256, contextTokenCount: 40_960, kvTokenCount: 500_000 },
    { tokenBudget: 16, batchSlotCount: 2, contextTokenCount: 64, kvTokenCount: 100 },
  ])('fit into %o', (limits) => {
    const bursts = burstsFor(limits);
    expect(bursts.length).toBeGreaterThan(1);
    for (const burst of bursts) {
      expect(Math.max(...tokensOf(burst))).toBeLessThanOrEqual(limits.contextTokenCount);
      expect(tokensOf(burst).reduce((sum, count) => sum + count, 0)).toBeLessThanOrEqual(limits.kvTokenCount);
      expect(burst.crowd.length).toBeLessThanOrEqual(limits.batchSlotCount);
    }
  });

  it('let all of a deep batch decode together, however long its prompts take', () => {
    const limits = { tokenBudget: 2048, batchSlotCount: 64, contextTokenCount: 4096, kvTokenCount: 500_000 };
    const deepest = burstsFor(limits).filter(
      ({ crowd }) => crowd.length === 64 && crowd[0]!.promptTokenCount === 1024,
    );
    expect(deepest).toHaveLength(1);
    expect(deepest[0]!.crowd[0]!.outputTokenCount).toBeGreaterThan((64 * 1024) / 2048);
  });

  it('reach every part of the formula', () => {
    const bursts = burstsFor({
      tokenBudget: 512,
      batchSlotCount: 64,
      contextTokenCount: 4096,
      kvTokenCount: 50_000,
    });
    expect(bursts.some(({ guests }) => guests.length > 0)).toBe(true);
    expect(bursts.some(({ crowd }) => crowd.length === 64)).toBe(true);
    expect(bursts.some(({ crowd }) => crowd.some(({ cachedTokenCount }) => cachedTokenCount > 0))).toBe(true);
    expect(bursts.some(({ crowd }) => crowd.length > 1 && crowd[0]!.promptTokenCount >= 1024)).toBe(true);
  });
});
