/** Roles side by side on CPU workers, as nanoPD's topology has them: one any, two prefill, one decode; how
 *  many requests took which path over which workers. Writes topology.json (with `routes`) and its requests.
 *  Flags: --result-dir FOLDER, any other of `twostroke bench serve`. */
import { spawn, spawnSync } from 'node:child_process';
import path from 'node:path';
import { createInterface } from 'node:readline';

const root = path.resolve(import.meta.dirname, '..');
const entry = path.join(root, 'dist', 'src', 'cli', 'main.js');
const rest = process.argv.slice(2);
const at = rest.indexOf('--result-dir');
const folder =
  at === -1 ? path.join(root, 'docs', 'results', '2026-11-22-router', 'topology') : rest.splice(at, 2)[1];

const options = [
  '--model',
  'demo',
  '--workers',
  'any:cpu,prefill:cpu*2,decode:cpu',
  '--threads',
  '4',
  '--port',
  '0',
];
const server = spawn(process.execPath, [entry, 'serve', ...options, '--json', '--allow-forced-length'], {
  stdio: ['ignore', 'pipe', 'inherit'],
});
process.on('exit', () => server.kill());
server.on('exit', (code) => process.exit(code || 1));

for await (const line of createInterface({ input: server.stdout })) {
  if (!line.startsWith('{')) continue;
  const { url } = JSON.parse(line);
  const load = [
    '--dataset-name',
    'mixed',
    '--request-rate',
    '6',
    '--num-prompts',
    '200',
    '--random-output-len',
    '32',
  ];
  const result = [
    '--save-result',
    '--save-detailed',
    '--result-dir',
    folder,
    '--result-filename',
    'topology.json',
  ];
  const words = ['bench', 'serve', '--base-url', url, '--force-output-length', ...load, ...result, ...rest];
  const { status } = spawnSync(process.execPath, [entry, ...words], { stdio: 'inherit' });
  server.removeAllListeners('exit');
  process.exit(status ?? 1);
}
