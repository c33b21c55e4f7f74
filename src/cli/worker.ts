/** A worker process. worker-main.cts, which the gateway starts (control/worker-process.ts), loads it; nobody
 *  types it. argv: --address SOCKET --id WORKER_ID --log-level LEVEL */
import { parseArgs } from 'node:util';
import { systemClock } from '../base/clock.js';
import { messageOf } from '../base/errors.js';
import { workerId } from '../base/ids.js';
import { createLogger, type LogLevel } from '../base/log.js';
import { runWorker } from '../worker/worker.js';

const { values } = parseArgs({
  options: {
    address: { type: 'string' },
    id: { type: 'string' },
    'log-level': { type: 'string', default: 'warn' },
  },
});
const { address, id } = values;
if (address === undefined || id === undefined) {
  console.error('twostroke worker: started by `twostroke serve`, not by hand');
  process.exit(2);
}
process.title = `twostroke worker ${id}`;
// Ctrl-C reaches the whole process group: the gateway drains first, then hangs up, and that ends the worker.
process.on('SIGINT', () => {});
process.on('SIGTERM', () => {});
const logger = createLogger(values['log-level'] as LogLevel, `worker ${id}`);
try {
  const { pid } = process;
  const parentPid = () => process.ppid;
  process.exit(
    await runWorker({ address, workerId: workerId(id), pid, parentPid, clock: systemClock, logger }),
  );
} catch (error) {
  logger.error(messageOf(error));
  process.exit(1);
}
