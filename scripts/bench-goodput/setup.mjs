/** What `npm run bench:goodput` is asked for. Used by scripts/bench-goodput.mjs, and by its threads from the
 *  same command line. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { parseGoodput } from '#built/bench/slo.js';
import { parseTrace } from '#built/bench/trace.js';
import { readProfile } from '#built/profile/profile-file.js';
import { measuredReference, publishedReference } from '#built/sim/goodput/goodput-reference.js';
import { goodputCluster, namedWorkload, traceWorkload } from '#built/sim/goodput/goodput-setup.js';

const root = path.resolve(import.meta.dirname, '../..');
const defaultProfiles = [
  'nvidia-h200-qwen3-4096x36-151936-bf16-kv-bf16',
  'amd-epyc-1t-qwen3-256x6-4096-bf16-kv-bf16',
];
const named = ['short', 'long', 'mixed'];

export const { values: options } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    workload: { type: 'string', default: 'mixed,long,short' },
    points: { type: 'string', default: '0.25,0.5,0.75,0.9,1,1.1,1.5,2,3' },
    seeds: { type: 'string', default: '1,2' },
    profile: { type: 'string', multiple: true },
    workers: { type: 'string', default: '2' },
    'on-overload': { type: 'string', default: 'shed' },
    goodput: { type: 'string' },
    saturation: { type: 'string' },
    out: { type: 'string' },
  },
});

export const points = numbers('points', (value) => value > 0);
export const seeds = numbers('seeds', (value) => Number.isSafeInteger(value) && value >= 0);
export const workerCount = numbers('workers', (value) => Number.isSafeInteger(value) && value >= 2)[0];
export const profileFiles =
  options.profile ?? defaultProfiles.map((name) => path.join(root, 'profiles', `${name}.json`));
export const workloadNames = options.workload.split(',');
export const onOverload = options['on-overload'];
if (onOverload !== 'shed' && onOverload !== 'late') fail(`--on-overload: shed or late, not ${onOverload}`);
for (const name of workloadNames)
  if (!named.includes(name) && !existsSync(name))
    fail(`--workload: ${name} is neither ${named.join(', ')} nor a file`);

export function clusterOf(profileFile) {
  return goodputCluster(readProfile(profileFile), workerCount);
}

export function workloadOf(name, { profile }) {
  if (named.includes(name)) return namedWorkload(name, profile);
  return traceWorkload(
    path.basename(name).replace(/\.[a-z]+$/, ''),
    parseTrace(readFileSync(name, 'utf8'), name),
  );
}

/** As asked, as published, or measured. */
export async function findReference({ profileFile, workloadName }) {
  const cluster = clusterOf(profileFile);
  const known =
    publishedReference(cluster.profile, workerCount, workloadName) ??
    (await measuredReference(cluster, workloadOf(workloadName, cluster)));
  return { ...known, ...askedSlos(known.slos), ...askedSaturation() };
}

function askedSlos(slos) {
  if (options.goodput === undefined) return {};
  const asked = parseGoodput(options.goodput.split(' '));
  const entries = Object.entries(slos).map(([lengthClass, slo]) => [
    lengthClass,
    { ...slo, ...asked[lengthClass] },
  ]);
  return { slos: Object.fromEntries(entries), source: 'asked' };
}

function askedSaturation() {
  if (options.saturation === undefined) return {};
  const [saturationPerSecond] = numbers('saturation', (value) => value > 0);
  return { saturationPerSecond };
}

function numbers(name, isGood) {
  const values = options[name].split(',').map(Number);
  if (!values.every(isGood)) fail(`--${name}: not ${options[name]}`);
  return values;
}

function fail(message) {
  process.stderr.write(`bench:goodput: ${message}\n`);
  process.exit(2);
}
