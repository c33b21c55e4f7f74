#!/usr/bin/env node
/** Runs one of the tests that have a long form (TWOSTROKE_TEST=full) in that form, chosen by a seed: the
 *  commit, or --seed N. So CI walks through them over time and a failure can be repeated. Only long forms of
 *  at most about two minutes on two cores are in the list; the others run with `npm run test:full`. Further
 *  arguments go to vitest. */
import { execFileSync, spawnSync } from 'node:child_process';

const args = process.argv.slice(2);
const seedIndex = args.indexOf('--seed');
const seed = seedIndex >= 0 ? Number(args.splice(seedIndex, 2)[1]) : seedOfCommit();
const files = [
  'test/engine/fuzz.test.ts',
  'test/server/fuzz.test.ts',
  'test/soak/soak.test.ts',
  'test/control/coordinator.test.ts',
  'test/library/package.test.ts',
];
const chosen = files[seed % files.length];
console.log(`seed ${seed}: ${chosen} in its long form (repeat: npm run test:sample -- --seed ${seed})`);
const { status } = spawnSync('npx', ['vitest', 'run', chosen, ...args], {
  stdio: 'inherit',
  env: { ...process.env, TWOSTROKE_TEST: 'full' },
});
process.exit(status ?? 1);

function seedOfCommit() {
  try {
    return Number.parseInt(execFileSync('git', ['rev-parse', 'HEAD'], { encoding: 'utf8' }).slice(0, 8), 16);
  } catch {
    return 0;
  }
}
