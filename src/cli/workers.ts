/** `twostroke workers`: the workers of a running server, as a table or JSON. */
import { Command, Option } from 'commander';
import type { Health, WorkerStatus } from '../control/worker-status.js';
import { askServer, type QueriedServer } from './ask-server.js';
import { exitCodes } from './fail.js';
import { key, serverUrl } from './option-values.js';
import { grouped, table } from './quantities.js';

export const urlOption = () =>
  new Option('--url <url>', 'the server')
    .default('http://127.0.0.1:8000')
    .env('TWOSTROKE_URL')
    .argParser(serverUrl);
export const apiKeyOption = () =>
  new Option('--api-key <key>', 'its key').env('TWOSTROKE_API_KEY').argParser(key);
export const adminKeyOption = () =>
  new Option('--admin-key <key>', 'its admin key, if it has one').env('TWOSTROKE_ADMIN_KEY').argParser(key);

type WorkersAnswer = Health & { readonly workers: readonly WorkerStatus[] };

export function workersCommand(): Command {
  return new Command('workers')
    .description('show the workers of a running server; exit code 1 when it is not healthy')
    .addOption(urlOption())
    .addOption(apiKeyOption())
    .addOption(adminKeyOption())
    .option('--json', 'one JSON object on the last line', false)
    .action(showWorkers);
}

async function showWorkers(options: QueriedServer & { readonly json: boolean }): Promise<void> {
  const answer = await askServer<WorkersAnswer>(options, '/workers');
  process.stdout.write(options.json ? `${JSON.stringify(answer)}\n` : workersText(answer));
  if (answer.status !== 'ok') process.exitCode = exitCodes.failed;
}

function workersText({ status, detail, workers }: WorkersAnswer): string {
  const head = [
    'ID',
    'ROLE',
    'DEVICE',
    'STATE',
    'PID',
    'RUNNING',
    'WAITING',
    'KV TOKENS',
    'OWNED',
    'CACHED',
    'FREE',
    'RESTARTS',
    'KV TO',
  ];
  const lines = table([head, ...workers.map(row)]);
  const errors = workers.flatMap(({ id, error }) => (error === null ? [] : [`${id}: ${error.message}`]));
  return `${[...lines, ...errors, `${status}: ${detail}`].join('\n')}\n`;
}

function row(worker: WorkerStatus): string[] {
  const { snapshot } = worker;
  const blocks = (pick: 'ownedBlockCount' | 'cachedBlockCount' | 'freeBlockCount') =>
    snapshot === null ? '-' : grouped(snapshot[pick]);
  return [
    worker.id,
    worker.role === worker.effectiveRole ? worker.role : `${worker.role} (${worker.effectiveRole})`,
    worker.device,
    worker.state,
    worker.pid === null ? '-' : String(worker.pid),
    snapshot === null ? '-' : grouped(snapshot.runningCount),
    snapshot === null ? '-' : grouped(snapshot.waitingCount),
    snapshot === null ? '-' : grouped(snapshot.blockCount * snapshot.blockTokenCount),
    blocks('ownedBlockCount'),
    blocks('cachedBlockCount'),
    blocks('freeBlockCount'),
    String(worker.restartCount),
    worker.connectors.map(link).join(', ') || '-',
  ];
}

/** `w1 by peer at 9.8 GB/s`: as measured when the way was opened. */
function link({ peer, name, trials }: WorkerStatus['connectors'][number]): string {
  const speed = trials.find((trial) => trial.name === name)?.speed;
  return `${peer} by ${name}${speed === undefined ? '' : ` at ${(speed.bytesPerSecond / 1e9).toFixed(1)} GB/s`}`;
}
