/** What ends a worker process, and what does not. */
import { EventEmitter } from 'node:events';
import { expect, it, vi } from 'vitest';
import { workerId } from '../../src/base/ids.js';
import { spawnWorker } from '../../src/control/worker-process.js';

const children: EventEmitter[] = [];
vi.mock('node:child_process', () => ({
  spawn: (program: string) => {
    const pid = program === 'none' ? undefined : 4711;
    const child = Object.assign(new EventEmitter(), { pid, kill: () => false });
    children.push(child);
    return child;
  },
}));

const options = { entry: 'worker.js', address: 'bus', workerId: workerId('w0'), logLevel: 'warn' };

it('a signal that could not be sent is no exit', async () => {
  const { exited, pid } = spawnWorker(options);
  expect(pid).toBe(4711);
  let reason: string | null = null;
  void exited.then((text) => {
    reason = text.reason;
  });
  children.at(-1)?.emit('error', new Error('kill EPERM'));
  children.at(-1)?.emit('error', new Error('kill EPERM'));
  await Promise.resolve();
  expect(reason).toBeNull();
  children.at(-1)?.emit('exit', null, 'SIGKILL');
  expect(await exited).toEqual({ reason: 'it was killed by SIGKILL', signal: 'SIGKILL' });
});

it('a process that could not be started is one', async () => {
  const execPath = vi.spyOn(process, 'execPath', 'get').mockReturnValue('none');
  const { exited, pid } = spawnWorker(options);
  execPath.mockRestore();
  children.at(-1)?.emit('error', new Error('spawn ENOENT'));
  expect(pid).toBeNull();
  expect(await exited).toEqual({ reason: 'it could not be started: spawn ENOENT', signal: null });
});
