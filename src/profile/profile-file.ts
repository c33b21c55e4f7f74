/** Profile files: found by key, read, checked, written. Used by cli/ (profile), library/ and tests.
 *  Invariant: what is handed out has the shape of ProfileFile, whoever wrote the file. */
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import path from 'node:path';
import { z } from 'zod';
import { InvalidRequestError, messageOf } from '../base/errors.js';
import type { ProfileFile, ProfileKey } from '../router/cost-parameters.js';
import type { StepLimits } from '../worker/step-limits.js';
import { isSameKey, profileFileName, profileVersion } from './profile-key.js';

const amount = z.number().nonnegative();
const count = z.int().nonnegative();
const knots = z
  .array(z.object({ rowCount: z.int().positive(), ms: amount }))
  .min(2)
  .refine(isAscending, 'row counts must rise and times must not fall');

const schema: z.ZodType<ProfileFile> = z.object({
  key: z.object({
    deviceName: z.string(),
    threadCount: count,
    modelName: z.string(),
    weightFormat: z.string(),
    kvDtype: z.string(),
    batchInvariant: z.literal('on').optional(),
    version: z.literal(
      profileVersion,
      `only version ${profileVersion} is known: measure again with "twostroke profile"`,
    ),
  }),
  measuredAt: z.string(),
  parameters: z.object({
    step: z.object({
      rowKnots: knots,
      msPerSampledRow: amount,
      msPerDecodeKvToken: amount,
      msPerPrefillPair: amount,
    }),
    links: z.array(
      z.object({ connector: z.string(), latencyMs: amount, bytesPerSecond: z.number().positive() }),
    ),
    request: z.object({ arrivalMs: amount, tokenMs: amount, handOverMs: amount, handOverMsPerToken: amount }),
    kvBytesPerToken: z.number().positive(),
    tokenBudget: z.int().positive(),
    prefillChunkTokenCount: z.int().positive(),
  }),
  readable: z.object({
    prefillMsPerToken: amount,
    decodeMsPerStep: amount,
    batchThreshold: amount,
    interferenceMsPerToken: amount,
    linkGBPerSecond: amount.nullable(),
  }),
  fitError: z.object({ median: amount, p90: amount }),
  samples: z.array(
    z.object({
      decodeCount: count,
      decodeKvTokenCount: count,
      prefillTokenCount: count,
      prefillPairCount: count,
      ms: amount,
    }),
  ),
  linkSamples: z.array(z.object({ connector: z.string(), bytes: amount, ms: amount })),
});

/** What was measured here comes before what comes with the package. */
export function profileFolders(): readonly [own: string, packaged: string] {
  return [path.join(homedir(), '.cache', 'twostroke', 'profiles'), path.join(packageRoot(), 'profiles')];
}

/** The first folder's file for `key`; null when there is none. Throws InvalidRequestError for a file that is
 *  not a profile. */
export function findProfile(key: ProfileKey, folders: readonly string[]): ProfileFile | null {
  for (const folder of folders) {
    const file = path.join(folder, profileFileName(key));
    if (!existsSync(file)) continue;
    const profile = readProfile(file);
    if (isSameKey(profile.key, key)) return profile;
  }
  return null;
}

/** Throws InvalidRequestError: what is wrong where. */
export function readProfile(file: string): ProfileFile {
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    throw new InvalidRequestError(`profile ${file}: ${messageOf(error)}`);
  }
  const { data, error } = schema.safeParse(json);
  if (data !== undefined) return data;
  const [issue] = error.issues;
  throw new InvalidRequestError(
    `profile ${file}: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'not a profile'}`,
  );
}

/** Complete or not at all. One sample a line, so that a person can look and a diff is short. */
export function writeProfile(file: string, { samples, linkSamples, ...rest }: ProfileFile): void {
  const lines = (items: readonly object[]) =>
    items.length === 0 ? '[]' : `[\n${items.map((item) => `    ${JSON.stringify(item)}`).join(',\n')}\n  ]`;
  const head = JSON.stringify(rest, null, 2).replace(/\n}$/, '');
  const text = `${head},\n  "samples": ${lines(samples)},\n  "linkSamples": ${lines(linkSamples)}\n}\n`;
  mkdirSync(path.dirname(path.resolve(file)), { recursive: true });
  writeFileSync(`${file}.part`, text);
  renameSync(`${file}.part`, file);
}

/** A profile holds for other step limits too: they are of the server, not of the device. */
export function withStepLimits(profile: ProfileFile, limits: StepLimits): ProfileFile {
  const { tokenBudget, prefillChunkTokenCount } = limits;
  return { ...profile, parameters: { ...profile.parameters, tokenBudget, prefillChunkTokenCount } };
}

function isAscending(list: readonly { readonly rowCount: number; readonly ms: number }[]): boolean {
  return list.every(({ rowCount, ms }, index) => {
    const before = list[index - 1];
    return before === undefined || (rowCount > before.rowCount && ms >= before.ms);
  });
}

function packageRoot(): string {
  let folder = import.meta.dirname;
  while (!existsSync(path.join(folder, 'package.json')) && folder !== path.dirname(folder))
    folder = path.dirname(folder);
  return folder;
}
