/** Who asks: API keys and admin keys, sent as `Authorization: Bearer KEY`. Made by app.ts, asked before every
 *  handler.
 *  Invariant: keys are kept as keyed hashes alone, and compared in constant time. */
import { createHmac, timingSafeEqual } from 'node:crypto';
import { TwostrokeError } from '../base/errors.js';
import { freshSecret } from '../base/prng.js';

export interface KeyOptions {
  /** Without any key everybody may ask everything. */
  readonly apiKeys: readonly string[];
  /** They do what API keys do, and see all requests. With one, the totals over all requests are theirs
   *  alone. */
  readonly adminKeys: readonly string[];
  /** A prompt's KV may serve requests of all keys, which lets one key learn what another has sent. */
  readonly sharePrefixCache: boolean;
}

export interface Caller {
  /** One for each key, and none of it can be learned from it; null: no key was asked for. */
  readonly owner: string | null;
  /** Prefixes are shared within it; null: with all. */
  readonly cacheNamespace: string | null;
  /** own: its requests. totals: also what they and others' come to: metrics, workers. everything: others'
   *  requests as well. */
  readonly sees: 'own' | 'totals' | 'everything';
}

/** What anyone may ask: load balancers carry no key. */
const openPaths: ReadonlySet<string> = new Set(['/', '/health', '/ping', '/version']);

/** Where no key is asked for. */
export const anyone: Caller = { owner: null, cacheNamespace: null, sees: 'everything' };

export class Keys {
  readonly #secret = freshSecret();
  readonly #apiHashes: readonly Buffer[];
  readonly #adminHashes: readonly Buffer[];
  readonly #sharesPrefixCache: boolean;

  constructor({ apiKeys, adminKeys, sharePrefixCache }: KeyOptions) {
    this.#apiHashes = apiKeys.map((key) => this.#hash(key));
    this.#adminHashes = adminKeys.map((key) => this.#hash(key));
    this.#sharesPrefixCache = sharePrefixCache;
  }

  /** Throws `unauthorized` unless no key is needed or the right one is given. */
  caller(path: string, authorization: string | undefined): Caller {
    if (this.#apiHashes.length + this.#adminHashes.length === 0 || openPaths.has(path)) return anyone;
    const given = /^Bearer\s+(.+)$/i.exec(authorization ?? '')?.[1];
    if (given === undefined) {
      throw new TwostrokeError(
        'unauthorized',
        'No API key was given. Send the header "Authorization: Bearer KEY".',
      );
    }
    const hash = this.#hash(given);
    const isAdmin = isAmong(this.#adminHashes, hash);
    const isKnown = isAmong(this.#apiHashes, hash) || isAdmin;
    if (!isKnown) throw new TwostrokeError('unauthorized', 'The API key is not valid for this server.');
    const owner = hash.toString('hex');
    const sees = isAdmin ? 'everything' : this.#adminHashes.length === 0 ? 'totals' : 'own';
    return { owner, cacheNamespace: this.#sharesPrefixCache ? null : owner, sees };
  }

  #hash(key: string): Buffer {
    return createHmac('sha256', this.#secret).update(key).digest();
  }
}

/** Every hash is looked at, so that the time tells nothing about which one matched. */
function isAmong(hashes: readonly Buffer[], given: Buffer): boolean {
  return hashes.filter((known) => timingSafeEqual(known, given)).length > 0;
}

/** Throws `forbidden` for who sees no more than its own requests. */
export function requireTotals({ sees }: Caller): void {
  if (sees === 'own') throw new TwostrokeError('forbidden', 'This server shows that to an admin key only.');
}
