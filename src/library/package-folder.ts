/** Where this package lies and which version it is: the folder of its package.json, above both src/ and
 *  dist/src/. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { TwostrokeError } from '../base/errors.js';

interface FoundPackage {
  readonly folder: string;
  readonly version: string;
}

export function packageVersion(): string {
  return findPackage().version;
}

/** What the gateway starts as a worker process; built, also when this runs from source. */
export function workerEntry(): string {
  return path.join(findPackage().folder, 'dist/src/cli/worker-main.cjs');
}

/** What a text thread starts with; built, likewise. */
export function textThreadEntry(): URL {
  return pathToFileURL(path.join(findPackage().folder, 'dist/src/server/text-thread-entry.js'));
}

function findPackage(): FoundPackage {
  for (let folder = import.meta.dirname; folder !== path.dirname(folder); folder = path.dirname(folder)) {
    const file = path.join(folder, 'package.json');
    if (!existsSync(file)) continue;
    const { name, version } = JSON.parse(readFileSync(file, 'utf8')) as { name?: string; version?: string };
    if (name === 'twostroke' && version !== undefined) return { folder, version };
  }
  throw new TwostrokeError(
    'internal',
    `no package.json of twostroke is above ${import.meta.dirname}: install it again`,
  );
}
