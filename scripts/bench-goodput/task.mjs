/** One point of `npm run bench:goodput`, in a thread of its own. Started by scripts/bench-goodput.mjs with
 *  the same command line. */
import path from 'node:path';
import { parentPort, workerData } from 'node:worker_threads';
import { measurePoint } from '#built/sim/goodput/goodput-point.js';
import { clusterOf, onOverload, seeds, workloadOf } from './setup.mjs';

const { profileFile, workloadName, reference, ofSaturation } = workerData;
const cluster = clusterOf(profileFile);
const workload = workloadOf(workloadName, cluster);
const point = await measurePoint({ cluster, workload, reference, ofSaturation, seeds, onOverload });
parentPort.postMessage({ profile: path.basename(profileFile, '.json'), ...point });
