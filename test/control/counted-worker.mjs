/** Entry of a worker process that counts what is alive in it: on SIGUSR2 it writes COUNTS_FOLDER/PID.json.
 *  For leaks.test.ts. Needs the built JavaScript. */
import { renameSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { liveCounts } from './live-counts.mjs';

const file = path.join(process.env.COUNTS_FOLDER ?? '', `${process.pid}.json`);
process.on('SIGUSR2', async () => {
  writeFileSync(`${file}.new`, JSON.stringify(await liveCounts()));
  renameSync(`${file}.new`, file); // whole, or not there
});
await import('#built/cli/worker.js');
