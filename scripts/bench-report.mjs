/** `npm run bench:report`: the sweep of the demo model on two CPU workers under three strategies, and its report. Every strategy has the same
 *  two workers. Flags: --full (all rates and workloads, a thousand requests a point; hours), --recompute (the report again from the records,
 *  nothing is run), --result-dir FOLDER; everything after -- goes to `twostroke bench sweep`. */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { parseArgs } from 'node:util';

const root = path.resolve(import.meta.dirname, '..');
const entry = path.join(root, 'dist', 'src', 'cli', 'main.js');
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    full: { type: 'boolean', default: false },
    recompute: { type: 'boolean', default: false },
    'result-dir': { type: 'string', default: path.join(root, 'docs', 'results', 'demo-cpu') },
  },
});

const serve = `"${process.execPath}" "${entry}" serve --model demo --workers any:cpu*2 --port 0 --json --allow-forced-length`;
const strategies = {
  collocated: `${serve} --strategy collocated`,
  disaggregated: `${serve} --strategy disaggregated --split 1:1`,
  adaptive: `${serve} --strategy adaptive`,
};
const small = ['--workloads', 'short,mixed', '--rate-fractions', '0.5,0.9,1.1', '--num-prompts', '40'];
const full = ['--workloads', 'short,long,mixed', '--num-prompts', '200'];
const sweep = [
  ...['bench', 'sweep', '--repetitions', '5', '--random-output-len', '32', '--result-dir', values['result-dir']],
  ...(values.full ? full : small),
  ...Object.entries(strategies).flatMap(([name, command]) => ['--target', `${name}=${command}`]),
  ...positionals,
];
const report = ['bench', 'report', values['result-dir'], '--json'];

const { status } = spawnSync(process.execPath, [entry, ...(values.recompute ? report : sweep)], { stdio: 'inherit' });
process.exitCode = status ?? 1;
