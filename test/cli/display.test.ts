/** The CLI's pure parts: numbers for people, tables, the loading line, option values, parameter counts. */
import { InvalidArgumentError } from 'commander';
import { describe, expect, it } from 'vitest';
import { workerId } from '../../src/base/ids.js';
import { LoadDisplay } from '../../src/cli/load-display.js';
import { blockTokenCount, byteCount, realNumber, split, wholeNumber } from '../../src/cli/option-values.js';
import { shortBytes, shortCount, table } from '../../src/cli/quantities.js';
import { findLocalModel } from '../../src/hub/find-model.js';
import { readModelConfig } from '../../src/model/config.js';
import { parameterCount } from '../../src/model/parameter-count.js';

it('counts the parameters that the model card states', () => {
  const stated = 5_771_264;
  const counted = parameterCount(readModelConfig(findLocalModel('demo')));
  expect(Math.abs(counted - stated) / stated).toBeLessThan(0.001);
});

it.each([
  [5_771_264, '5.8 M'],
  [8_190_735_360, '8.2 B'],
  [596_049_920, '596 M'],
  [999, '999'],
])('writes %d parameters as %s', (count, text) => expect(shortCount(count)).toBe(text));

it.each([
  [805_306_368, '768 MiB'],
  [2_415_919_104, '2.3 GiB'],
  [100, '100 B'],
])('writes %d bytes as %s', (bytes, text) => expect(shortBytes(bytes)).toBe(text));

it('lines up columns', () => {
  expect(
    table([
      ['ID', 'ROLE'],
      ['w10', 'any'],
      ['w2', 'decode'],
    ]),
  ).toEqual(['ID   ROLE', 'w10  any', 'w2   decode']);
});

describe('option values', () => {
  it.each([
    ['1GiB', 2 ** 30],
    ['512MiB', 512 * 2 ** 20],
    ['1.5G', 1.5e9],
    ['2g', 2e9],
    ['4096', 4096],
    ['10 kb', 10_000],
  ])('%s is %d bytes', (text, bytes) => expect(byteCount(text)).toBe(bytes));

  it.each([
    [() => byteCount('lots')],
    [() => byteCount('-1')],
    [() => byteCount('1XB')],
    [() => byteCount('i')],
    [() => wholeNumber(1, 5)('6')],
    [() => wholeNumber(0)('1.5')],
    [() => wholeNumber(0)('')],
    [() => realNumber(0, 1)('')],
    [() => realNumber(0, 1)('1.1')],
    [() => split('1')],
    [() => split('0:1')],
    [() => blockTokenCount('12')],
  ])('%s is refused', (parse) => expect(parse).toThrow(InvalidArgumentError));

  it('gives what it takes', () => {
    expect([split('2:3'), blockTokenCount('32'), wholeNumber(1, 5)('5'), realNumber(0, 1)('0.5')]).toEqual([
      { prefillCount: 2, decodeCount: 3 },
      32,
      5,
      0.5,
    ]);
  });
});

describe('the loading display', () => {
  const progress = (doneBytes: number) => ({ stage: 'weights' as const, doneBytes, totalBytes: 100 });
  const run = (isTTY: boolean) => {
    const written: string[] = [];
    const display = new LoadDisplay({ isTTY, write: (text) => written.push(text) });
    for (let done = 0; done <= 100; done += 10) {
      display.update(workerId('w0'), progress(done));
      display.update(workerId('w1'), progress(done / 2));
    }
    display.close();
    return written;
  };

  it('is a few plain lines where there is no terminal', () => {
    expect(run(false)).toEqual([
      'loading w0: 25%\n',
      'loading w0: 50%\n',
      'loading w1: 25%\n',
      'loading w0: 75%\n',
      'loading w0: 100%\n',
      'loading w1: 50%\n',
    ]);
  });

  it('rewrites one line on a terminal and clears it at the end', () => {
    const written = run(true);
    expect(written.every((text) => text.startsWith('\r') && !text.includes('\n'))).toBe(true);
    expect(written.at(-2)).toMatch(/w0 \[#{16}\] 100% {3}w1 \[#{8}\.{8}\] 50%/);
    expect(written.at(-1)?.trim()).toBe('');
  });
});
