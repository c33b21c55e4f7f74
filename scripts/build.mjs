/** Builds the native CPU library and the TypeScript. Run by `npm install` (prepare), `npm run build`, `npm
 *  start` and `npm test`. Flags: --native-only, --cuda (the CUDA library too), --prebuilt (what the npm package carries). Quick when nothing changed.
 *  Invariant: two builds at once do not spoil each other. */
import { spawnSync } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';

const root = path.resolve(import.meta.dirname, '..');
const lock = path.join(root, 'build', 'lock');
const knownFlags = ['--native-only', '--cuda', '--prebuilt'];
const flags = new Set(process.argv.slice(2));

function say(line) {
  process.stdout.write(`twostroke build: ${line}\n`);
}

function stop(message) {
  process.stderr.write(`twostroke build: ${message}\n`);
  process.exit(1);
}

function isInstalled(command) {
  return spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0;
}

function run(command, args) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
  if (error !== undefined) stop(`${command} cannot be started: ${error.message}`);
  if (status !== 0) stop(`${command} ${args.join(' ')} failed (exit code ${status}); its messages are above`);
}

/** A file naming its owner's process. It only saves double work, because outputs are renamed into place: one
 *  whose owner is gone is taken over, and after two minutes (a process id may have been reused) the build
 *  goes on without it. */
function acquireLock() {
  mkdirSync(path.dirname(lock), { recursive: true });
  for (let attempt = 0; ; attempt++) {
    try {
      const descriptor = openSync(lock, 'wx');
      writeSync(descriptor, String(process.pid));
      closeSync(descriptor);
      process.on('exit', () => rmSync(lock, { force: true }));
      return;
    } catch {
      if (attempt === 0) say('waiting for another build');
      if (attempt === 600) return;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200);
      if (existsSync(lock) && !existsSync(`/proc/${readOwner()}`)) rmSync(lock, { force: true });
    }
  }
}

function readOwner() {
  try {
    return Number(readFileSync(lock, 'utf8')) || process.pid; // empty: its owner is just writing it
  } catch {
    return process.pid;
  }
}

function buildNative() {
  if (process.platform !== 'linux')
    stop('models run on Linux (x86-64 or arm64): use a Linux container, or WSL 2 on Windows');
  const compiler = process.env.CXX ?? 'g++';
  const missing = [compiler, 'make'].filter((command) => !isInstalled(command));
  if (missing.length > 0) {
    stop(
      `the native library needs ${missing.join(' and ')}. Install with: apt-get install g++ make (or your system's equivalent), then run: npm run build`,
    );
  }
  const jobs = `-j${os.availableParallelism()}`;
  run('make', ['-s', '--no-print-directory', jobs, '-C', 'native']);
  if (flags.has('--cuda') && !isInstalled('nvcc'))
    stop('the CUDA library needs nvcc (the CUDA toolkit) on the PATH');
  if (flags.has('--cuda'))
    run('make', ['-s', '--no-print-directory', jobs, '-C', path.join('native', 'cuda')]);
  if (flags.has('--prebuilt')) {
    if (process.arch !== 'x64') stop('the library that the npm package carries is made on x86-64');
    run('make', ['-s', '--no-print-directory', '-C', 'native', 'portable']);
    if (flags.has('--cuda'))
      run('make', ['-s', '--no-print-directory', '-C', path.join('native', 'cuda'), 'portable']);
  }
  say(
    `native library ready: build/cpu/libpd_cpu.so${flags.has('--cuda') ? ', build/cuda/libpd_cuda.so' : ''}`,
  );
}

function buildTypeScript() {
  const compiler = path.join(root, 'node_modules', 'typescript', 'bin', 'tsc');
  if (!existsSync(compiler)) {
    say(
      existsSync(path.join(root, 'dist', 'src'))
        ? 'typescript is not installed; dist/ is used as it is'
        : 'typescript is not installed and there is no dist/: run "npm install" with development packages',
    );
    return;
  }
  run(process.execPath, [compiler, '-p', 'tsconfig.json']);
  say('TypeScript ready: dist/');
}

for (const flag of flags)
  if (!knownFlags.includes(flag)) stop(`unknown flag ${flag}; known: ${knownFlags.join(', ')}`);
acquireLock();
buildNative();
if (!flags.has('--native-only')) buildTypeScript();
