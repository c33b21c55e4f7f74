/** The numbers that bench/cpu publishes, from made-up samples whose answers are known by hand. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { describe, expect, it } from 'vitest';

interface Sample {
  readonly alternation: number;
  readonly phase: string;
  readonly side: 'twostroke' | 'llama';
  readonly variant: string;
  readonly tokenCount: number;
  readonly ms: number;
  readonly forwardMs?: number;
  readonly firstToken?: number;
  readonly othersShare: number | null;
}
interface Line {
  readonly ratios: Record<string, number>;
  readonly forwardRatios: Record<string, number>;
  readonly bandwidthShare: Record<string, number>;
  readonly tokensPerSecond: {
    readonly twostroke: Record<string, number>;
    readonly llama: Record<string, number>;
  };
  readonly othersShare: number | null;
}
interface Report {
  summariseRun(run: unknown): {
    readonly line: Line;
    readonly sameFirstToken: { readonly same: number; readonly of: number };
  };
  renderMarkdown(run: unknown, summary: unknown): string;
  renderText(run: unknown, summary: unknown): string;
}
interface Workload {
  decodeStepBytes(config: unknown, step: Record<string, number>): number;
  promptIds(seed: number): number[];
}

const folder = path.resolve(import.meta.dirname, '../../bench/cpu');
const load = async <T>(file: string): Promise<T> =>
  (await import(pathToFileURL(path.join(folder, file)).href)) as T;
const { summariseRun, renderMarkdown, renderText } = await load<Report>('report.mjs');
const { decodeStepBytes, promptIds } = await load<Workload>('workload.mjs');

/** One layer, small enough to count: matrices 2·(8·8 + 2·4·8 + 8·8 + 3·16·8) and the output 32·8. */
const config = {
  hidden_size: 8,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  head_dim: 4,
  intermediate_size: 16,
  vocab_size: 32,
};
const matrixCount = 8 * 8 + 2 * 4 * 8 + 8 * 8 + 3 * 16 * 8 + 32 * 8;

/** ms by alternation for one variant; each sample has 10 tokens. */
function samplesOf(side: Sample['side'], variant: string, phase: string, times: readonly number[]): Sample[] {
  return times.map((ms, index) => ({
    alternation: index + 1,
    phase,
    side,
    variant,
    tokenCount: 10,
    ms,
    forwardMs: ms / 2,
    firstToken: side === 'llama' && index === 0 ? 6 : 7,
    othersShare: 0.02,
  }));
}

function makeRun(samples: readonly Sample[]) {
  return {
    samples,
    reads: ['decode1', 'decode8'].flatMap((phase) =>
      [1000, 3000, 2000].map((allThreads, index) => ({
        alternation: index + 1,
        phase,
        oneThread: 900,
        allThreads,
      })),
    ),
    loaded: { twostroke: { config, isa: 'avx512' }, llama: {} },
    settings: { alternationCount: 3, stepCount: 2, threadCount: 2, quantize: 'none' },
    machine: { cpu: 'X', cores: 2, memoryGiB: 1, system: 'Linux', node: 'v20' },
    versions: { 'node-llama-cpp': '1', 'llama.cpp': '2' },
    commit: 'abc',
    date: '2026-01-02T00:00:00Z',
    wallSeconds: 1,
  };
}

const phaseNames = ['prefill', 'decode1', 'decode8'];
const full = makeRun(
  phaseNames.flatMap((phase) => [
    ...samplesOf('twostroke', 'engine', phase, [10, 1000, 20]),
    ...samplesOf('twostroke', 'forward', phase, [10, 10, 10]),
    ...samplesOf('llama', 'flash', phase, [80, 80, 80]),
    ...samplesOf('llama', 'plain', phase, phase === 'prefill' ? [200, 200, 200] : [30, 40, 50]),
  ]),
);

describe('the CPU benchmark report', () => {
  it('takes medians, and the better of flash attention on and off in each phase', () => {
    const { line } = summariseRun(full);
    expect(line.tokensPerSecond.twostroke).toEqual({ prefill: 500, decode1: 500, decode8: 500 });
    expect(line.tokensPerSecond.llama).toEqual({ prefill: 125, decode1: 250, decode8: 250 });
    expect(line.ratios).toEqual({ prefill: 4, decode1: 2, decode8: 2 });
    expect(line.forwardRatios).toEqual({ prefill: 4, decode1: 2, decode8: 2 });
    expect(line.othersShare).toBe(0.02);
  });

  it('shares bandwidth by the bytes a step must read, over the read speed of the same alternation', () => {
    const keyCount = 512 + 1;
    const stepBytes = matrixCount * 2 + keyCount * 2 * 4 * 2;
    expect(decodeStepBytes(config, { batchCount: 1, keyCount, elementBytes: 2, kvElementBytes: 2 })).toBe(
      stepBytes,
    );
    const share = summariseRun(full).line.bandwidthShare;
    const shares = [1000 / 1000, 10 / 3000, 500 / 2000]
      .map((perRead) => perRead * stepBytes)
      .sort((a, b) => a - b);
    expect((share.decode1 ?? 0) / (shares[1] ?? 0)).toBeCloseTo(1, 3); // the line rounds to 4 digits
    expect(share.prefill).toBeUndefined();
  });

  it('counts prefills with the same first token', () => {
    expect(summariseRun(full).sameFirstToken).toEqual({ same: 2, of: 3 });
  });

  it('renders a full run and one without llama.cpp', () => {
    expect(renderMarkdown(full, summariseRun(full))).toContain('4.00 (0.08–8.00)');
    const alone = makeRun(full.samples.filter((sample) => sample.side === 'twostroke'));
    expect(summariseRun(alone).line.ratios).toEqual({});
    expect(renderText(alone, summariseRun(alone))).toContain('decode, batch 8');
  });

  it('gives fresh prompts for each seed, in the vocabulary', () => {
    const [first, second] = [promptIds(1), promptIds(2)];
    expect(first).toHaveLength(512);
    expect(first.slice(0, 16)).not.toEqual(second.slice(0, 16));
    expect(Math.max(...first)).toBeLessThan(151643);
  });

  it('is what package.json runs', () => {
    const { scripts } = JSON.parse(readFileSync(path.resolve(folder, '../../package.json'), 'utf8')) as {
      scripts: Record<string, string>;
    };
    expect(scripts['bench:cpu']).toContain('bench/cpu/bench.mjs');
  });
});
