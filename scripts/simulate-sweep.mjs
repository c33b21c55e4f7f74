/** Sweeps on virtual time: rates × workloads × strategies, worker mixes, wrong beliefs of the router, real
 *  traces; a table, how far the router's estimates were from what came, and raw JSON.
 *
 *    node scripts/simulate-sweep.mjs --profile FILE [--name NAME] [--traces FOLDER] [--requests 1000]
 *    [--repetitions 2] [--out FOLDER]
 *                                    [--router-profile FILE] [--host FILE] [--scenarios '^two workers$']
 *                                    [--workloads short,mixed] [--fractions 0.5,0.9] [--sweeps FOLDER]
 *
 *  Needs `npm run build`. Takes all cores. Every point of every scenario gets the same requests for each
 *  strategy. --scenarios (a pattern), --workloads and --fractions (of the saturation) take a part. --sweeps
 *  keeps every request, for `twostroke bench report FOLDER/SCENARIO`. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { Worker } from 'node:worker_threads';
import { predictionNames, predictionTitles } from '#built/bench/predictions.js';
import { readSweep, SweepFiles } from '#built/bench/sweep-file.js';
import { name, options, profile, scenarios, sweepFolderOf } from './simulate-sweep/scenarios.mjs';

const figure = (value, digits = 2) => (Number.isFinite(value) ? value.toFixed(digits) : '–');
const startMs = performance.now();
const cpuStart = process.cpuUsage();
const tasks = scenarios.flatMap(({ workloads }, scenarioIndex) =>
  workloads.map((_, workloadIndex) => ({ scenarioIndex, workloadIndex })),
);
const results = new Array(tasks.length);
let nextIndex = 0;
await Promise.all(Array.from({ length: os.availableParallelism() }, workOff));
if (options.sweeps !== undefined) scenarios.forEach(joinWorkloads);
const rows = results.flatMap((result) => result.rows);
const requestCount = results.reduce((sum, result) => sum + result.requestCount, 0);
const wallSeconds = (performance.now() - startMs) / 1000;
const cpu = process.cpuUsage(cpuStart);
const cpuSeconds = (cpu.user + cpu.system) / 1e6;

async function workOff() {
  while (nextIndex < tasks.length) {
    const index = nextIndex++;
    results[index] = await runTask(tasks[index]);
    for (const row of results[index].rows) process.stderr.write(`${rowText(row)}\n`);
  }
}

/** One sweep of all workloads. */
function joinWorkloads(scenario) {
  const folder = sweepFolderOf(scenario);
  const runs = [];
  const records = new Map();
  for (const index of scenario.workloads.keys()) {
    const part = readSweep(path.join(folder, `${index}`));
    for (const run of part.header.runs) {
      records.set(runs.length, part.records.get(run.runIndex));
      runs.push({ ...run, runIndex: runs.length });
    }
    if (index === scenario.workloads.length - 1)
      new SweepFiles(folder).keep({ header: { ...part.header, runs }, records });
    rmSync(path.join(folder, `${index}`), { recursive: true });
  }
}

function runTask(workerData) {
  return new Promise((resolve, reject) => {
    const thread = new Worker(new URL('simulate-sweep/task.mjs', import.meta.url), {
      workerData,
      argv: process.argv.slice(2),
    });
    thread.on('message', resolve);
    thread.on('error', reject);
  });
}

function rowText({ scenario, workload, ratePerSecond, rateFraction, reference, comparison, noise, modes }) {
  const good = ['collocated', 'disaggregated', 'adaptive'].map((each) =>
    figure(modes[each].goodRequestsPerSecond['1'], 1),
  );
  const { ttftMsP50, ttftMsP99, tpotMsP50, tpotMsP99, routes } = modes.adaptive;
  const latencies = `${figure(ttftMsP50, 0)} / ${figure(ttftMsP99, 0)} / ${figure(tpotMsP50)} / ${figure(tpotMsP99)}`;
  const shares = routes.map(({ paths }) => {
    const total = Object.values(paths).reduce((sum, count) => sum + count, 0);
    return figure((100 * (paths.disaggregated ?? 0)) / total, 0);
  });
  const point = [
    scenario,
    workload,
    `${figure(ratePerSecond, 1)} (${figure(rateFraction)})`,
    reference,
    good.join(' / '),
  ];
  return `| ${[...point, ...comparedTexts(comparison), noise?.verdict ?? '–', latencies, shares.join(' ')].join(' | ')} |`;
}

/** Ratios to the better static mode with their bounds, and the verdict. */
function comparedTexts(comparison) {
  if (comparison === null) return ['–', '–', '–', '–'];
  const { goodput, ttft, tpot, latencyPercentile, verdict } = comparison;
  const cell = ({ ratio, low95, high95 }) => `${figure(ratio)} (${figure(low95)}–${figure(high95)})`;
  return [
    goodput['1'].verdict === 'not judged' ? 'not judged' : cell(goodput['1']),
    `${latencyPercentile} ${cell(ttft)}`,
    cell(tpot),
    verdict,
  ];
}

/** Median / p90 of the estimates' relative errors, in per cent. */
function errorText({ scenario, workload, rateFraction, modes }) {
  return Object.entries(modes).map(([each, { predictionErrors }]) => {
    const cells = predictionNames.map((name) => {
      const error = predictionErrors[name];
      return error === undefined ? '–' : `${figure(100 * error.median, 0)} / ${figure(100 * error.p90, 0)}`;
    });
    return `| ${[scenario, workload, figure(rateFraction), each, ...cells].join(' | ')} |`;
  });
}

const errorHead = [
  `| scenario | workload | of saturation | strategy | ${predictionNames.map((name) => predictionTitles[name]).join(' | ')} |`,
  `|-|-|-|-${'|-'.repeat(predictionNames.length)}|`,
];
const head = [
  '| scenario | workload | rate/s (of saturation) | better static mode | good req/s: collocated / disaggregated / adaptive | goodput ratio | TTFT tail ratio | TPOT tail ratio | verdict | A/A | adaptive TTFT p50 / p99 / TPOT p50 / p99 ms | split, % by repetition |',
  '|-|-|-|-|-|-|-|-|-|-|-|-|',
];
const speed = `${requestCount} requests simulated in ${figure(wallSeconds, 1)} s (${figure(cpuSeconds, 1)} s of CPU time: ${figure(requestCount / cpuSeconds, 0)} requests per second and core)`;
const text = [
  ...[
    ...head,
    ...rows.map(rowText),
    '',
    "Errors of the router's estimates, median / p90 of |predicted − real| / real, in %:",
    '',
  ],
  ...[...errorHead, ...rows.flatMap(errorText)],
].join('\n');
process.stdout.write(`${text}\n\n${speed}\n`);
if (options.out !== undefined) {
  mkdirSync(options.out, { recursive: true });
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim();
  const facts = {
    name,
    commit,
    command: process.argv.slice(2).join(' '),
    machine: os.cpus()[0]?.model,
    node: process.version,
  };
  const result = { ...facts, profileKey: profile.key, requestCount, wallSeconds, cpuSeconds, rows };
  writeFileSync(path.join(options.out, `${name}.json`), `${JSON.stringify(result, null, 1)}\n`);
  writeFileSync(
    path.join(options.out, `${name}.md`),
    `# ${name}\n\nCommit ${commit}; ${speed}.\n\n${text}\n`,
  );
}
