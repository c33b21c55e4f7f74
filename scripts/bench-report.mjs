/** `npm run bench:report`: the sweep of the demo model on two CPU workers under three strategies, and its report. Every strategy has the same
 *  two workers. Flags: --full (all rates and workloads, a thousand requests a point; hours), --recompute (the report again from the records,
 *  nothing is run), --result-dir FOLDER; any other goes to `twostroke bench sweep`. */
import { spawnSync } from 'node:child_process';
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
const folder = takeValue('--result-dir', path.join(root, 'docs', 'results', 'demo-cpu'));

const serve = `"${process.execPath}" "${entry}" serve --model demo --workers any:cpu*2 --port 0 --json --allow-forced-length`;
const strategies = {
  collocated: `${serve} --strategy collocated`,
  disaggregated: `${serve} --strategy disaggregated --split 1:1`,
  adaptive: `${serve} --strategy adaptive`,
};
const small = ['--workloads', 'short,mixed', '--rate-fractions', '0.5,0.9,1.1', '--num-prompts', '40'];
const full = ['--workloads', 'short,long,mixed', '--num-prompts', '200'];
const sweep = [
  ...['bench', 'sweep', '--repetitions', '5', '--random-output-len', '32', '--result-dir', folder],
  ...(isFull ? full : small),
  ...Object.entries(strategies).flatMap(([name, command]) => ['--target', `${name}=${command}`]),
  ...rest,
];
const report = ['bench', 'report', folder, '--json'];

const { status } = spawnSync(process.execPath, [entry, ...(isRecompute ? report : sweep)], { stdio: 'inherit' });
process.exitCode = status ?? 1;
