/** API keys: `Authorization: Bearer KEY`. Compared in constant time; only hashes are kept. */
import { createHash, timingSafeEqual } from 'node:crypto';
import { TwostrokeError } from '../base/errors.js';

/** What anyone may ask: load balancers and scrapers carry no key. */
const openPaths: ReadonlySet<string> = new Set(['/', '/health', '/metrics', '/version']);

export class ApiKeys {
  readonly #hashes: readonly Buffer[];

  constructor(keys: readonly string[]) {
    this.#hashes = keys.map(hash);
  }

  /** Throws `unauthorized` unless no key is needed or the right one is given. */
  check(path: string, authorization: string | undefined): void {
    if (this.#hashes.length === 0 || openPaths.has(path)) return;
    const given = /^Bearer\s+(.+)$/i.exec(authorization ?? '')?.[1];
    if (given === undefined) {
      throw new TwostrokeError('unauthorized', 'No API key was given. Send the header "Authorization: Bearer KEY".');
    }
    const givenHash = hash(given);
    // Every hash is looked at, so that the time tells nothing about which one matched.
    const matches = this.#hashes.filter((known) => timingSafeEqual(known, givenHash));
    if (matches.length === 0) throw new TwostrokeError('unauthorized', 'The API key is not valid for this server.');
  }
}

const hash = (key: string) => createHash('sha256').update(key).digest();
