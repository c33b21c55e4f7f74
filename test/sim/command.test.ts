/** `twostroke simulate` from the command line. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { writeProfile } from '../../src/profile/profile-file.js';
import { twostroke } from '../cli/twostroke.js';
import { syntheticProfile } from './clusters.js';

interface Result extends Record<string, unknown> {
  readonly routes: { readonly workers: object };
}

describe.concurrent('twostroke simulate', () => {
  let folder: string;
  const file = (name: string) => path.join(folder, name);
  beforeAll(() => {
    folder = mkdtempSync(path.join(os.tmpdir(), 'twostroke-simulate-'));
    writeProfile(file('profile.json'), syntheticProfile());
    writeFileSync(
      file('trace.jsonl'),
      '{"timestamp": 0, "input_length": 700, "output_length": 3}\n{"timestamp": 40, "input_length": 90, "output_length": 5}\n',
    );
  });
  afterAll(() => rmSync(folder, { recursive: true }));
  const simulate = (...args: string[]) => twostroke('simulate', '--profile', file('profile.json'), ...args);

  it('prints percentiles, goodput and routes, the same for the same seed', async () => {
    const args = [
      '--workers',
      'any:cpu,prefill:cpu*2,decode:cpu',
      '--rate',
      '30',
      '--requests',
      '60',
      '--goodput',
      'ttft:100',
      '--json',
    ];
    const results = await Promise.all([1, 2].map((n) => simulate(...args, '--log', file(`log${n}`))));
    const [first, second] = results.map(({ stdout }) => JSON.parse(stdout) as Result);
    expect(first).toMatchObject({ completed: 60, failed: 0 });
    expect(first?.p99_ttft_ms).toBeGreaterThan(0);
    expect(first?.request_goodput).toBeGreaterThan(0);
    expect(Object.keys(first?.routes.workers ?? {}).length).toBeGreaterThan(1);
    expect({ ...first, date: '', wall_ms: 0 }).toEqual({ ...second, date: '', wall_ms: 0 });
    expect(readFileSync(file('log1'), 'utf8')).toBe(readFileSync(file('log2'), 'utf8'));
  });

  it('replays a trace, and routes on wrong beliefs', async () => {
    const { stdout, exitCode } = await simulate(
      '--trace',
      file('trace.jsonl'),
      '--router-error',
      '1.3,0.7,1.3',
    );
    expect(stdout).toMatch(/Completed +2/);
    expect(stdout).toMatch(/w0 +computed \d+ prompts/);
    expect(exitCode).toBe(0);
  });

  it('serves within the SLOs it is told, and refuses what it cannot serve in time when asked to', async () => {
    const args = [
      '--workload',
      'random',
      '--input-len',
      '2000',
      '--output-len',
      '8',
      '--rate',
      '60',
      '--requests',
      '80',
      '--json',
    ];
    const run = async (...more: string[]) =>
      JSON.parse((await simulate(...args, ...more)).stdout) as Record<string, number>;
    const [late, shed, lenient, unpaced, own] = await Promise.all([
      run('--slo', 'ttft:200'),
      run('--slo', 'ttft:200', '--on-overload', 'shed'),
      run('--slo', 'ttft:600000', '--on-overload', 'shed'),
      run('--slo', 'ttft:200,tpot:3', '--pacing', 'off'),
      run('--slo', 'ttft:600000', '--on-overload', 'shed', '--goodput', 'ttft:200', '--send-slo'),
    ]);
    expect(late.rejected).toBe(0);
    expect(lenient.rejected).toBe(0);
    expect(shed.rejected).toBeGreaterThan(0);
    expect(own.rejected).toBe(shed.rejected);
    expect(shed.p99_ttft_ms).toBeLessThan(late.p99_ttft_ms ?? 0);
    expect(unpaced.p99_tpot_ms).not.toBe(late.p99_tpot_ms);
  });

  it.each([
    { args: ['--rate', '1', '--slo', 'tpot:fast'], message: /--slo tpot:fast: expected/ },
    { args: ['--rate', '1', '--send-slo'], message: /--send-slo needs --goodput/ },
    { args: ['--rate', '1', '--router-error', '1,2'], message: /three factors/ },
    { args: [], message: /--rate is missing/ },
    { args: ['--trace', '/nowhere'], message: /--trace: .*nowhere/ },
    { args: ['--rate', '1', '--host', '/nowhere'], message: /--host: .*nowhere/ },
  ])('refuses $args', async ({ args, message }) => {
    const { exitCode, stderr } = await simulate(...args);
    expect(stderr).toMatch(message);
    expect(exitCode).toBe(2);
  });
});
