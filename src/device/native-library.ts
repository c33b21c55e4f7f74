/** Where the native library lies. Used by native.ts and by whoever starts a device on a machine without a
 *  build (with `ensureLibrary`, which shows progress).
 *
 *    build/ of the checkout   what `npm install` compiled there
 *    prebuilt/ of a package   for x86-64 with glibc; of `npm run bundle:gpu` the kernels too
 *    ~/.cache/twostroke       compiled on first use, elsewhere and for GPUs
 *
 *  Invariant: a library in the cache folder is complete, because it is renamed into place. */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { homedir } from 'node:os';
import path from 'node:path';
import { systemClock } from '../base/clock.js';
import { DeviceError } from '../base/errors.js';
import type { DeviceKind } from './device.js';

const pdIo = 5;

/** The path of an existing library. Throws a DeviceError that says what to do when there is none. */
export function findLibrary(kind: DeviceKind): string {
  requireLinux(process.platform);
  const found = candidates(kind).find((candidate) => existsSync(candidate));
  if (found !== undefined) return found;
  throw new DeviceError(
    `there is no native ${kind} library (looked for ${candidates(kind).join(', ')}): run "npm run build"`,
    pdIo,
  );
}

/** As `findLibrary`, but compiles the library when there is none. `onProgress` gets one short line per
 *  step. */
export async function ensureLibrary(kind: DeviceKind, onProgress: (line: string) => void): Promise<string> {
  requireLinux(process.platform);
  const found = candidates(kind).find((candidate) => existsSync(candidate));
  if (found !== undefined) return found;
  if (kind === 'cuda') requireGpu(readdirSync('/dev')); // compiling takes minutes
  const folder = cacheFolder();
  const library = path.join(folder, kind, `libpd_${kind}.so`);
  mkdirSync(folder, { recursive: true });
  const release = await acquireLock(path.join(folder, 'lock'), onProgress);
  try {
    if (!existsSync(library)) await compile(kind, path.join(folder, kind), onProgress);
  } finally {
    release();
  }
  return library;
}

/** `devices`: names in /dev, where NVIDIA's driver shows each GPU, and WSL all of them as one. Throws
 *  DeviceError that says what to do. */
export function requireGpu(devices: readonly string[]): void {
  if (devices.some((name) => /^(nvidia\d+|dxg)$/.test(name))) return;
  throw new DeviceError(
    'there is no NVIDIA GPU here (neither /dev/nvidia0 nor /dev/dxg): name CPU workers, for example --workers any:cpu, or in a container let it see the GPU (docker run --gpus all)',
    pdIo,
  );
}

/** Throws DeviceError that says where it runs instead. */
export function requireLinux(platform: string): void {
  if (platform === 'linux') return;
  const name = { darwin: 'macOS', win32: 'Windows' }[platform] ?? platform;
  throw new DeviceError(
    `models run on Linux (x86-64 or arm64), not on ${name}: use a Linux container, or WSL 2 on Windows`,
    pdIo,
  );
}

function candidates(kind: DeviceKind): string[] {
  const file = `libpd_${kind}.so`;
  const [root, cache] = [packageRoot(), cacheFolder()];
  const carried = isGlibc() ? [path.join(root, 'prebuilt', `linux-${process.arch}`, file)] : [];
  return [path.join(root, 'build', kind, file), ...carried, path.join(cache, kind, file)];
}

/** Whether this Node, and so what it loads, is linked to glibc: as its program header's interpreter says. */
function isGlibc(): boolean {
  const start = Buffer.alloc(4096);
  const descriptor = openSync(process.execPath, 'r');
  readSync(descriptor, start, 0, start.length, 0);
  closeSync(descriptor);
  return start.includes('/ld-linux');
}

/** The folder that holds native/pd.h, above src/device as above dist/src/device. */
function packageRoot(): string {
  let folder = import.meta.dirname;
  while (!existsSync(path.join(folder, 'native', 'pd.h'))) {
    const parent = path.dirname(folder);
    if (parent === folder)
      throw new DeviceError(
        `native/pd.h is not above ${import.meta.dirname}: the package is incomplete`,
        pdIo,
      );
    folder = parent;
  }
  return folder;
}

/** One folder per processor kind and native source, so that an upgrade never loads an older library. */
function cacheFolder(): string {
  const native = path.join(packageRoot(), 'native');
  const hash = createHash('sha256').update(process.arch);
  for (const file of readdirSync(native, { recursive: true, encoding: 'utf8' }).sort()) {
    if (/\.(cc|cu|cuh|h)$|Makefile$/.test(file))
      hash.update(file).update(readFileSync(path.join(native, file)));
  }
  return path.join(homedir(), '.cache', 'twostroke', hash.digest('hex').slice(0, 16));
}

/** Compiles in a folder of its own and renames it, so that the lock only saves work and correctness does not
 *  rest on it. */
async function compile(kind: DeviceKind, folder: string, onProgress: (line: string) => void): Promise<void> {
  onProgress(`compiling the native ${kind} library into ${folder} (once)`);
  const own = `${folder}.${process.pid}`;
  try {
    await runMake(kind, own, onProgress);
    if (!existsSync(folder)) renameSync(own, folder);
  } finally {
    rmSync(own, { recursive: true, force: true });
  }
}

function runMake(kind: DeviceKind, folder: string, onProgress: (line: string) => void): Promise<void> {
  const [source, output, tools] =
    kind === 'cuda'
      ? ['native/cuda', 'OUT', 'nvcc (the CUDA toolkit), g++ and make']
      : ['native', 'BUILD', 'g++ and make'];
  return new Promise((resolve, reject) => {
    const make = spawn('make', ['-s', '-j2', '-C', path.join(packageRoot(), source), `${output}=${folder}`], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let errors = '';
    make.stdout.on('data', (text: Buffer) => text.toString().trim().split('\n').forEach(onProgress));
    make.stderr.on('data', (text: Buffer) => {
      errors = (errors + text.toString()).slice(-2000);
    });
    const fail = (why: string) =>
      reject(new DeviceError(`the native ${kind} library needs ${tools}; ${why}`, pdIo));
    make.on('error', () => fail('make is not installed (apt-get install g++ make)'));
    make.on('exit', (code) => (code === 0 ? resolve() : fail(`compiling it failed:\n${errors}`)));
  });
}

/** A file that names its owner's process; one whose owner is gone is taken over, any after ten minutes. */
async function acquireLock(file: string, onProgress: (line: string) => void): Promise<() => void> {
  for (let attempt = 0; ; attempt++) {
    try {
      const descriptor = openSync(file, 'wx');
      writeSync(descriptor, String(process.pid));
      closeSync(descriptor);
      return () => rmSync(file, { force: true });
    } catch {
      if (attempt === 0) onProgress('waiting for another process that compiles the native library');
      await systemClock.sleep(200);
      if (isAbandoned(file) || attempt === 3000) rmSync(file, { force: true });
    }
  }
}

function isAbandoned(file: string): boolean {
  try {
    const owner = Number(readFileSync(file, 'utf8'));
    return owner > 0 && !existsSync(`/proc/${owner}`);
  } catch {
    return false;
  }
}
