/** A gateway with workers of its own, as checksum.mjs, dtypes.mjs and gpu.mjs measure them, and the demo
 *  model's reference prompts. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { systemClock } from '#built/base/clock.js';
import { silentLogger } from '#built/base/log.js';
import { Gateway } from '#built/control/gateway.js';
import { parseWorkerSpecs } from '#built/control/worker-spec.js';

const root = path.resolve(import.meta.dirname, '../..');
const demoFolder = path.join(root, 'models/demo-6m');
export const goldens = JSON.parse(readFileSync(path.join(demoFolder, 'golden.json'), 'utf8'));

export const commitOf = () =>
  execFileSync('git', ['rev-parse', '--short', 'HEAD'], { cwd: root }).toString().trim();

/** Its workers may still be loading: await `ready` where a failure can be followed by `stop`. */
export function startGateway({ workers, strategy, settings }) {
  return Gateway.start({
    strategy,
    logger: silentLogger,
    clock: systemClock,
    workers: parseWorkerSpecs(workers),
    workerEntry: fileURLToPath(import.meta.resolve('#built/cli/worker.js')),
    settings: {
      loadFormat: 'auto',
      dtype: 'auto',
      kvDtype: 'auto',
      quantize: 'none',
      blockTokenCount: 16,
      prefixCaching: 'off',
      depth: 2,
      ...settings,
    },
  });
}

/** The demo model, one CPU worker for prompts and one for decoding, a thread each. */
export function startDemoPair(settings) {
  return startGateway({
    workers: 'prefill:cpu?threads=1,decode:cpu?threads=1',
    strategy: 'disaggregated',
    settings: {
      modelFolder: demoFolder,
      blockCount: 1024,
      gpuMemoryShare: 0.9,
      sequenceCountMax: 32,
      maxModelTokenCount: 4096,
      tokenBudget: 512,
      prefillChunkTokenCount: 512,
      ...settings,
    },
  });
}
