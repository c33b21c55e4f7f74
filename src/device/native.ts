/** The only FFI: loads a native library by koffi and binds native/pd.h to typed functions. Used by this
 *  folder; everyone else opens a device with `openDevice` and sees device.ts. Invariant: no call from here
 *  blocks the event loop, except those the contract allows. */
import { existsSync } from 'node:fs';
import koffi from 'koffi';
import { DeviceError } from '../base/errors.js';
import type { BlockingFunctions, BlockingName, NativeFunctions, NativeLibrary, SymbolName } from './abi.js';
import { abiVersion, parametersOf, symbols } from './abi.js';
import type { Device, DeviceOptions } from './device.js';
import { NativeDevice } from './native-device.js';
import { findLibrary } from './native-library.js';

const [lockExclusive, lockNonBlocking] = [2, 4]; // LOCK_EX, LOCK_NB of <sys/file.h>
let flock: Bound | null = null;

/** flock(2), without waiting: false while the file is open and locked elsewhere. The lock ends with the
 *  descriptor. Throws DeviceError where the file system has none. */
export function tryLockFile(descriptor: number): boolean {
  flock ??= koffi.load(null).func('flock', 'int', ['int', 'int']);
  if (flock(descriptor, lockExclusive + lockNonBlocking) === 0) return true;
  const error = koffi.errno();
  if (error === koffi.os.errno.EAGAIN) return false;
  throw new DeviceError(
    `the file system has no locks (flock: error ${error}): use a cache folder on another one`,
    5,
  );
}

type Bound = ReturnType<ReturnType<typeof koffi.load>['func']>;

const loaded = new Map<string, NativeLibrary>();

/** Opens a device of the library at `options.libraryPath`, else of the built or the cached one. Throws
 *  DeviceError. */
export function openDevice(options: DeviceOptions): Device {
  return new NativeDevice(loadLibrary(options.libraryPath ?? findLibrary(options.kind)), options);
}

export function loadLibrary(path: string): NativeLibrary {
  const known = loaded.get(path);
  if (known !== undefined) return known;
  if (!existsSync(path))
    throw new DeviceError(`native library ${path} does not exist: run "npm run build"`, 5);
  const library = bind(path);
  const version = library.call.pd_abi_version();
  if (version !== abiVersion) {
    throw new DeviceError(
      `native library ${path} has ABI ${version}, this package needs ${abiVersion}: run "npm run build"`,
      1,
    );
  }
  loaded.set(path, library);
  return library;
}

function bind(path: string): NativeLibrary {
  const handle = load(path);
  const lastErrorText = handle.func('pd_last_error', 'str', []);
  const call: Record<string, Bound> = {};
  const blocking: Record<string, (...values: number[]) => Promise<number>> = {};
  for (const name of Object.keys(symbols) as SymbolName[]) {
    call[name] = bindLater(handle, path, name, (bound) => {
      call[name] = bound;
    });
  }
  for (const name of ['pd_stream_wait', 'pd_event_wait', 'pd_measure_read'] satisfies BlockingName[]) {
    blocking[name] = (...values) =>
      new Promise((resolve, reject) => {
        bindNow(handle, path, name).async(...values, (error: unknown, status: number) =>
          error ? reject(error) : resolve(status),
        );
      });
  }
  const lastError = () => String(lastErrorText());
  return {
    path,
    call: call as unknown as NativeFunctions,
    blocking: blocking as unknown as BlockingFunctions,
    view: (pointer, byteCount) => koffi.view(pointer, byteCount),
    lastError,
    check(status, what) {
      if (status !== 0) throw new DeviceError(`${what}: ${lastError()}`, status);
    },
  };
}

function load(path: string): ReturnType<typeof koffi.load> {
  try {
    return koffi.load(path, { lazy: true });
  } catch (error) {
    throw new DeviceError(
      `native library ${path} cannot be loaded: ${error instanceof Error ? error.message : String(error)}`,
      5,
    );
  }
}

const boundByLibrary = new WeakMap<object, Map<SymbolName, Bound>>();

function bindNow(handle: ReturnType<typeof koffi.load>, path: string, name: SymbolName): Bound {
  const bounds = boundByLibrary.get(handle) ?? new Map<SymbolName, Bound>();
  boundByLibrary.set(handle, bounds);
  const known = bounds.get(name);
  if (known !== undefined) return known;
  try {
    const bound = handle.func(name, 'int', parametersOf(name));
    bounds.set(name, bound);
    return bound;
  } catch {
    throw new DeviceError(`native library ${path} lacks ${name}: run "npm run build"`, 1);
  }
}

function bindLater(
  handle: ReturnType<typeof koffi.load>,
  path: string,
  name: SymbolName,
  keep: (bound: Bound) => void,
): Bound {
  const first = (...values: unknown[]): number => {
    const bound = bindNow(handle, path, name);
    keep(bound);
    return bound(...values) as number;
  };
  return first as unknown as Bound;
}
