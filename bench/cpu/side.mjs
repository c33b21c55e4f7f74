/* One engine under test = one child process: no shared threads, allocator or libuv pool, and a crash of one
 *  is a clear message.
   bench.mjs starts sides; llama-side.mjs and twostroke-side.mjs are what it starts. One call is in flight at
   a time. */
import { fork } from 'node:child_process';
import path from 'node:path';

/** Starts `file` (in this folder). `call(method, argument)` resolves with what the side's method returned. */
export function startSide(file, environment = {}) {
  const child = fork(path.join(import.meta.dirname, file), [], {
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    env: { ...process.env, ...environment },
  });
  let errorText = '';
  child.stderr.on('data', (chunk) => {
    errorText = (errorText + chunk).slice(-2000);
  });
  let waiting = null;
  const settle = (outcome) => {
    const current = waiting;
    waiting = null;
    outcome(current);
  };
  child.on('message', ({ result, error }) => {
    settle((call) =>
      error === undefined ? call?.resolve(result) : call?.reject(new Error(`${file}: ${error}`)),
    );
  });
  child.on('exit', (code, signal) => {
    settle((call) =>
      call?.reject(new Error(`${file} ended (${signal ?? `exit code ${code}`}): ${errorText.trim()}`)),
    );
  });
  return {
    call(method, argument = {}) {
      return new Promise((resolve, reject) => {
        waiting = { resolve, reject };
        child.send({ method, argument }, (error) => error && reject(error));
      });
    },
    close() {
      child.kill('SIGKILL'); // it owns memory only
    },
  };
}

/** In the child: answers calls with `methods`, and cpuSeconds. */
export function serveSide(methods) {
  const all = { ...methods, cpuSeconds };
  process.on('message', async ({ method, argument }) => {
    try {
      process.send({ result: (await all[method](argument)) ?? null });
    } catch (error) {
      process.send({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) });
    }
  });
  process.on('disconnect', () => process.exit());
}

/** CPU time of this process so far, all threads. */
export function cpuSeconds() {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}
