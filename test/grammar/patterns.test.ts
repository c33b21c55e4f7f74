/** Regular expressions and EBNF as grammars, against JavaScript's own and by example; and what is refused. */
import { describe, expect, it } from 'vitest';
import { packShape, type Shape } from '../../src/grammar/shapes.js';
import { accepts, byteVocabulary, endId, masksOf } from './texts.js';

const patterns = [
  'a|bc',
  'a(?:b|c)*d',
  '[a-c]{2,3}',
  '[^ab]+',
  '\\d+\\.\\d{2}',
  '(a|ab)(c|bcd)',
  '.+',
  '\\w\\s\\S',
  'é?[日-本]',
  '',
  'x{0,70}y',
  '(?:ab?){60}',
  '[\\]\\-x]',
  '\\u{1F4A1}',
];
const texts = [
  '',
  'a',
  'b',
  'bc',
  'ad',
  'abcbd',
  'ab',
  'abc',
  'cc',
  'xyz',
  '3.14',
  '12.5',
  'abcd',
  'acd',
  'a b',
  '_\t-',
  'é日',
  '本',
  '💡',
  'y',
  `${'x'.repeat(70)}y`,
  `${'x'.repeat(71)}y`,
  'a'.repeat(60),
  'ab'.repeat(60),
  'a'.repeat(61),
  ']',
  '-',
  '\n',
];

describe('regular expressions', () => {
  it.each(patterns)('%s is what JavaScript says it is', (pattern) => {
    const masks = masksOf({ kind: 'regex', pattern });
    const own = new RegExp(`^(?:${pattern})$`, 'u');
    for (const text of texts) expect(accepts(masks, text), JSON.stringify(text)).toBe(own.test(text));
  });

  it.each([
    ['(?=a)b', 'look-around'],
    ['(?<!a)b', 'look-around'],
    ['(a)\\1', 'back-reference'],
    ['\\bword', 'word boundary'],
    ['a{4,2}', '{4,2}'],
    ['a**', 'repetition'],
    ['(a', 'without its end'],
    ['a)', 'without its opening'],
    ['[z-a]', 'range'],
    ['a^b', '"^"'],
    [`${'('.repeat(200)}a${')'.repeat(200)}`, 'too deep'],
    ['a{999999}', 'times'],
    ['(?:(?:a{1000}){1000}){1000}', 'too long'],
  ])('%s is refused', (pattern, why) => expect(() => masksOf({ kind: 'regex', pattern })).toThrow(why));
});

const ebnf = (source: string): Shape => ({ kind: 'ebnf', source });

describe('EBNF', () => {
  it('reads rules, sets, repetitions and remarks', () => {
    const masks = masksOf(
      ebnf(`
# a list of words
root ::= word ("," ws word){1,2} end?   # two or three
word ::= [a-z_]+ | "\\"" [^"\\n]* "\\""
ws ::= " "*
end ::= '.' | "\\u0021"
`),
    );
    expect(['a,b', 'foo, "Bar é",z.', 'a,b!'].every((text) => accepts(masks, text))).toBe(true);
    expect(['a', 'a,b,c,d', 'A,b', 'a,"x', 'a,b?'].some((text) => accepts(masks, text))).toBe(false);
  });

  it('follows rules within rules', () => {
    const masks = masksOf(ebnf('root ::= "(" root? ")" root?'));
    expect(accepts(masks, '(()())()')).toBe(true);
    expect(accepts(masks, `${'('.repeat(300)}${')'.repeat(300)}`)).toBe(true);
    expect(accepts(masks, '(()')).toBe(false);
  });

  it.each([
    ['root ::= a', 'no rule "0-u-a"'],
    ['start ::= "a"', 'no rule "root"'],
    ['root ::= root "a" | "b"', 'left recursion'],
    ['root ::= "a" root', 'nothing satisfies'],
    ['root ::= "a', 'line 1'],
    ['root ::= ("a"\nb ::= "c"', '")" is missing'],
    ['root ::= "a"\nroot ::= "b"', 'twice'],
    ['root = "a"', '"::="'],
  ])('%s is refused', (source, why) => expect(() => masksOf(ebnf(source))).toThrow(why));
});

describe('a text that ends', () => {
  it('ends before the tokens do, however they are drawn', () => {
    const masks = masksOf({
      kind: 'schema',
      schema: {
        type: 'object',
        properties: { a: { type: 'array', items: { type: 'string' } } },
        required: ['a'],
      },
    });
    const words = new Uint32Array(byteVocabulary.wordCount);
    for (const limit of [9, 12, 40]) {
      const text = masks.open([]);
      const bytes: number[] = [];
      for (let leftCount = limit; leftCount > 0; leftCount--) {
        text.fill({ leftCount, endTokenIds: [endId] }, words);
        const ids = Array.from({ length: 257 }, (_, id) => id).filter(
          (id) => ((words[id >>> 5] ?? 0) & (1 << (id & 31))) !== 0,
        );
        const id = ids.includes(endId) ? endId : (ids.at(-1) ?? 0);
        if (id === endId) break;
        bytes.push(id);
        text.accept(id);
      }
      expect(JSON.parse(Buffer.from(bytes).toString())).toHaveProperty('a');
      expect(bytes.length).toBeLessThan(limit);
    }
  });
});

describe('schemas that cannot be enforced', () => {
  it.each([
    [{ not: {} }, 'not'],
    [{ type: 'string', minLength: 1, pattern: 'a' }, 'minLength'],
    [{ type: 'array', uniqueItems: true }, 'uniqueItems'],
    [{ type: 'object', patternProperties: { a: {} } }, 'patternProperties'],
    [{ type: 'string', format: 'iri' }, 'format'],
    [{ oneOf: [{ type: 'integer' }, { type: 'number' }] }, 'oneOf'],
    [{ $ref: 'https://example.org/x' }, '$ref'],
    [{ $ref: '#/$defs/none' }, '$ref'],
    [{ type: 'strin' }, 'type'],
    [{ type: 'number', multipleOf: 0.01 }, 'multipleOf'],
    [{ if: { type: 'string' } }, 'if'],
    [{ type: 'object', dependentRequired: { a: ['b'] } }, 'dependentRequired'],
    [{ enum: ['abc'], minLength: 2 }, 'minLength'],
  ])('%j is refused by name', (schema, keyword) => {
    expect(() => packShape({ kind: 'schema', schema }, 'field')).toThrow(`field: "${keyword}"`);
  });

  it.each([
    [{ $ref: '#' }, 'begins with itself'],
    [{ allOf: [{ $ref: '#' }] }, 'circle'],
    [{ type: 'object', properties: { a: { $ref: '#' } }, required: ['a'] }, 'nothing satisfies'],
    [{ type: 'integer', minimum: 3, maximum: 2 }, 'nothing satisfies'],
    [false, 'nothing satisfies'],
  ])('%j says why', (schema, why) =>
    expect(() => packShape({ kind: 'schema', schema }, 'field')).toThrow(why),
  );

  it('is told in bounded time, however large', () => {
    let deep: unknown = { type: 'string' };
    for (let i = 0; i < 5000; i++) deep = { type: 'array', items: deep };
    expect(() => packShape({ kind: 'schema', schema: deep }, 'field')).toThrow('nested too deep');
    const wide = Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [`p${i}`, { type: 'string' }]));
    expect(
      packShape({ kind: 'schema', schema: { type: 'object', properties: wide } }, 'field').length,
    ).toBeGreaterThan(1000);
    const doubling: Record<string, unknown> = { d0: { type: 'string' } };
    for (let i = 1; i < 40; i++)
      doubling[`d${i}`] = {
        anyOf: [{ allOf: [{ $ref: `#/$defs/d${i - 1}` }] }, { allOf: [{ $ref: `#/$defs/d${i - 1}` }] }],
      };
    expect(() =>
      packShape({ kind: 'schema', schema: { $defs: doubling, $ref: '#/$defs/d39' } }, 'field'),
    ).toThrow('too');
  });
});
