/** The real engine on a GPU, without a test runner (a GPU machine may have no node_modules). Bundled by
 *  `rolldown` and run as
 *
 *      node engine.mjs [part …]        exit code 1 when anything fails; writes $OUT/engine.json
 *
 *  parts: goldens teacher handover invariance nan (checks, all by default), bench bench-invariant bench-fp8
 *  loading (measurements). */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import type { Device } from '../../src/device/device.js';
import { bench, benchFp8, benchInvariant, benchLoading } from './bench.js';
import { goldens, teacherForced } from './goldens.js';
import { handOver } from './hand-over.js';
import { invariance, invarianceOfLargeShapes } from './invariance.js';
import { notFinite } from './not-finite.js';
import { check, checks, open, rows } from './rig.js';

const parts: Readonly<Record<string, (device: Device) => Promise<unknown>>> = {
  goldens,
  teacher: teacherForced,
  handover: (device) => handOver(device, { exact: false }),
  invariance: async () => {
    const invariant = open('on');
    await handOver(invariant, { exact: true });
    await invariance(invariant);
    await invarianceOfLargeShapes(invariant);
    invariant.close();
  },
  nan: notFinite,
  bench,
  'bench-invariant': benchInvariant,
  'bench-fp8': benchFp8,
  loading: benchLoading,
};

const asked = process.argv.slice(2);
const chosen = asked.length > 0 ? asked : ['goldens', 'teacher', 'handover', 'invariance', 'nan'];
const device = open('off');
console.log(
  `${device.info.name} ${device.info.isa}, ${(device.info.freeBytes / 2 ** 30).toFixed(1)} GiB free`,
);
for (const name of chosen) {
  try {
    const part = parts[name];
    if (part === undefined) throw new Error(`unknown part; known: ${Object.keys(parts).join(' ')}`);
    await part(device);
  } catch (error) {
    check(
      `${name} stopped`,
      false,
      error instanceof Error ? `${error.message}\n${error.stack}` : String(error),
    );
  }
}
if (process.env.OUT !== undefined)
  writeFileSync(
    path.join(process.env.OUT, 'engine.json'),
    JSON.stringify({ machine: device.info.name, checks, rows }, null, 1),
  );
const failedCount = checks.filter(({ ok }) => !ok).length;
console.log(`${checks.length - failedCount} of ${checks.length} checks passed`);
process.exit(failedCount > 0 ? 1 : 0);
