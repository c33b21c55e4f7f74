/** A sweep from arrivals to report: on made-up records where the verdict is known, and end to end against
 *  servers in this process. */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { parseTarget } from '../../src/bench/command-line.js';
import { sweepPlots } from '../../src/bench/plots.js';
import { renderSvg } from '../../src/bench/render.js';
import { writeReport } from '../../src/bench/report.js';
import { runSweep, type SweepSettings } from '../../src/bench/sweep.js';
import { packSweep, readSweep, SweepFiles } from '../../src/bench/sweep-file.js';
import { summariseSweep, unloadedSlos } from '../../src/bench/sweep-summary.js';
import { startFakeOpenAi, wellBehaved } from './fake-openai.js';
import { type RecordShape, sweepData } from './records.js';

const modes = ['collocated', 'disaggregated', 'adaptive'];
let folder: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'twostroke-sweep-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** Collocated is fast at 1/s and slow at 10/s, disaggregated the other way round; adaptive is as good as the
 *  better one. Unloaded: rate 0. */
function shapeOf(mode: string, rate: number, _repetition: number, index: number): RecordShape {
  const isGood = rate === 0 || mode === 'adaptive' || (mode === 'collocated') === rate < 5;
  const extra = {
    route: index % 2 === 0 ? 'collocated; w0' : 'disaggregated; w0 -> w1',
    predicted: { ttftMs: 18, transferMs: index % 2, tpotMs: 9.5, stepMs: 9, e2elMs: 60 },
    ...(index % 2 === 0 ? {} : { transferMs: 2 }),
  };
  return { ttftMs: (isGood ? 20 : 200) + (index % 7), gapMs: 10, extra };
}

describe('summariseSweep', () => {
  const summary = summariseSweep(sweepData([1, 10], modes, 40, shapeOf));

  it('takes targets from the unloaded runs of the static modes', () => {
    expect(summary.slos.short!.short!.ttftMs).toBeCloseTo(5 * 22, 9); // p50 of 20 … 24
    expect(summary.slos.short!.short!.tpotMs).toBeCloseTo(2 * 10, 9);
  });

  it('compares with the better static mode of each point', () => {
    expect(summary.points.map(({ reference }) => reference)).toEqual(['collocated', 'disaggregated']);
    for (const { comparison, noise } of summary.points) {
      expect(comparison).toMatchObject({ verdict: 'holds' });
      expect(noise).toMatchObject({ verdict: 'holds' });
    }
    expect(summary.neverWorse).toMatchObject({
      goodputRatioMin: 1,
      ttftP99RatioMax: 1,
      tpotP99RatioMax: 1,
      pointCount: 2,
      holdsCount: 2,
      voidCount: 0,
      betterCount: 0,
      overall: { goodput: { ratio: 1, verdict: 'holds' }, ttft: { ratio: 1 }, tpot: { ratio: 1 } },
      noise: { pointCount: 2, holdsCount: 2 },
    });
  });

  it('where nobody is within the targets, twice those say which static mode is better', () => {
    const slow = sweepData([1], modes, 40, (mode, rate, repetition, index) => ({
      ...shapeOf(mode, rate, repetition, index),
      ...(rate > 0 ? { gapMs: mode === 'disaggregated' ? 30 : 45 } : {}), // targets 20 and 40
    }));
    expect(summariseSweep(slow).points[0]).toMatchObject({ reference: 'disaggregated', referenceScale: '2' });
    expect(summary.points[0]).toMatchObject({ reference: 'collocated', referenceScale: '1' });
  });

  it('gives goodput over the span of the arrivals', () => {
    const rows = summary.points[0]!.modes;
    const good = (mode: string) => rows.find((row) => row.mode === mode)!.goodRequestsPerSecond['1'];
    expect(good('collocated')).toBeCloseTo(40 / 39, 9); // 40 arrivals, 39 gaps of 1 s
    expect(good('disaggregated')).toBe(0);
  });

  it('finds an adaptive mode that is worse, and one that is better', () => {
    const worse = sweepData([1], modes, 40, (mode, ...rest) => ({
      ...shapeOf(mode, ...rest),
      ...(mode === 'adaptive' ? { ttftMs: 90 } : {}),
    }));
    expect(summariseSweep(worse).neverWorse).toMatchObject({ holdsCount: 0, failsCount: 1 });
    const better = sweepData([1], modes, 40, (mode, rate, repetition, index) => {
      const shape = shapeOf(mode, rate, repetition, index);
      return mode !== 'adaptive' && rate > 0 && index % 4 === 0 ? { ...shape, outcome: 'rejected' } : shape;
    });
    expect(summariseSweep(better).neverWorse).toMatchObject({ holdsCount: 1, betterCount: 1 });
  });

  it('leaves void points out of the extremes', () => {
    const late = sweepData([1, 10], modes, 40, (mode, rate, ...rest) => {
      const shape = shapeOf(mode, rate, ...rest);
      return mode === 'adaptive' && rate === 10 ? { ...shape, ttftMs: 5000, delayMs: 20 } : shape;
    });
    expect(summariseSweep(late).neverWorse).toMatchObject({
      voidCount: 1,
      holdsCount: 1,
      ttftP99RatioMax: 1,
    });
  });
});

describe('report', () => {
  it('is derived again from the files alone', async () => {
    const data = sweepData([1, 10], modes, 40, shapeOf);
    new SweepFiles(folder).keep(data);
    expect(summariseSweep(readSweep(folder))).toEqual(summariseSweep(data));
    const { summary, paths } = await writeReport(folder, {
      curveFiles: [],
      profileFiles: [],
      pictures: 'svg',
    });
    expect(JSON.parse(readFileSync(path.join(folder, 'summary.json'), 'utf8'))).toEqual(
      JSON.parse(JSON.stringify(summary)),
    );
    const page = readFileSync(path.join(folder, 'report.html'), 'utf8');
    expect(page.match(/<svg/g)!.length).toBe(paths.filter((file) => file.endsWith('.svg')).length);
    expect(page).not.toMatch(/<(script|link|img)\b|src=/); // self-contained
    expect(page).toMatch(/fails at 0/);
  });

  it('is kept as the sweep grows, each run once, in place of what was there before', () => {
    const { header, records } = sweepData([1, 10], modes, 40, shapeOf);
    new SweepFiles(folder).keep(sweepData([5], modes, 3, shapeOf));
    const files = new SweepFiles(folder);
    const half = header.runs.slice(0, header.runs.length / 2);
    const ofHalf = new Map(half.map(({ runIndex }) => [runIndex, records.get(runIndex)!]));
    files.keep({ header: { ...header, runs: half }, records: ofHalf });
    expect(readSweep(folder).records).toEqual(ofHalf);
    files.keep({ header, records });
    files.keep({ header, records });
    expect(readSweep(folder)).toEqual({ header, records });
    packSweep(folder);
    expect(existsSync(path.join(folder, 'requests.jsonl.gz'))).toBe(false);
    const withoutGaps = [...records].map(
      ([run, list]) => [run, list.map((each) => ({ ...each, gapsMs: [] }))] as const,
    );
    expect(readSweep(folder)).toEqual({ header, records: new Map(withoutGaps) });
    new SweepFiles(folder).keep({ header, records });
    expect(readSweep(folder)).toEqual({ header, records });
  });

  it('says of a loss in what, over which paths and on which estimates', async () => {
    const slow = (mode: string) => (mode === 'adaptive' ? { ttftMs: 90 } : {});
    new SweepFiles(folder).keep(
      sweepData([1], modes, 40, (mode, ...rest) => ({ ...shapeOf(mode, ...rest), ...slow(mode) })),
    );
    await writeReport(folder, { curveFiles: [], profileFiles: [], pictures: 'svg' });
    const page = readFileSync(path.join(folder, 'report.html'), 'utf8');
    expect(page).toMatch(
      /worse than collocated in .*TTFT p90 \(3\.\d+ ×\)\. It disaggregated 50.0 % of the requests\. Its estimates were off by 80\.0 %/,
    );
  });

  it('draws every plot that has data, with every mode in it', async () => {
    const data = sweepData([1, 10], modes, 40, shapeOf);
    const plots = sweepPlots(summariseSweep(data), data);
    expect(plots.map(({ name }) => name)).toEqual([
      'never-worse',
      'throughput',
      'goodput',
      'ttft',
      'tpot',
      'outcomes',
      'latency-cdf',
      'predicted-vs-real',
      'routes',
    ]);
    for (const { name, spec } of plots) {
      const svg = await renderSvg(spec);
      expect(svg.length, name).toBeGreaterThan(2000);
      if (!['predicted-vs-real', 'never-worse'].includes(name))
        for (const mode of modes) expect(svg, name).toContain(mode);
    }
  });

  it('leaves out plots without data', () => {
    const data = sweepData([1], modes, 10, (mode, rate, repetition, index) => ({
      ...shapeOf(mode, rate, repetition, index),
      extra: {},
    }));
    const names = sweepPlots(summariseSweep(data), data).map(({ name }) => name);
    expect(names).not.toContain('predicted-vs-real');
    expect(names).not.toContain('routes');
  });

  it('names a folder without a sweep', async () => {
    await expect(writeReport(folder, { curveFiles: [], profileFiles: [], pictures: 'svg' })).rejects.toThrow(
      /no sweep in/,
    );
    expect(existsSync(path.join(folder, 'report.html'))).toBe(false);
  });
});

type Server = Awaited<ReturnType<typeof startFakeOpenAi>>;

const settingsOf = (servers: readonly Server[]): SweepSettings => ({
  targets: modes.map((mode, i) => parseTarget(`${mode}=${servers[i]!.url}`)),
  candidate: 'adaptive',
  workloads: [
    {
      name: 'short',
      path: null,
      inputTokenCount: 1,
      outputTokenCount: 8,
      rangeRatio: 0,
      outputShape: 'auto',
      lengthScale: 1,
      requestCountMax: 1000,
    },
  ],
  client: {
    api: 'completions',
    model: null,
    apiKey: null,
    temperature: null,
    ignoreEos: false,
    outputLength: 'forced',
  },
  rates: { unit: 'perSecond', values: [400, 800] },
  repetitionCount: 2,
  timeLimitMs: Number.POSITIVE_INFINITY,
  settleMs: 0,
  requestCount: 12,
  unloadedRequestCount: 3,
  saturationConcurrency: 4,
  saturationRequestCount: 12,
  twin: 'started',
  load: { drainMs: 5000, warmupMs: 0, warmupRequestCount: 2, seed: 9 },
  burstiness: 1,
  readyMs: 1000,
  sentSlo: null,
});

describe('runSweep', () => {
  it('gives all modes the same lengths and never the same prompts', async () => {
    const servers = await Promise.all(modes.map(() => startFakeOpenAi(wellBehaved)));
    const lines: string[] = [];
    const kept: number[] = [];
    const outcome = await runSweep(
      settingsOf(servers),
      { clock: systemClock, write: null },
      { tell: (line) => lines.push(line), keep: ({ runs }) => kept.push(runs.length) },
    );
    await Promise.all(servers.map((server) => server.close()));
    // after every repetition of every rate
    expect(kept).toEqual([1, 2, 3, 4].map((pairs) => 3 + 3 + 3 + 4 * pairs));
    // warmup, not of the twin by URL; saturation; unloaded; repetitions × rates × (three modes and the A/A
    // run)
    expect(outcome.runs).toHaveLength(3 + 3 + 3 + 2 * 2 * 4);
    const at = (mode: string, repetition: number, rate: number) =>
      outcome.records.get(
        outcome.runs.find(
          (run) =>
            run.stage === 'point' &&
            run.mode === mode &&
            run.repetition === repetition &&
            run.ratePerSecond === rate,
        )!.runIndex,
      )!;
    const shape = (mode: string, repetition: number, rate: number) =>
      [...at(mode, repetition, rate)]
        .sort((a, b) => a.index - b.index)
        .map(({ index, phase, scheduledMs, wantedTokenCount, outputTokenCount }) => ({
          index,
          phase,
          scheduledMs,
          wantedTokenCount,
          outputTokenCount,
        }));
    for (const rate of [400, 800]) {
      for (const repetition of [0, 1]) {
        expect(shape('adaptive', repetition, rate)).toHaveLength(14);
        expect(shape('adaptive', repetition, rate)).toEqual(shape('collocated', repetition, rate));
        expect(shape('adaptive', repetition, rate)).toEqual(shape('disaggregated', repetition, rate));
      }
      expect(shape('adaptive', 0, rate)).not.toEqual(shape('adaptive', 1, rate));
    }
    for (const records of outcome.records.values()) {
      for (const record of records)
        expect(record).toMatchObject({ outcome: 'completed', outputTokenCount: record.wantedTokenCount });
    }
    const prompts = servers.flatMap(({ requests }) =>
      requests.map(({ body }) => (body.prompt as number[]).slice(0, 16).join()),
    );
    expect(new Set(prompts).size).toBe(prompts.length);
    expect(lines.filter((line) => line.includes('completed'))).toHaveLength(outcome.runs.length);
  });

  it.each([true, false])(
    'tells servers the targets of a point that requests alone have made, if asked to: %s',
    async (isSent) => {
      const servers = await Promise.all(modes.map(() => startFakeOpenAi(wellBehaved)));
      const outcome = await runSweep(
        {
          ...settingsOf(servers),
          repetitionCount: 1,
          sentSlo: isSent ? { ttftFactor: 1000, tpotFactor: 2000 } : null,
        },
        { clock: systemClock, write: null },
        { tell: () => undefined, keep: () => undefined },
      );
      await Promise.all(servers.map((server) => server.close()));
      const header = { candidate: 'adaptive', ttftFactor: 1000, tpotFactor: 2000, runs: outcome.runs };
      const { short } = unloadedSlos({ header, records: outcome.records }, 'short');
      const told = servers.flatMap(({ requests }) => requests.map(({ headers }) => headers['x-slo-ttft-ms']));
      const pointCount = outcome.runs.filter(({ ratePerSecond }) => ratePerSecond !== null).length;
      expect(told.filter((text) => text !== undefined)).toHaveLength(isSent ? 14 * pointCount : 0);
      if (isSent) expect(new Set(told)).toEqual(new Set([undefined, String(short?.ttftMs)]));
    },
  );

  it('begins no repetition after the time limit, but the first', async () => {
    const servers = await Promise.all(modes.map(() => startFakeOpenAi(wellBehaved)));
    const settings = { ...settingsOf(servers), repetitionCount: 50, timeLimitMs: 1 };
    const lines: string[] = [];
    const { runs } = await runSweep(
      settings,
      { clock: systemClock, write: null },
      { tell: (line) => lines.push(line), keep: () => undefined },
    );
    await Promise.all(servers.map((server) => server.close()));
    expect(new Set(runs.map(({ repetition }) => repetition))).toEqual(new Set([0]));
    expect(lines.at(-1)).toBe('time is up for this point after 1 of 50 repetitions');
  });

  it('leaves what comes within the warm-up out, and adds as many requests', async () => {
    const servers = await Promise.all(modes.map(() => startFakeOpenAi(wellBehaved)));
    const settings = settingsOf(servers);
    const { runs, records } = await runSweep(
      {
        ...settings,
        repetitionCount: 1,
        settleMs: 30,
        rates: { unit: 'perSecond', values: [400] },
        requestCount: { seconds: 0.1, min: 1, max: 1000 },
        load: { ...settings.load, warmupMs: 50, warmupRequestCount: 0 },
      },
      { clock: systemClock, write: null },
      { tell: () => undefined, keep: () => undefined },
    );
    await Promise.all(servers.map((server) => server.close()));
    for (const { runIndex } of runs.filter(({ stage }) => stage === 'point')) {
      const all = records.get(runIndex)!;
      expect(all).toHaveLength(60); // 20 and 40 of them, on average, before and after
      for (const { scheduledMs, phase } of all) expect(phase).toBe(scheduledMs < 50 ? 'warmup' : 'measured');
    }
    const settling = runs.filter(({ stage, ratePerSecond }) => stage === 'warmup' && ratePerSecond === 400);
    expect(settling.map(({ mode, runIndex }) => [mode, records.get(runIndex)!.length])).toEqual(
      modes.map((mode) => [mode, 12]),
    );
    expect(
      runs.filter(({ stage }) => stage === 'unloaded').flatMap(({ runIndex }) => records.get(runIndex)!),
    ).toHaveLength(9);
  });
});

describe('parseTarget', () => {
  it('takes URLs and command lines', () => {
    expect(parseTarget('a=http://x:1')).toMatchObject({
      name: 'a',
      source: { kind: 'url', baseUrl: 'http://x:1' },
    });
    expect(parseTarget(`b=node "my server.js" --workers 'any:cpu*2'`).source).toEqual({
      kind: 'command',
      words: ['node', 'my server.js', '--workers', 'any:cpu*2'],
    });
    expect(() => parseTarget('http://x:1')).toThrow(/name=/);
  });
});
