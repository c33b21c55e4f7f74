/** How far the simulator is from the real thing: a sweep of real servers (`twostroke bench sweep`) once more
 *  on virtual time, the same requests at the same times, with a profile of that machine. Prints a table;
 *  writes it and the raw figures to --out.
 *
 *    node scripts/simulate-accuracy.mjs --against SWEEP_FOLDER --profile FILE... [--router-profile FILE]
 *    [--host FILE] [--workers SPEC]
 *                                       [--num-blocks N] [--max-model-len N] [--draws 3] [--out FOLDER]
 *
 *  Every request is simulated --draws times, with other draws of step times. Without --host
 *  (scripts/measure-host.mjs) there are cores to spare. Where workers share cores, --profile is of one worker
 *  alone and --router-profile of all of them busy. Nothing is fitted to the runs that are compared. Needs
 *  `npm run build`. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { readSweep } from '#built/bench/sweep-file.js';
import { parseWorkerSpecs } from '#built/control/worker-spec.js';
import { readProfile } from '#built/profile/profile-file.js';
import { accuracyOf, accuracyText } from '#built/sim/accuracy.js';
import { parseHost } from '#built/sim/host.js';
import { forWorker, timesFromProfiles } from '#built/sim/profile-times.js';
import { simulatedVocabCount } from '#built/sim/simulated-load.js';
import { replaySweep } from '#built/sim/sweep-replay.js';

const { values: options } = parseArgs({
  options: {
    against: { type: 'string' },
    profile: { type: 'string', multiple: true, default: [] },
    'router-profile': { type: 'string' },
    host: { type: 'string' },
    workers: { type: 'string' },
    'num-blocks': { type: 'string', default: '16384' },
    'max-model-len': { type: 'string', default: '4096' },
    draws: { type: 'string', default: '3' },
    out: { type: 'string' },
  },
});
if (options.against === undefined) throw new Error('--against SWEEP_FOLDER is missing');
const data = readSweep(options.against);
const believed = (
  options['router-profile'] === undefined ? options.profile : [options['router-profile']]
).map(readProfile);
const profiles = options.profile.map(readProfile).map((profile, index) => {
  // a worker alone knows no other
  const { linkSamples } = profile.linkSamples.length > 0 ? profile : forWorker(believed, index);
  return { ...profile, linkSamples };
});
const timesOf = timesFromProfiles(profiles);
const isGpu = forWorker(profiles, 0).key.threadCount === 0;
const workers = parseWorkerSpecs(
  options.workers ?? (isGpu ? 'any:cuda:0,any:cuda:1' : 'any:cpu*2?threads=1'),
);
const host =
  options.host === undefined ? {} : { host: parseHost(readFileSync(options.host, 'utf8'), options.host) };
const settings = {
  blockTokenCount: 16,
  blockCount: Number(options['num-blocks']),
  maxModelTokenCount: Number(options['max-model-len']),
  prefixCaching: 'off',
  depth: 2,
  vocabCount: simulatedVocabCount, // prompts share nothing
};
const replays = [];
for (let draw = 0; draw < Number(options.draws); draw++) {
  const simulationOf = (strategy) => ({
    workers,
    strategy,
    settings,
    timesOf: timesOf(data.header.seed + draw),
    ...host,
    profileOf: (index) => forWorker(believed, index),
  });
  replays.push(await replaySweep(data, simulationOf));
}
const accuracy = accuracyOf(data, replays);
const text = accuracyText(accuracy);
process.stdout.write(text);
if (options.out !== undefined) {
  mkdirSync(options.out, { recursive: true });
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim();
  const { date, machine, metadata, model } = data.header;
  const facts = {
    commit,
    command: process.argv.slice(2).join(' '),
    against: { date, machine, metadata, model },
  };
  writeFileSync(
    path.join(options.out, 'accuracy.json'),
    `${JSON.stringify({ ...facts, ...accuracy }, null, 1)}\n`,
  );
  writeFileSync(path.join(options.out, 'accuracy.md'), text);
}
