/** Schemas made of JSON Schema's keywords from a seed, each with a way to draw values that satisfy it (in
 *  the schema's order of members, which is the order that the grammar has). For the schema tests and the
 *  study. */
import type { Prng } from '../../src/base/prng.js';

export interface SchemaCase {
  readonly schema: Record<string, unknown> | boolean;
  /** A value that satisfies it; of what the grammar leaves out on purpose it draws nothing. */
  readonly draw: (prng: Prng) => unknown;
}

const alphabet = ['a', 'b', 'z', 'É', '日', '💡', '"', '\\', '\n', ' ', '/', '\u007f', '0'];
const textOf = (prng: Prng, length: number) => Array.from({ length }, () => prng.pick(alphabet)).join('');
const names = ['name', 'na', 'age', 'a"b', 'größe', 'x', 'y', 'constructor'];

const patterns: readonly (readonly [string, (prng: Prng) => string])[] = [
  ['^[a-z]{2,5}$', (prng) => prng.pick(['ab', 'zzzzz', 'qwe'])],
  ['^(?:foo|ba[rz])+$', (prng) => prng.pick(['foo', 'barbaz', 'bazfoofoo'])],
  ['^\\d{3}-\\d{4}$', (prng) => prng.pick(['555-1234', '000-0000'])],
  ['^[^x"]+$', (prng) => prng.pick(['y', 'a\\b', '日 本', '\n'])],
  ['b+c', (prng) => prng.pick(['bc', 'xxbbcyy', '"bc'])],
  ['^\\w+\\s\\w+$', (prng) => prng.pick(['a b', 'foo_1\tbar'])],
  ['^.{0,3}$', (prng) => prng.pick(['', 'a', 'xyz'])],
  ['end$|^start', (prng) => prng.pick(['the end', 'start of it'])],
  ['^\\u00e9?\\x41\\/$', (prng) => prng.pick(['éA/', 'A/'])],
];
const formats: readonly (readonly [string, readonly string[]])[] = [
  ['date', ['2024-02-28', '1999-12-31']],
  ['time', ['12:30:00Z', '23:59:59.123+02:00']],
  ['date-time', ['2024-01-01T00:00:00Z', '2030-06-15T12:00:00-05:30']],
  ['uuid', ['123e4567-e89b-12d3-a456-426614174000']],
  ['email', ['ada@example.org', 'a.b@c.de']],
  ['ipv4', ['127.0.0.1', '255.255.255.255', '0.0.0.0']],
  ['ipv6', ['::1', 'fe80::1:2', '1:2:3:4:5:6:7:8', '::']],
  ['hostname', ['example.org', 'a-b.c']],
  ['uri', ['https://example.org/a/b', 'http://x']],
  ['duration', ['P3D', 'PT5S', 'P1W']],
];

export function schemaCase(prng: Prng, depth = 3): SchemaCase {
  const leaf = [string, string, integer, number, values, simple];
  const inner = [object, object, array, tuple, union, either, merged, nullable];
  return prng.pick(depth > 0 && prng.uniform() < 0.7 ? inner : leaf)(prng, depth - 1);
}

function simple(prng: Prng): SchemaCase {
  const type = prng.pick(['boolean', 'null', 'string', 'integer', 'number']);
  const samples: Record<string, readonly unknown[]> = {
    boolean: [true, false],
    null: [null],
    string: ['', 'text', '"quoted"'],
    integer: [0, -7, 123456],
    number: [0, 1.5, -2.25e-7, 1e21],
  };
  return {
    schema: { type, title: 'T', description: 'what "not" means' },
    draw: (p) => p.pick(samples[type] ?? []),
  };
}

function string(prng: Prng): SchemaCase {
  const kind = prng.integer(0, 3);
  if (kind === 0) {
    const [pattern, draw] = prng.pick(patterns);
    return { schema: { type: 'string', pattern }, draw };
  }
  if (kind === 1) {
    const [format, samples] = prng.pick(formats);
    return { schema: { type: 'string', format }, draw: (p) => p.pick(samples) };
  }
  const min = prng.integer(0, 4);
  const max = prng.uniform() < 0.1 ? 300 : min + prng.integer(0, 4);
  const hasMax = prng.uniform() < 0.8;
  return {
    schema: { type: 'string', ...(min > 0 ? { minLength: min } : {}), ...(hasMax ? { maxLength: max } : {}) },
    draw: (p) => textOf(p, p.integer(min, hasMax ? max : min + 5)),
  };
}

function integer(prng: Prng): SchemaCase {
  if (prng.uniform() < 0.2) {
    const divisor = prng.pick([2, 3, 7, 10, 25, 128]);
    return { schema: { type: 'integer', multipleOf: divisor }, draw: (p) => divisor * p.integer(-50, 50) };
  }
  const min = prng.integer(-1200, 1200);
  const max = min + prng.pick([0, 1, 9, 10, 99, 101, 5000]);
  const kind = prng.integer(0, 3);
  if (kind === 0)
    return { schema: { type: 'integer', minimum: min }, draw: (p) => min + p.integer(0, 10_000) };
  if (kind === 1)
    return { schema: { type: 'integer', maximum: max }, draw: (p) => max - p.integer(0, 10_000) };
  if (kind === 2)
    return {
      schema: { type: 'integer', exclusiveMinimum: min - 1, exclusiveMaximum: max + 1 },
      draw: (p) => p.integer(min, max),
    };
  return {
    schema: { type: 'integer', minimum: min - 0.5, maximum: max + 0.25 },
    draw: (p) => p.integer(min, max),
  };
}

function number(prng: Prng): SchemaCase {
  const scale = prng.pick([1, 10, 100, 1000]);
  const min = prng.integer(-300, 300) / scale;
  const max = Number((min + prng.integer(1, 400) / scale).toFixed(3));
  const at = (p: Prng, low: number, high: number) => {
    const value = Number((low + p.uniform() * (high - low)).toFixed(6));
    return value > low && value < high && !String(value).includes('e') && !Object.is(value, -0)
      ? value
      : (low + high) / 2;
  };
  const kind = prng.integer(0, 3);
  if (kind === 0)
    return { schema: { type: 'number', minimum: min }, draw: (p) => p.pick([min, at(p, min, min + 50)]) };
  if (kind === 1)
    return { schema: { type: 'number', exclusiveMaximum: max }, draw: (p) => at(p, max - 50, max) };
  if (kind === 2)
    return {
      schema: { type: 'number', exclusiveMinimum: min, exclusiveMaximum: max },
      draw: (p) => at(p, min, max),
    };
  return {
    schema: { type: 'number', minimum: min, maximum: max },
    draw: (p) => p.pick([min, max, at(p, min, max)]),
  };
}

function values(prng: Prng): SchemaCase {
  const all = [1, 'one', null, true, [1, 2], { a: 'b', c: [] }, 'quote "', 1.5];
  const some = all.filter(() => prng.uniform() < 0.5);
  const list = some.length > 0 ? some : ['only'];
  return prng.uniform() < 0.5
    ? { schema: { enum: list }, draw: (p) => p.pick(list) }
    : { schema: { const: list[0] }, draw: () => list[0] };
}

function array(prng: Prng, depth: number): SchemaCase {
  const item = schemaCase(prng, depth);
  const min = prng.integer(0, 2);
  const max = min + prng.integer(0, 3);
  const hasMax = prng.uniform() < 0.7;
  return {
    schema: {
      type: 'array',
      items: item.schema,
      ...(min > 0 ? { minItems: min } : {}),
      ...(hasMax ? { maxItems: max } : {}),
    },
    draw: (p) => Array.from({ length: p.integer(min, hasMax ? max : min + 2) }, () => item.draw(p)),
  };
}

function tuple(prng: Prng, depth: number): SchemaCase {
  const first = Array.from({ length: prng.integer(1, 3) }, () => schemaCase(prng, depth - 1));
  const isOld = prng.uniform() < 0.3;
  const rest = prng.pick<false | SchemaCase>([false, schemaCase(prng, 0)]);
  const further = rest === false ? false : rest.schema;
  return {
    schema: isOld
      ? { type: 'array', items: first.map(({ schema }) => schema), additionalItems: further }
      : { type: 'array', prefixItems: first.map(({ schema }) => schema), items: further },
    draw: (p) => {
      const count = p.integer(0, first.length + (rest === false ? 0 : 2));
      return Array.from(
        { length: count },
        (_, i) => first[i]?.draw(p) ?? (i < first.length || rest === false ? null : rest.draw(p)),
      );
    },
  };
}

function object(prng: Prng, depth: number): SchemaCase {
  const chosen = names.filter(() => prng.uniform() < 0.4);
  const members = chosen.map((name) => ({
    name,
    isRequired: prng.uniform() < 0.5,
    one: schemaCase(prng, depth),
  }));
  const required = members.filter(({ isRequired }) => isRequired).map(({ name }) => name);
  const further = prng.pick([null, null, false, true, { type: 'integer' }]);
  const isCounted =
    further !== true && (further === null || further === false) && members.length > 1 && prng.uniform() < 0.3;
  const least = isCounted ? Math.max(required.length, 1) : 0;
  return {
    schema: {
      type: 'object',
      properties: Object.fromEntries(members.map(({ name, one }) => [name, one.schema])),
      ...(required.length > 0 ? { required } : {}),
      ...(further === null ? {} : { additionalProperties: further }),
      ...(isCounted ? { minProperties: least, maxProperties: members.length } : {}),
    },
    draw: (p) => {
      let kept = members.filter(({ isRequired }) => isRequired || p.uniform() < 0.5);
      if (kept.length < least) kept = members;
      const entries: [string, unknown][] = kept.map(({ name, one }) => [name, one.draw(p)]);
      if (further === true || (further !== null && further !== false)) {
        for (const name of ['extra', 'n', 'namex', 'ag']) if (p.uniform() < 0.3) entries.push([name, 7]);
      }
      return Object.fromEntries(entries);
    },
  };
}

function union(prng: Prng, depth: number): SchemaCase {
  const items = Array.from({ length: prng.integer(1, 3) }, () => schemaCase(prng, depth));
  return { schema: { anyOf: items.map(({ schema }) => schema) }, draw: (p) => p.pick(items).draw(p) };
}

function either(prng: Prng, depth: number): SchemaCase {
  const tagged = ['cat', 'dog', 'eel'].slice(0, prng.integer(2, 3)).map((kind) => {
    const one = schemaCase(prng, depth);
    return {
      schema: {
        type: 'object',
        properties: { kind: { const: kind }, value: one.schema },
        required: ['kind', 'value'],
        additionalProperties: false,
      },
      draw: (p: Prng) => ({ kind, value: one.draw(p) }),
    };
  });
  return { schema: { oneOf: tagged.map(({ schema }) => schema) }, draw: (p) => p.pick(tagged).draw(p) };
}

function merged(prng: Prng, depth: number): SchemaCase {
  const [a, b] = [schemaCase(prng, depth), schemaCase(prng, depth)];
  const base = (name: string, one: SchemaCase) => ({
    type: 'object',
    properties: { [name]: one.schema },
    required: [name],
  });
  return {
    schema: { allOf: [base('a', a), base('b', b)] },
    draw: (p) => ({ a: a.draw(p), b: b.draw(p) }),
  };
}

function nullable(prng: Prng, depth: number): SchemaCase {
  const list = (p: Prng): unknown => (p.uniform() < 0.5 ? null : { value: 1, next: list(p) });
  if (prng.uniform() < 0.5) {
    const node = {
      type: ['object', 'null'],
      properties: { value: { type: 'integer' }, next: { $ref: '#/$defs/node' } },
      required: ['value', 'next'],
    };
    return { schema: { $defs: { node }, $ref: '#/$defs/node' }, draw: list };
  }
  const one = schemaCase(prng, depth);
  return {
    schema: { anyOf: [one.schema, { type: 'null' }] },
    draw: (p) => (p.uniform() < 0.3 ? null : one.draw(p)),
  };
}
