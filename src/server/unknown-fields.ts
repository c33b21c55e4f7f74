/** Fields of a request that no schema names: ignored, and named in a header and once in the log; or, on a strict server, refused. Made by
 *  app.ts, used through validate. Invariant: what a client can make this write or keep is bounded. */
import type { ServerResponse } from 'node:http';
import { InvalidRequestError } from '../base/errors.js';
import type { Logger } from '../base/log.js';

export type FieldPolicy = 'ignore' | 'refuse';

export const ignoredFieldsHeader = 'x-twostroke-ignored-fields';

const namedCountMax = 16;
const nameLengthMax = 64;
const loggedCountMax = 100;

type Headers = Pick<ServerResponse, 'setHeader'>;
type FieldPath = readonly (string | number)[];

export class UnknownFields {
  readonly #policy: FieldPolicy;
  readonly #logger: Logger;
  readonly #logged = new Set<string>();

  constructor(policy: FieldPolicy, logger: Logger) {
    this.#policy = policy;
    this.#logger = logger;
  }

  /** `known` is `given` without what the schema does not name. Throws InvalidRequestError on a strict server. */
  handle(given: unknown, known: unknown, response: Headers): void {
    const found = new Map<string, FieldPath>();
    collect(given, known, [], found);
    const [first] = found.values();
    if (first === undefined) return;
    if (this.#policy === 'refuse') {
      const param = pathText(first);
      throw new InvalidRequestError(`${param}: unknown field`, param);
    }
    const names = [...found.keys()];
    const shown = names.slice(0, namedCountMax);
    response.setHeader(ignoredFieldsHeader, (names.length > namedCountMax ? [...shown, 'and more'] : shown).join(', '));
    for (const name of shown) this.#log(name);
  }

  #log(field: string): void {
    if (this.#logged.has(field) || this.#logged.size >= loggedCountMax) return;
    this.#logged.add(field);
    this.#logger.warn({ field }, 'unknown request field ignored; --strict-fields refuses such requests');
  }
}

/** Into `found`: by its name for people, the first path of each field that only `given` has, and at most one more than can be shown. What
 *  the schema takes as it is is the same value on both sides. */
function collect(given: unknown, known: unknown, path: FieldPath, found: Map<string, FieldPath>): void {
  if (given === known || typeof given !== 'object' || given === null || typeof known !== 'object' || known === null) return;
  if (Array.isArray(given)) {
    const kept = known as readonly unknown[];
    for (let i = 0; i < given.length && found.size <= namedCountMax; i++) {
      if (given[i] !== kept[i]) collect(given[i], kept[i], [...path, i], found);
    }
    return;
  }
  for (const [key, value] of Object.entries(given)) {
    if (found.size > namedCountMax) return;
    const here = [...path, key];
    if (Object.hasOwn(known, key)) collect(value, (known as Record<string, unknown>)[key], here, found);
    else if (!found.has(shownName(here))) found.set(shownName(here), here);
  }
}

/** messages[].colour, fit for a header. */
function shownName(path: FieldPath): string {
  const name = pathText(path.map((key) => (typeof key === 'number' ? -1 : key))).replaceAll('[-1]', '[]');
  return name.replace(/[^\x21-\x7e]/gu, '?').slice(0, nameLengthMax) || '?';
}

/** messages[0].content */
export function pathText(path: readonly PropertyKey[]): string {
  return path.reduce<string>((text, key) => {
    if (typeof key === 'number') return `${text}[${key}]`;
    return text === '' ? String(key) : `${text}.${String(key)}`;
  }, '');
}
