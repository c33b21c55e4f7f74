/** How wrong estimates were: each metric by itself, for the length that came. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { predictionErrors, predictionOf } from '../../src/bench/predictions.js';
import { plotsOfProfile } from '../../src/bench/profile-curves.js';
import { renderSvg } from '../../src/bench/render.js';
import { record } from './records.js';

/** TTFT 50 ms, then 4 gaps of 10 ms: TPOT 10, E2EL 90. */
const predicted = {
  ttftMs: 40,
  transferMs: 4,
  joinMs: 2,
  stepMs: 9,
  tpotMs: 9.1,
  e2elMs: 180,
  expectedTokenCount: 16,
};
const handedOver = record({ extra: { predicted, transferMs: 5 } });

describe('predictions', () => {
  it('are recomputed for the length that the answer had', () => {
    expect(predictionOf(handedOver, 'ttft')).toEqual({ predictedMs: 40, realMs: 50 });
    expect(predictionOf(handedOver, 'transfer')).toEqual({ predictedMs: 4, realMs: 5 });
    expect(predictionOf(handedOver, 'tpot')).toEqual({ predictedMs: (4 + 2 + 4 * 9) / 4, realMs: 10 });
    expect(predictionOf(handedOver, 'e2el')).toEqual({ predictedMs: 40 + 4 + 2 + 4 * 9, realMs: 90 });
    expect(predictionOf(handedOver, 'e2elOfPredictedLength')).toEqual({ predictedMs: 180, realMs: 90 });
  });

  it('have no error where nothing was predicted, handed over or completed', () => {
    expect(predictionErrors([record(), record({ outcome: 'rejected', extra: { predicted } })])).toEqual({});
    expect(
      predictionErrors([record({ extra: { predicted: { ...predicted, transferMs: 0 } } })]).transfer,
    ).toBeUndefined();
    expect(predictionOf(record({ tokenCount: 1, extra: { predicted } }), 'tpot')).toBeUndefined();
  });

  it('give median and p90 of the relative errors', () => {
    // 20, 10, 0, 20, 100 % of 50
    const records = [40, 45, 50, 60, 100].map((ttftMs) => record({ extra: { predicted: { ttftMs } } }));
    const { ttft } = predictionErrors(records);
    expect(ttft).toMatchObject({ requestCount: 5, median: 0.2 });
    expect(ttft!.p90).toBeCloseTo(0.2 + 0.6 * 0.8, 9);
  });
});

describe('plots of a profile', () => {
  const step = { decodeKvTokenCount: 100, prefillTokenCount: 0 };
  const profile = {
    key: { deviceName: 'test', modelName: 'tiny' },
    parameters: {
      links: [{ connector: 'peer', latencyMs: 0.1, bytesPerSecond: 1e9 }],
      request: { handOverMs: 0.4 },
      kvBytesPerToken: 1000,
    },
    readable: { interferenceMsPerToken: 0.05 },
    samples: [1, 3, 2]
      .flatMap((ms) => [1, 2].map((decodeCount) => ({ ...step, decodeCount, ms: decodeCount * ms })))
      .concat([{ ...step, decodeCount: 3, ms: 50 }]), // one step alone is not drawn
  };

  it('show the median step by batch, and what moving a prompt costs', async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'twostroke-profile-'));
    const file = path.join(folder, 'profile.json');
    writeFileSync(file, JSON.stringify(profile));
    const [decode, transfer] = plotsOfProfile(file);
    rmSync(folder, { recursive: true });
    expect(decode!.spec.data).toEqual({
      values: [
        { x: 1, y: 2, mode: 'up to 256' },
        { x: 2, y: 4, mode: 'up to 256' },
      ],
    });
    const { values } = transfer!.spec.data as { values: { x: number; y: number; mode: string }[] };
    expect(values.find(({ x, mode }) => x === 1024 && mode.includes('peer'))!.y).toBeCloseTo(0.5 + 1.024, 9);
    expect(values.find(({ x, mode }) => x === 1024 && mode.includes(' 8 '))!.y).toBeCloseTo(
      8 * 1024 * 0.05,
      9,
    );
    expect(await renderSvg(transfer!.spec)).toContain('holding up 8 sequences');
  });

  it('say what is wrong with a file', () => {
    expect(() => plotsOfProfile('/nowhere.json')).toThrow(/--profile \/nowhere.json/);
  });
});
