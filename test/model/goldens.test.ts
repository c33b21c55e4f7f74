/** Every architecture and the demo model against transformers in float32: greedy ids equal, log-probabilities
 *  close. Prompts go through chunked prefill, continuations through decode steps, both over the paged
 *  cache. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { at } from '../../src/base/assert.js';
import { best, runGreedy } from './agreement.js';
import {
  demoFolder,
  fixtureFolder,
  fixtureNames,
  Harness,
  largest,
  readGolden,
  ropeFixtureNames,
} from './harness.js';

const isFull = process.env.TWOSTROKE_TEST === 'full';
const folders = [...[...fixtureNames, ...ropeFixtureNames].map(fixtureFolder), demoFolder];
/** Both spellings of a config make the same model, and all instruction sets compute it: all cases with the
 *  first, a few with the others. */
const runs = folders.flatMap((folder) => [
  {
    folder,
    configName: 'config.json',
    isa: 'auto',
    caseNames: readGolden(folder).cases.map(({ name }) => name),
  } as const,
  { folder, configName: 'config.v5.json', isa: 'auto', caseNames: someNames(folder) } as const,
  { folder, configName: 'config.json', isa: 'avx2', caseNames: someNames(folder) } as const,
  {
    folder,
    configName: 'config.json',
    isa: 'scalar',
    caseNames: someNames(folder).filter((name) => !/_\d{4}/.test(name)),
  } as const,
]);

function someNames(folder: string): string[] {
  const names = readGolden(folder).cases.map(({ name }) => name);
  return isFull
    ? names
    : names.filter((name) => ['chat_capital', 'raw_once', 'len33', 'len100'].includes(name));
}

/** Agreement with another float32 implementation: its own error against float64 is up to 4e-5, and 4e-4 in
 *  long contexts. */
const tolerance = (tokenCount: number) => (tokenCount > 1500 ? 1e-3 : 2e-4);

describe.each(runs)('$folder $configName $isa', ({ folder, configName, isa, caseNames }) => {
  let harness: Harness;
  const { cases } = readGolden(folder);
  beforeAll(async () => {
    const maxTokenCount = Math.max(
      ...cases.map((each) => each.prompt_ids.length + each.continuation_ids.length),
    );
    harness = await Harness.open({ folder, configName, isa, maxTokenCount });
  });
  afterAll(() => harness.close());

  it.each(caseNames)('%s', async (name) => {
    const golden = cases.find((each) => each.name === name)!;
    const run = await runGreedy(harness, golden);
    const bound = tolerance(golden.prompt_ids.length);
    expect(run.ids).toEqual(golden.continuation_ids);
    expect(
      largest(run.logprobs.map((logprob, i) => Math.abs(logprob - at(golden.continuation_logprobs, i)))),
    ).toBeLessThan(bound);
    for (const [position, { ids, logprobs }] of golden.top5.entries()) {
      const row = at(run.rows, position);
      expect(best(row, ids.length)).toEqual(ids);
      expect(largest(ids.map((id, i) => Math.abs(at(row, id) - at(logprobs, i))))).toBeLessThan(bound);
    }
    expect(Math.abs(run.promptLogprob - golden.prompt_logprob)).toBeLessThan(1e-2);
  });
});
