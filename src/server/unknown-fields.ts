/** Fields of a request that no schema names: ignored, and named in a header and once in the log; or, on a
 *  strict server, refused. Made by app.ts, used through validate. Invariant: what a client can make this
 *  write or keep is bounded. */
import type { ServerResponse } from 'node:http';
import { InvalidRequestError } from '../base/errors.js';
import type { Logger } from '../base/log.js';

type FieldPolicy = 'ignore' | 'refuse';

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

  /** `known` is `given` without what the schema does not name. Throws InvalidRequestError on a strict
   *  server. */
  handle(given: unknown, known: unknown, response: Headers): void {
    const found = new Map<string, FieldPath>();
    collect(given, known, '', { path: [], found });
    const [first] = found.values();
    if (first === undefined) return;
    if (this.#policy === 'refuse') {
      const param = pathText(first);
      throw new InvalidRequestError(`${param}: unknown field`, param);
    }
    const names = [...found.keys()].slice(0, namedCountMax).map(fitForHeader);
    for (const name of names) this.#log(name);
    if (found.size > namedCountMax) names.push('and more');
    response.setHeader(ignoredFieldsHeader, names.join(', '));
  }

  #log(field: string): void {
    if (this.#logged.has(field) || this.#logged.size >= loggedCountMax) return;
    this.#logged.add(field);
    this.#logger.warn({ field }, 'unknown request field ignored; --strict-fields refuses such requests');
  }
}

interface Search {
  /** Of what is looked at now. */
  readonly path: (string | number)[];
  /** By its name, the first path of each field that only `given` has, and at most one more than can be
   *  shown. */
  readonly found: Map<string, FieldPath>;
}

/** `name`: the path with all items of a list as one, messages[].content. What the schema takes as it is is
 *  the same value on both sides. */
function collect(given: unknown, known: unknown, name: string, search: Search): void {
  if (given === known || !isObject(given) || !isObject(known)) return;
  const { path, found } = search;
  const isList = Array.isArray(given);
  const itemName = `${name}[]`;
  for (const key of isList ? given.keys() : Object.keys(given)) {
    if (found.size > namedCountMax) return;
    const isKnown = Object.hasOwn(known, key);
    if (isKnown && given[key] === known[key]) continue;
    const field = isList ? itemName : name === '' ? String(key) : `${name}.${key}`;
    path.push(key);
    if (isKnown) collect(given[key], known[key], field, search);
    else if (!found.has(field)) found.set(field, [...path]);
    path.pop();
  }
}

function isObject(value: unknown): value is Readonly<Record<string | number, unknown>> {
  return typeof value === 'object' && value !== null;
}

function fitForHeader(name: string): string {
  return name.slice(0, nameLengthMax).replace(/[^\x21-\x7e]/g, '?') || '?';
}

/** messages[0].content */
export function pathText(path: readonly PropertyKey[]): string {
  return path.reduce<string>((text, key) => {
    if (typeof key === 'number') return `${text}[${key}]`;
    return text === '' ? String(key) : `${text}.${String(key)}`;
  }, '');
}
