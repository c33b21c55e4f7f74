/** `twostroke profile` on the demo model, short, and what it writes in the hands of `serve`. */
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { readProfile } from '../../src/profile/profile-file.js';
import { profileFileName } from '../../src/profile/profile-key.js';
import { Running, serve, twostroke } from '../cli/twostroke.js';

const folder = mkdtempSync(path.join(os.tmpdir(), 'twostroke-profile-'));
afterAll(() => rmSync(folder, { recursive: true }));
const workers = ['--model', 'demo', '--workers', 'any:cpu*2?threads=1', '--kv-cache-memory', '64MiB'];

describe('twostroke profile', () => {
  it('measures both workers as one kind, and serve takes the file', async () => {
    const { exitCode, stdout, stderr } = await twostroke(
      'profile',
      ...workers,
      '--duration',
      '3',
      '--out',
      `${folder}/`,
      '--json',
    );
    expect(exitCode, stderr).toBe(0);
    const { profiles } = JSON.parse(stdout.trim().split('\n').at(-1)!);
    expect(profiles).toHaveLength(1);
    const [{ path: file, workers: measured, readable, rule }] = profiles;
    expect(measured).toEqual(['w0', 'w1']);
    for (const value of Object.values(readable)) expect(value).toBeGreaterThan(0);
    expect(rule.transferMsPerToken * rule.interferencePerTransfer).toBeCloseTo(
      readable.interferenceMsPerToken,
      9,
    );
    const profile = readProfile(file);
    expect(path.basename(file)).toBe(profileFileName(profile.key));
    expect(
      profile.samples.some(
        ({ prefillTokenCount, decodeCount }) => prefillTokenCount > 16 && decodeCount === 0,
      ),
    ).toBe(true);
    expect(
      profile.samples.some(
        ({ prefillTokenCount, decodeCount }) => prefillTokenCount === 0 && decodeCount > 1,
      ),
    ).toBe(true);
    expect(
      profile.linkSamples.every(({ bytes, ms, connector }) => bytes > 0 && ms > 0 && connector !== 'unknown'),
    ).toBe(true);
    expect(profile.linkSamples.length).toBeGreaterThan(0);

    const server = await serve(...workers, '--profile', file);
    server.child.kill('SIGTERM');
    const served = await server.finished;
    expect([served.exitCode, served.stderr.includes('profile')]).toEqual([0, false]);
  });

  it.each([
    ['loading', 0],
    ['measuring', 2000],
  ])('ends at once on Ctrl-C while %s, and writes nothing', async (_, delayMs) => {
    const empty = mkdtempSync(path.join(folder, 'empty-'));
    const tmp = mkdtempSync(path.join(folder, 'tmp-'));
    const running = new Running(['profile', ...workers, '--duration', '60', '--out', `${empty}/`], {
      env: { TMPDIR: tmp },
    });
    while (!running.stderr.includes('loading')) await systemClock.sleep(20);
    await systemClock.sleep(delayMs);
    running.child.kill('SIGINT');
    const { exitCode, stderr } = await running.finished;
    expect([exitCode, stderr.includes('    at ')]).toEqual([130, false]);
    expect(readdirSync(empty)).toEqual([]);
    expect(readdirSync(tmp)).toEqual([]); // no socket is left behind
  });

  it.runIf(process.env.TWOSTROKE_TEST === 'full')(
    'serve measures shortly where no file fits, and is ready all the same',
    async () => {
      const home = mkdtempSync(path.join(folder, 'home-'));
      const args = [
        'serve',
        ...workers,
        '--kv-cache-dtype',
        'f32',
        '--port',
        '0',
        '--json',
        '--log-level',
        'debug',
      ];
      const server = new Running(args, { env: { HOME: home } });
      while (!server.stdout.includes('"url"')) await systemClock.sleep(50);
      server.child.kill('SIGTERM');
      const { exitCode, stderr } = await server.finished;
      expect([exitCode, stderr.includes('could not be measured')]).toEqual([0, false]);
      expect(stderr).toContain('measure-'); // requests of the measurement, in the debug log
    },
  );

  it('serve refuses a file that is no profile, by name', async () => {
    const file = path.join(folder, 'wrong.json');
    writeFileSync(file, '{}');
    const { exitCode, stderr } = await twostroke('serve', '--model', 'demo', '--profile', file);
    expect([exitCode, stderr.trim().split('\n').length, stderr.includes(file)]).toEqual([2, 1, true]);
  });
});
