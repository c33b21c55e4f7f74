/** The worked example of docs/architecture/router.md is what the router computes, from the profile that lies in the repository. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';
import { grouped } from '../../src/cli/quantities.js';
import { readProfile } from '../../src/profile/profile-file.js';
import type { PathEstimate } from '../../src/router/estimate.js';
import { adaptive } from '../../src/router/policies/adaptive.js';
import { workersOf } from '../../src/router/route.js';
import { facts, worker } from './workers.js';

const root = path.resolve(import.meta.dirname, '../..');
const { parameters: costs } = readProfile(path.join(root, 'profiles/amd-epyc-1t-llama-576x30-49152-bf16-kv-bf16.json'));
const decoding = { kvTokensEach: 400, remainingEach: 60, costs };

/** As in the table. */
function rowsOf(whole: PathEstimate, split: PathEstimate): readonly string[] {
  const shown = (value: number) => value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);
  const row = (what: string, name: keyof PathEstimate) => `| ${what} | ${shown(whole[name])} | ${shown(split[name])} |`;
  return [
    row('messages', 'messagesMs'),
    row('wait: a step of w1, of which 2.3 ms have passed, and the planned one behind it', 'waitMs'),
    row('prefill: two full steps of 510 + 2 rows, one of 480 + 2, 1.1 M pairs', 'prefillMs'),
    row('**TTFT**', 'ttftMs'),
    row('KV: its bytes hide behind the prompt; messages, and the last layers', 'transferMs'),
    row('joining a step of w0', 'joinMs'),
    row('per token: 3 rows on w1, 9 on w0, as they will be over 64 tokens', 'stepMs'),
    row('**TPOT**', 'tpotMs'),
    row('others lose: by the prompt in their step, and by a row more in all of them', 'inflictedMs'),
    row('**cost**', 'cost'),
  ];
}

it('is true', () => {
  const page = readFileSync(path.join(root, 'docs/architecture/router.md'), 'utf8');
  const w0 = worker('w0', 'any', { ...decoding, decodingCount: 8 });
  const w1 = worker('w1', 'any', { ...decoding, decodingCount: 2 });
  const request = facts({ promptTokenCount: 1500, expectedTokenCount: 64, maxTokenCount: 512 });
  const route = adaptive(request, { prefill: [w0, w1], decode: [w0, w1], both: [w0, w1] });
  expect([route.path, workersOf(route), route.other?.workers]).toEqual(['collocated', ['w1'], ['w1', 'w0']]);
  const rows = rowsOf(route.estimate, route.other!.estimate);
  const told = page.split('\n').filter((line) => rows.some((row) => row.split('|')[1] === line.split('|')[1]));
  expect(told, `the table in docs/architecture/router.md should be\n${rows.join('\n')}\n`).toEqual(rows);

  const apart = adaptive(request, { prefill: [w0, w1], decode: [w0], both: [w0] });
  expect([workersOf(apart), apart.other?.workers]).toEqual([['w1', 'w0'], ['w0']]);
  expect(page).toContain(`${grouped(100 * Math.round(apart.other!.estimate.inflictedMs / 100))} ms of others' time`);
});
