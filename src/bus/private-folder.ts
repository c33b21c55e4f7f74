/** Where the bus's socket lies: a folder that only this user can enter, under the first of a few places that
 *  will do. Used by unix-socket.ts.
 *  Invariants: the socket's path fits what the kernel takes, and a longer one is never cut off; what a killed
 *  server left is removed by the next one; a folder whose server lives is never touched. */
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { createConnection } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import type { Clock } from '../base/clock.js';
import { messageOf, TwostrokeError } from '../base/errors.js';

/** sun_path without its end: 107 on Linux, 103 on macOS. */
const pathBytesMax = 103;
const prefix = 'twostroke-bus-';
const socketName = 'bus.sock';
/** A server that is just starting has its socket an instant before it listens. */
const secondLookMs = 100;

/** The socket's path in a fresh folder. Throws `unavailable` saying why no place will do. */
export async function freshSocketPath(): Promise<string> {
  const reasons: string[] = [];
  for (const place of places()) {
    try {
      checkSocketPath(path.join(place, `${prefix}XXXXXX`, socketName));
      return path.join(await mkdtemp(path.join(place, prefix)), socketName); // mkdtemp makes it 0700
    } catch (error) {
      reasons.push(messageOf(error));
    }
  }
  const why = reasons.join('; ');
  throw new TwostrokeError(
    'unavailable',
    `there is no place for the socket of the workers: ${why}. Set TMPDIR to a short path`,
  );
}

/** Throws `unavailable` for a path that the kernel would refuse, or cut off. */
export function checkSocketPath(address: string): void {
  const bytes = Buffer.byteLength(address);
  if (bytes <= pathBytesMax) return;
  throw new TwostrokeError(
    'unavailable',
    `${address} has ${bytes} bytes, a socket's path may have ${pathBytesMax}`,
  );
}

/** Removes the folders of servers that were killed together with their workers. `own`: that of the caller. */
export async function removeLeftOver(own: string, clock: Clock): Promise<void> {
  for (const place of new Set(places())) {
    const names = await readdir(place).catch(() => []);
    for (const name of names.filter((each) => each.startsWith(prefix))) {
      const folder = path.join(place, name);
      const address = path.join(folder, socketName);
      const isOther = address !== own && Buffer.byteLength(address) <= pathBytesMax;
      if (!isOther || !(await isDead(address))) continue;
      await clock.sleep(secondLookMs);
      if (await isDead(address)) await rm(folder, { recursive: true, force: true }).catch(() => {});
    }
  }
}

function places(): readonly string[] {
  const userId = process.getuid?.();
  return [os.tmpdir(), ...(userId === undefined ? [] : [`/run/user/${userId}`]), '/tmp'];
}

/** Nobody listens there any more. A server that is too busy to answer gives another error. */
function isDead(address: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection(address);
    socket.on('connect', () => {
      socket.destroy();
      resolve(false);
    });
    socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code === 'ECONNREFUSED'));
  });
}
