/** `npm run bench:report`: sweeps of three strategies on two CPU workers and their report, in at most 15
 *  minutes for the small grid of the demo model: it repeats its points until the time is up, since every
 *  repetition narrows the bounds. `--time-limit SECONDS` gives it more or less. Every strategy has the same
 *  two workers of one thread each; the static split is one prefill, one decode. Flags: --full (all rates and
 *  workloads, a 135M shape too; about eight hours), --recompute (the reports again from the records of all
 *  sweeps in the folder; nothing is run), --only NAME (one of the sweeps), --result-dir FOLDER, --threads
 *  COUNT (of both workers together); any other goes to `twostroke bench sweep`. In the environment:
 *  PIN_SERVER, a command that starts servers on cores of their own (`taskset -c 2-7`). The last line is JSON:
 *  `neverWorse` of every sweep by its name. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import path from 'node:path';

// servers' commands are kept in the results: relative to the repository, they mean the same on every machine
process.chdir(path.resolve(import.meta.dirname, '..'));
const entry = path.join('dist', 'src', 'cli', 'main.js');
const rest = process.argv.slice(2);
const take = (flag) => {
  const index = rest.indexOf(flag);
  return index === -1 ? false : rest.splice(index, 1).length > 0;
};
const takeValue = (flag, fallback) => {
  const index = rest.indexOf(flag);
  return index === -1 ? fallback : (rest.splice(index, 2)[1] ?? fallback);
};
const command = ['npm run bench:report --', ...rest].join(' ').replace(/ --$/, '');
const isFull = take('--full');
const isRecompute = take('--recompute');
const only = takeValue('--only', null);
const folder = takeValue('--result-dir', path.join('docs', 'results', '2026-11-22-router'));
const workers = ['--workers', 'any:cpu*2', '--threads', takeValue('--threads', '2')];

const words = (text) => text.split(' ').filter((word) => word !== '');
const pin = words(process.env.PIN_SERVER ?? '');
const allRates = '--rate-fractions 0.25,0.5,0.75,0.9,1,1.1,1.3';
/** Small grids: many short repetitions, as many as the time allows; what the machine does meanwhile differs
 *  more between them than within. `isSmall`: part of the run without flags. */
const sweeps = [
  {
    name: 'demo',
    isSmall: true,
    model: words('--model demo'),
    small: words(
      '--workloads short,mixed --rate-fractions 0.5,0.9,1.1 --run-seconds 3 --repetitions 100 --time-limit 760',
    ),
    full: words(`--workloads short,long,mixed ${allRates} --run-seconds 10 --repetitions 10`),
    answer: words('--random-output-len 32 --saturation-prompts 200 --drain 20'),
  },
  {
    name: 'shape-135m',
    isSmall: false,
    model: words(`--model ${path.join('models', 'shape-135m')} --load-format dummy --skip-tokenizer-init`),
    small: words(
      '--workloads short --rate-fractions 0.5,0.9 --run-seconds 10 --repetitions 100 --time-limit 900',
    ),
    full: words(`--workloads short,mixed ${allRates} --run-seconds 30 --repetitions 5`),
    answer: words(
      '--random-output-len 32 --saturation-prompts 60 --saturation-concurrency 16 --unloaded-prompts 16 --drain 60',
    ),
  },
];

function twostroke(args, stdout, before = []) {
  const [program, ...argv] = [...before, process.execPath, entry, ...args];
  const done = spawnSync(program, argv, { stdio: ['inherit', stdout, 'inherit'] });
  if (done.status !== 0) process.exit(done.status ?? 1);
  return done.stdout?.toString() ?? '';
}

/** What the router starts from: measured here and now, as `twostroke serve` would do more shortly by
 *  itself. */
function measureProfile(model, file) {
  const known = model.filter((word) => word !== '--skip-tokenizer-init');
  twostroke(['profile', ...known, ...workers, '--duration', '20', '--out', file, '--json'], 'ignore', pin);
}

/** Of this folder, where it is a clone. */
function commit() {
  const { status, stdout } = spawnSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' });
  return status === 0 ? stdout.trim() : 'unknown';
}

function targetsOf(model, profile) {
  const serve = [
    ...pin,
    'node',
    entry,
    'serve',
    ...model,
    ...workers,
    '--port',
    '0',
    '--json',
    '--allow-forced-length',
  ];
  const command = serve.map((word) => `"${word}"`).join(' ');
  const strategies = ['collocated', 'disaggregated --split 1:1', `adaptive --profile "${profile}"`];
  return strategies.flatMap((strategy) => [
    '--target',
    `${strategy.split(' ')[0]}=${command} --strategy ${strategy}`,
  ]);
}

function sweep({ name, model, small, full, answer }) {
  const result = path.join(folder, name);
  const profile = path.join(result, 'profile.json');
  mkdirSync(result, { recursive: true });
  measureProfile(model, profile);
  const kept = ['--result-dir', result, '--metadata', `commit=${commit()}`, `command=${command}`];
  const grid = [...(isFull ? full : small), ...answer];
  const args = [
    'bench',
    'sweep',
    ...kept,
    ...grid,
    ...targetsOf(model, profile),
    '--json',
    '--profile',
    profile,
    ...rest,
  ];
  return [name, verdictOf(twostroke(args, 'pipe'))];
}

/** Of any sweep that was kept here, also of one that was run on another machine. */
function recompute(name) {
  const result = path.join(folder, name);
  const profile = path.join(result, 'profile.json');
  const plots = existsSync(profile) ? ['--profile', profile] : [];
  return [name, verdictOf(twostroke(['bench', 'report', result, '--json', ...plots, ...rest], 'pipe'))];
}

function verdictOf(stdout) {
  const { neverWorse, files } = JSON.parse(stdout.trim().split('\n').at(-1));
  for (const file of files.filter((each) => each.endsWith('.html')))
    process.stderr.write(`report: ${file}\n`);
  return neverWorse;
}

const isWanted = (name) => only === null || name === only;
const results = isRecompute
  ? readdirSync(folder)
      .filter((name) => isWanted(name) && existsSync(path.join(folder, name, 'sweep.json')))
      .map(recompute)
  : sweeps.filter(({ name, isSmall }) => (only === null ? isFull || isSmall : name === only)).map(sweep);
process.stdout.write(`${JSON.stringify({ neverWorse: Object.fromEntries(results) })}\n`);
