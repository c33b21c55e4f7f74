/** `npm run bench:report`: sweeps of three strategies on two CPU workers and their report, in about 14 minutes for the small grid of the demo model.
 *  Every strategy has the same two workers of one thread each; the static split is one prefill, one decode.
 *  Flags: --full (all rates and workloads, a 135M shape too; hours), --recompute (the reports again from the records; nothing is run),
 *  --only NAME (one of the sweeps below), --result-dir FOLDER; any other goes to `twostroke bench sweep`. The last line is JSON: `neverWorse`
 *  of every sweep by its name. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';

const root = path.resolve(import.meta.dirname, '..');
const entry = path.join(root, 'dist', 'src', 'cli', 'main.js');
const rest = process.argv.slice(2);
const take = (flag) => {
  const index = rest.indexOf(flag);
  return index === -1 ? false : rest.splice(index, 1).length > 0;
};
const takeValue = (flag, fallback) => {
  const index = rest.indexOf(flag);
  return index === -1 ? fallback : (rest.splice(index, 2)[1] ?? fallback);
};
const isFull = take('--full');
const isRecompute = take('--recompute');
const only = takeValue('--only', null);
const folder = path.resolve(takeValue('--result-dir', path.join(root, 'docs', 'results', '2026-11-22-router-cpu')));

const allRates = '0.25,0.5,0.75,0.9,1,1.1,1.3';
/** `isSmall`: part of the small grid. A run lasts `seconds`; five repetitions of a point are 1,000 requests from 40 requests/s on. */
const sweeps = [
  {
    name: 'demo',
    isSmall: true,
    model: ['--model', 'demo'],
    small: ['--workloads', 'short,mixed', '--rate-fractions', '0.25,0.75,1.1', '--run-seconds', '5', '--drain', '20'],
    full: ['--workloads', 'short,long,mixed', '--rate-fractions', allRates, '--run-seconds', '20'],
    answer: ['--random-output-len', '32'],
  },
  {
    name: 'shape-135m',
    isSmall: false,
    model: ['--model', path.join(root, 'models', 'shape-135m'), '--load-format', 'dummy', '--skip-tokenizer-init'],
    small: ['--workloads', 'short', '--rate-fractions', '0.5,0.9', '--run-seconds', '20', '--unloaded-prompts', '16'],
    full: ['--workloads', 'short,mixed', '--rate-fractions', allRates, '--run-seconds', '120', '--unloaded-prompts', '20'],
    answer: ['--random-output-len', '32', '--saturation-prompts', '60', '--saturation-concurrency', '16'],
  },
];

function targetsOf(model) {
  const serve = [process.execPath, entry, 'serve', ...model, '--workers', 'any:cpu*2', '--threads', '2'];
  const command = [...serve, '--port', '0', '--json', '--allow-forced-length'].map((word) => `"${word}"`).join(' ');
  const strategies = ['collocated', 'disaggregated --split 1:1', 'adaptive'];
  return strategies.flatMap((strategy) => ['--target', `${strategy.split(' ')[0]}=${command} --strategy ${strategy}`]);
}

function run(sweep) {
  const result = path.join(folder, sweep.name);
  const measure = [
    ...['bench', 'sweep', '--repetitions', '5', '--result-dir', result, '--json'],
    ...[...(isFull ? sweep.full : sweep.small), ...sweep.answer, ...targetsOf(sweep.model), ...rest],
  ];
  const words = isRecompute ? ['bench', 'report', result, '--json', ...rest] : measure;
  const { status, stdout } = spawnSync(process.execPath, [entry, ...words], { stdio: ['inherit', 'pipe', 'inherit'] });
  if (status !== 0) process.exit(status ?? 1);
  const { neverWorse, files } = JSON.parse(stdout.toString().trim().split('\n').at(-1));
  for (const file of files.filter((name) => name.endsWith('.html'))) process.stderr.write(`report: ${file}\n`);
  return [sweep.name, neverWorse];
}

const wanted = sweeps.filter(({ name, isSmall }) =>
  only === null ? (isRecompute ? existsSync(path.join(folder, name, 'sweep.json')) : isFull || isSmall) : name === only,
);
process.stdout.write(`${JSON.stringify({ neverWorse: Object.fromEntries(wanted.map(run)) })}\n`);
