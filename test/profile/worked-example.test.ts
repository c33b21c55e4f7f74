/** The worked example of docs/architecture/cost-model.md shows the profile that lies in the repository. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';
import { workerId } from '../../src/base/ids.js';
import { profileText } from '../../src/cli/profile-text.js';
import { readProfile } from '../../src/profile/profile-file.js';

const root = path.resolve(import.meta.dirname, '../..');
const name = 'profiles/amd-epyc-1t-llama-576x30-49152-bf16-kv-bf16.json';
const unknown = { median: Number.NaN, p90: Number.NaN };

it('is what `twostroke profile` says of it, but for what it says only while measuring', () => {
  const text = profileText([
    {
      file: readProfile(path.join(root, name)),
      path: name,
      workers: ['w0', 'w1'].map(workerId),
      soloShare: null,
      errorOfKind: { prefill: unknown, decode: unknown, mixed: unknown },
    },
  ]);
  const lines = text.split('\n').map((line) => line.replace(/ *± –, p90 –$/, ''));
  const shown = lines.filter((line) => !line.startsWith('  written')).join('\n');
  const page = readFileSync(path.join(root, 'docs/architecture/cost-model.md'), 'utf8');
  expect(page).toContain(shown);
});
