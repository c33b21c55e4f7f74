#!/usr/bin/env node
/* npm run bench:cpu: prefill and decode of Twostroke against llama.cpp on this CPU, the same weights,
 *  alternating in one run.

     npm run bench:cpu [-- --json] [--quick] [--alternations N] [--steps N] [--threads N] [--quantize
     none|int8]
                       [--only twostroke] [--out DIR]

   Each engine is a child process (side.mjs). One alternation measures every variant of both once, phase by
   phase, in an order that
   turns round each time, and the memory's read bandwidth; the first is a warm-up and not counted. Medians and
   ranges go to stdout, to
   DIR/bench-cpu.json and DIR/README.md (default docs/results/<date>-cpu; --quick, --only and a run that
   other processes disturbed write nothing unless --out is given).
   --json ends the output with one line: {"ratios": {"prefill", "decode1", "decode8"}, "bandwidthShare":
   {"decode1", …}, …}. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { describeCommit, describeMachine, machineCpuSeconds } from './machine.mjs';
import { prepare } from './prepare.mjs';
import { renderMarkdown, renderText, summariseRun } from './report.mjs';
import { cpuSeconds, startSide } from './side.mjs';
import { phases } from './workload.mjs';

/** After this long no further alternation begins: a busy machine makes llama.cpp's spinning threads crawl. */
const secondsMax = { full: 330, quick: 100 };
/** Of the cores' time, the most that others may take (median over alternations) in a result worth keeping. */
const othersShareMax = 0.1;

const root = path.resolve(import.meta.dirname, '../..');
const say = (line) => console.log(line);

function readOptions() {
  const { values } = parseArgs({
    options: {
      json: { type: 'boolean', default: false },
      quick: { type: 'boolean', default: false },
      alternations: { type: 'string' },
      steps: { type: 'string' },
      threads: { type: 'string', default: String(os.availableParallelism()) },
      quantize: { type: 'string', default: 'none' },
      only: { type: 'string' },
      out: { type: 'string' },
    },
  });
  const day = new Date().toISOString().slice(0, 10);
  const isPartial = values.quick || values.only !== undefined;
  const variants = { twostroke: ['engine', 'forward'], llama: ['flash', 'plain'] };
  if (values.only !== undefined && !(values.only in variants)) throw new Error('--only: twostroke or llama');
  if (!['none', 'int8'].includes(values.quantize)) throw new Error('--quantize: none or int8');
  return {
    json: values.json,
    secondsMax: values.quick ? secondsMax.quick : secondsMax.full,
    alternationCount: wholeNumber('--alternations', values.alternations ?? (values.quick ? '3' : '7')),
    stepCount: wholeNumber('--steps', values.steps ?? (values.quick ? '12' : '32')),
    threadCount: wholeNumber('--threads', values.threads),
    quantize: values.quantize,
    ggufType: values.only === 'twostroke' ? null : values.quantize === 'int8' ? 'q8_0' : 'bf16',
    runners: Object.entries(variants)
      .filter(([side]) => values.only === undefined || side === values.only)
      .flatMap(([side, names]) => names.map((variant) => ({ side, variant }))),
    isOutNamed: values.out !== undefined,
    outFolder: values.out ?? (isPartial ? null : path.join(root, 'docs/results', `${day}-cpu`)),
  };
}

function wholeNumber(name, text) {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new Error(`${name} ${text}: a whole number of at least 1`);
  return value;
}

async function loadSides(options, files) {
  const sides = new Map();
  const loaded = {};
  const sideNames = new Set(options.runners.map(({ side }) => side));
  const common = { threadCount: options.threadCount, stepCountMax: options.stepCount };
  if (sideNames.has('twostroke')) {
    say('loading twostroke');
    const side = startSide('twostroke-side.mjs');
    sides.set('twostroke', side);
    loaded.twostroke = await side.call('load', {
      ...common,
      modelFolder: files.modelFolder,
      quantize: options.quantize,
    });
    await side.call('fill');
  }
  if (sideNames.has('llama')) {
    say('loading llama.cpp');
    const side = startSide('llama-side.mjs');
    sides.set('llama', side);
    loaded.llama = await side.call('load', {
      ...common,
      modelFile: files.ggufFile,
      packageFolder: files.llamaFolder,
    });
  }
  return { sides, loaded };
}

/** These read the same fresh prompt, so that their first tokens can be compared. */
const samePrompt = ['engine', 'flash'];

/** One sample of every phase and variant, and the read bandwidth just before each decode: it drifts where
 *  others share the memory. */
async function alternate(alternation, { runners, stepCount }, sides) {
  const order = alternation % 2 === 0 ? runners : [...runners].reverse();
  const samples = [];
  const reads = [];
  const twostroke = sides.get('twostroke');
  for (const { name: phase, batchCount } of phases) {
    if (twostroke !== undefined && batchCount > 0) {
      reads.push({ alternation, phase, ...(await twostroke.call('measureRead', { repeats: 3 })) });
    }
    for (const { side, variant } of order) {
      const seed = alternation * 10 + (samePrompt.includes(variant) ? 0 : 1);
      const argument = { variant, batchCount, stepCount, seed };
      samples.push({
        alternation,
        phase,
        side,
        variant,
        ...(await sides.get(side).call('measure', argument)),
      });
    }
  }
  return { samples, reads };
}

/** The options tell how many alternations there should be; samples and reads tell how many there were. */
async function measureAll(options, sides, startedMs) {
  const samples = [];
  const reads = [];
  await alternate(0, { ...options, stepCount: Math.min(4, options.stepCount) }, sides);
  for (let alternation = 1; alternation <= options.alternationCount; alternation++) {
    const tookSeconds = (performance.now() - startedMs) / 1000;
    if (alternation > 1 && tookSeconds > options.secondsMax) {
      say(
        `stopped after ${alternation - 1} alternations and ${tookSeconds.toFixed(0)} s: the machine is too busy for more`,
      );
      break;
    }
    const started = await cpuNow(sides);
    const taken = await alternate(alternation, options, sides);
    const othersShare = shareOfOthers(started, await cpuNow(sides));
    reads.push(...taken.reads);
    samples.push(...taken.samples.map((sample) => ({ ...sample, othersShare })));
    say(
      `alternation ${alternation} of ${options.alternationCount}${othersShare > 0.1 ? `: ${percent(othersShare)} of the cores went to others` : ''}`,
    );
  }
  return { samples, reads };
}

const percent = (share) => `${(share * 100).toFixed(0)} %`;

async function cpuNow(sides) {
  let own = cpuSeconds();
  for (const side of sides.values()) own += await side.call('cpuSeconds');
  return { own, machine: machineCpuSeconds(), wallSeconds: performance.now() / 1000 };
}

/** Part of all cores' time that other processes or the hypervisor took; null where unknown. */
function shareOfOthers(from, to) {
  if (from.machine === null || to.machine === null) return null;
  const machine = to.machine.busy - from.machine.busy + to.machine.steal - from.machine.steal;
  const wall = (to.wallSeconds - from.wallSeconds) * os.availableParallelism();
  return Math.max(0, (machine - (to.own - from.own)) / wall);
}

async function main() {
  const options = readOptions();
  const started = performance.now();
  const machine = describeMachine();
  if (machine.loadAverageAtStart > 0.5)
    say(`the machine is not quiet (load ${machine.loadAverageAtStart.toFixed(2)}): expect noise`);
  const files = prepare({ shapeName: '0.6b', ggufType: options.ggufType, say });
  const { sides, loaded } = await loadSides(options, files);
  try {
    const measured = await measureAll(options, sides, started);
    const { alternationCount, stepCount, threadCount, quantize, ggufType } = options;
    const settings = { alternationCount, stepCount, threadCount, quantize, ggufType };
    const facts = {
      machine,
      commit: describeCommit(root),
      date: new Date().toISOString(),
      versions: files.versions,
      settings,
    };
    const run = { ...facts, wallSeconds: (performance.now() - started) / 1000, loaded, ...measured };
    const summary = summariseRun(run);
    say(`\n${renderText(run, summary)}`);
    keep(options, run, summary);
    if (options.json) say(JSON.stringify(summary.line));
  } finally {
    for (const side of sides.values()) side.close();
  }
}

/** A disturbed run is no result, unless its user names a folder for it. */
function keep({ outFolder, isOutNamed }, run, summary) {
  const { othersShare } = summary.line;
  if (outFolder === null) return;
  if (!isOutNamed && othersShare > othersShareMax) {
    say(
      `not written: other processes took ${percent(othersShare)} of the cores; repeat on a quiet machine, or name a folder with --out`,
    );
    return;
  }
  write(outFolder, run, summary);
}

function write(folder, run, summary) {
  fs.mkdirSync(folder, { recursive: true });
  fs.writeFileSync(path.join(folder, 'bench-cpu.json'), `${JSON.stringify({ ...run, summary }, null, 1)}\n`);
  fs.writeFileSync(path.join(folder, 'README.md'), renderMarkdown(run, summary));
  say(`written to ${path.relative(root, folder)}`);
}

try {
  await main();
} catch (error) {
  console.error(`bench:cpu: ${error.message}`);
  process.exitCode = 1;
}
