/** What a simulated sweep may measure: clusters, workloads, beliefs. Used by scripts/simulate-sweep.mjs, and
 *  by its threads from the same command line. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { parseTrace } from '#built/bench/trace.js';
import { parseWorkerSpecs } from '#built/control/worker-spec.js';
import { readProfile } from '#built/profile/profile-file.js';
import { parseHost } from '#built/sim/host.js';
import { timesFromProfiles, withRouterError } from '#built/sim/profile-times.js';
import { simulatedVocabCount } from '#built/sim/simulated-load.js';

export const { values: options } = parseArgs({
  options: {
    profile: { type: 'string' },
    name: { type: 'string' },
    traces: { type: 'string' },
    requests: { type: 'string', default: '1000' },
    repetitions: { type: 'string', default: '2' },
    'router-profile': { type: 'string' },
    host: { type: 'string' },
    scenarios: { type: 'string', default: '' },
    workloads: { type: 'string' },
    fractions: { type: 'string' },
    sweeps: { type: 'string' },
    out: { type: 'string' },
  },
});
if (options.profile === undefined) throw new Error('--profile FILE is missing');
export const profile = readProfile(options.profile);
const believedProfile =
  options['router-profile'] === undefined ? profile : readProfile(options['router-profile']);
const host =
  options.host === undefined ? {} : { host: parseHost(readFileSync(options.host, 'utf8'), options.host) };
export const name = options.name ?? path.basename(options.profile, '.json');
const linkSamples = profile.linkSamples.length > 0 ? profile.linkSamples : believedProfile.linkSamples;
const timesOf = timesFromProfiles([{ ...profile, linkSamples }]);
export const isGpu = profile.key.threadCount === 0;
const device = (index) => (isGpu ? `cuda:${index}` : 'cpu');
const two = [0, 1].map((index) => `any:${device(index)}`).join();
const four = [0, 1, 2, 3].map((index) => `any:${device(index)}`).join();
const nanoPd = `any:${device(0)},prefill:${device(1)},prefill:${device(2)},decode:${device(3)}`;
const chosenFractions = options.fractions?.split(',').map(Number);
const rateFractions = chosenFractions ?? [0.25, 0.5, 0.75, 0.9, 1, 1.1, 1.3];

/** Prompts and answers are those of the real sweeps (bench/gpu/router.sh, bench:report); traces keep their
 *  lengths, cut to the context. */
const named = (workload, outputTokenCount = isGpu ? 128 : 32) => ({
  name: workload,
  load: (each) => ({
    workload: {
      name: workload,
      seed: each,
      contentSeed: each,
      inputTokenCount: 512,
      outputTokenCount,
      rangeRatio: 0,
      outputShape: isGpu ? 'range' : 'lognormal',
      lengthScale: 1,
    },
    durationMs: Number.POSITIVE_INFINITY,
    contextTokenCount: 4096,
  }),
});

/** Its requests in its order, with Poisson arrivals at each rate. */
function traced(file, contextTokenCount) {
  const trace = parseTrace(readFileSync(file, 'utf8'), file);
  const load = (each) => ({
    workload: {
      name: 'trace',
      seed: each,
      contentSeed: each,
      inputTokenCount: 1,
      outputTokenCount: 1,
      rangeRatio: 0,
      outputShape: 'range',
      lengthScale: 1,
      trace,
    },
    durationMs: Number.POSITIVE_INFINITY,
    contextTokenCount,
  });
  return { name: path.basename(file).replace(/\.[a-z]+$/, ''), load };
}

function mode(
  strategy,
  workers,
  { error = null, contextTokenCount = 4096, prefixCaching = 'off', modeName = strategy } = {},
) {
  const believed =
    error === null
      ? believedProfile
      : { ...believedProfile, parameters: withRouterError(believedProfile.parameters, error) };
  const settings = {
    blockTokenCount: 16,
    blockCount: isGpu ? 24_576 : 16_384,
    maxModelTokenCount: contextTokenCount,
    prefixCaching,
    depth: 2,
    vocabCount: simulatedVocabCount,
  };
  const simulation = (each) => ({
    workers: parseWorkerSpecs(workers),
    strategy,
    settings,
    ...host,
    timesOf: timesOf(each),
    profileOf: () => believed,
  });
  return { name: modeName, simulation };
}

const statics = (workers, more) => [mode('collocated', workers, more), mode('disaggregated', workers, more)];
const wrong = (prefill, decode, interference) => ({
  name: `two workers, the router's α β γ × ${prefill} ${decode} ${interference}`,
  modes: [...statics(two), mode('adaptive', two, { error: { prefill, decode, interference } })],
  workloads: [named('mixed')],
  rateFractions: [0.5, 0.9, 1.1],
});

const all = [
  {
    name: 'two workers',
    modes: [...statics(two), mode('adaptive', two)],
    workloads: ['short', 'long', 'mixed'].map((each) => named(each)),
  },
  {
    name: 'four workers; adaptive on any, prefill × 2, decode',
    modes: [...statics(four), mode('adaptive', nanoPd)],
    workloads: [named('mixed')],
    rateFractions: [0.25, 0.5, 0.75, 0.9],
  },
  {
    name: 'four workers',
    modes: [...statics(four), mode('adaptive', four)],
    workloads: [named('mixed')],
    rateFractions: [0.5, 0.9, 1.1],
  },
  wrong(1.3, 0.7, 1.3),
  wrong(0.7, 1.3, 0.7),
  wrong(1.3, 1.3, 1),
  ...(options.traces === undefined ? [] : traceScenarios(options.traces)),
];

function traceScenarios(folder) {
  const scenario = (file, contextTokenCount) => {
    const more = { contextTokenCount, prefixCaching: 'on' };
    return {
      name: `two workers, ${file}`,
      modes: [...statics(two, more), mode('adaptive', two, more)],
      workloads: [traced(path.join(folder, file), contextTokenCount)],
      rateFractions: [0.25, 0.5, 0.75, 0.9, 1.1],
    };
  };
  return [
    ['azure-2023-code.csv', 8192],
    ['mooncake-conversation.jsonl', 32_768],
  ].flatMap(([file, context]) => (existsSync(path.join(folder, file)) ? [scenario(file, context)] : []));
}

/** Those that were asked for, each with the points that were asked for. */
export const scenarios = all
  .filter(({ name: each }) => new RegExp(options.scenarios).test(each))
  .map((scenario) => ({
    ...scenario,
    workloads: scenario.workloads.filter((each) => options.workloads?.split(',').includes(each.name) ?? true),
    rateFractions: chosenFractions ?? scenario.rateFractions ?? rateFractions,
  }));

/** Where the requests of a scenario are kept, and in folders in it, by number, those of each workload until
 *  all are done. */
export const sweepFolderOf = (scenario) => path.join(options.sweeps, scenario.name.replaceAll(/\W+/g, '-'));
