#!/usr/bin/env node
/* npm run bench:goodput: goodput against rate on virtual time: collocated, disaggregated, adaptive, the best
 *  policy that was found and a bound.

     npm run bench:goodput -- [--json] [--workload short,long,mixed or a trace FILE] [--points 0.25,0.5,…]
     [--seeds 1,2] [--profile FILE]
                              [--workers 2] [--on-overload shed|late] [--goodput 'short.ttft:55 …'
                              --saturation RATE] [--out DIR]

   Points are shares of the saturation of the better static mode without pacing. Requests that cannot have
   their first token in time are shed (429), and
   a shed request is not good; --on-overload late serves them behind the others. Static modes are run with and
   without pacing; the better counts.
   Everything comes from the seeds: machine and time of day change nothing. --out keeps points.json and a plot
   for each profile.
   --json ends the output with one line: {"points": [{"workload", "ofSaturation", "ratePerSecond", "goodput":
   {…}, "ttftP99", …}]}. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { Worker } from 'node:worker_threads';
import { renderSvg } from '#built/bench/render.js';
import { goodputPlot, goodputTable } from '#built/sim/goodput/goodput-report.js';
import { findReference, options, points, profileFiles, workloadNames } from './bench-goodput/setup.mjs';

const startMs = performance.now();
const sets = profileFiles.flatMap((profileFile) =>
  workloadNames.map((workloadName) => ({ profileFile, workloadName })),
);
const measured = await runAll(sets.map((set) => ({ ...set, reference: null })));
const tasks = sets.flatMap((set, index) =>
  points.map((ofSaturation) => ({ ...set, reference: measured[index], ofSaturation })),
);
const results = await runAll(tasks);
const wallSeconds = (performance.now() - startMs) / 1000;
const references = sets.map((set, index) => ({
  profile: path.basename(set.profileFile, '.json'),
  workload: set.workloadName,
  ...measured[index],
}));
process.stdout.write(`${goodputTable(results)}\n\n${results.length} points in ${wallSeconds.toFixed(0)} s\n`);
if (options.out !== undefined) await keep(options.out);
if (options.json) process.stdout.write(`${JSON.stringify({ points: results })}\n`);

/** In as many threads as there are cores; results in the order of the tasks. */
async function runAll(list) {
  const answers = new Array(list.length);
  let nextIndex = 0;
  const workOff = async () => {
    while (nextIndex < list.length) {
      const index = nextIndex++;
      answers[index] = await runTask(list[index]);
    }
  };
  await Promise.all(Array.from({ length: Math.min(list.length, os.availableParallelism()) }, workOff));
  return answers;
}

function runTask(task) {
  if (task.reference === null) return findReference(task);
  return new Promise((resolve, reject) => {
    const thread = new Worker(new URL('bench-goodput/task.mjs', import.meta.url), {
      workerData: task,
      argv: process.argv.slice(2),
    });
    thread.on('message', (point) => {
      process.stderr.write(
        `${point.profile} ${point.workload} ${point.ofSaturation}: ${JSON.stringify(point.goodput)}\n`,
      );
      resolve(point);
    });
    thread.on('error', reject);
  });
}

async function keep(folder) {
  mkdirSync(folder, { recursive: true });
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim();
  const facts = {
    commit,
    command: `npm run bench:goodput -- ${process.argv.slice(2).join(' ')}`,
    node: process.version,
  };
  writeFileSync(
    path.join(folder, 'points.json'),
    `${JSON.stringify({ ...facts, references, points: results }, null, 1)}\n`,
  );
  writeFileSync(path.join(folder, 'table.md'), `${goodputTable(results)}\n`);
  for (const file of profileFiles) {
    const plot = goodputPlot(results, path.basename(file, '.json'));
    writeFileSync(path.join(folder, `${plot.name}.svg`), await renderSvg(plot.spec));
  }
}
