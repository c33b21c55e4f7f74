/** The fields by which a request says what its answer must look like: OpenAI's, vLLM's and SGLang's names
 *  for the same. Used by both completion endpoints. At most one of them may be given. */
import { z } from 'zod';
import { InvalidRequestError } from '../../base/errors.js';
import type { Shape } from '../../grammar/shapes.js';

const choices = z.array(z.string().min(1)).min(1).max(4096);
const schemaOrText = z.union([z.string(), z.boolean(), z.record(z.string(), z.unknown())], {
  error: 'expected a JSON Schema',
});

const structure = z.object({ begin: z.string().min(1), schema: z.unknown().optional(), end: z.string() });
/** vLLM's form: text, and structures that begin where a trigger has been written. */
const structuralTag = z.object({
  type: z.literal('structural_tag').optional(),
  structures: z.array(structure).min(1).max(256),
  triggers: z.array(z.string().min(1)).min(1).max(256),
});

const responseFormat = z.union(
  [
    z.object({ type: z.literal('text') }),
    z.object({ type: z.literal('json_object') }),
    z.object({
      type: z.literal('json_schema'),
      json_schema: z.object({
        name: z.string().nullish(),
        description: z.string().nullish(),
        schema: z.unknown().optional(),
        strict: z.boolean().nullish(),
      }),
    }),
    structuralTag.extend({ type: z.literal('structural_tag') }),
  ],
  { error: 'expected {"type": "text" | "json_object" | "json_schema" | "structural_tag", …}' },
);

const structuredOutputs = z.object({
  json: schemaOrText.nullish(),
  regex: z.string().nullish(),
  choice: choices.nullish(),
  grammar: z.string().nullish(),
  json_object: z.boolean().nullish(),
  structural_tag: z.union([z.string(), structuralTag]).nullish(),
  disable_any_whitespace: z.boolean().nullish(),
  disable_fallback: z.unknown().optional(),
  backend: z.unknown().optional(),
});

export const shapeFields = {
  response_format: responseFormat.nullish(),
  structured_outputs: structuredOutputs.nullish(),
  guided_json: schemaOrText.nullish(),
  guided_regex: z.string().nullish(),
  guided_choice: choices.nullish(),
  guided_grammar: z.string().nullish(),
  guided_decoding_backend: z.unknown().optional(),
  regex: z.string().nullish(),
  ebnf: z.string().nullish(),
  json_schema: schemaOrText.nullish(),
  structural_tag: z.union([z.string(), structuralTag]).nullish(),
};

type ShapeBody = z.output<z.ZodObject<typeof shapeFields>>;

export interface FieldShape {
  readonly shape: Shape;
  /** Where it came from, for messages. */
  readonly param: string;
}

/** null: none is asked for. @throws InvalidRequestError for two at once, or one that does not parse. */
export function shapeOf(body: ShapeBody): FieldShape | null {
  const { structured_outputs: outputs } = body;
  const whiteSpace = outputs?.disable_any_whitespace === true ? 'none' : 'free';
  const found = [
    formatShape(body.response_format ?? null),
    given('guided_json', body.guided_json, jsonShape),
    given('guided_regex', body.guided_regex, regexShape),
    given('guided_choice', body.guided_choice, choiceShape),
    given('guided_grammar', body.guided_grammar, ebnfShape),
    given('structured_outputs.json', outputs?.json, (schema, param) => jsonShape(schema, param, whiteSpace)),
    given(
      'structured_outputs.json_object',
      outputs?.json_object === true ? { type: 'object' } : null,
      jsonShape,
    ),
    given('structured_outputs.regex', outputs?.regex, regexShape),
    given('structured_outputs.choice', outputs?.choice, choiceShape),
    given('structured_outputs.grammar', outputs?.grammar, ebnfShape),
    given('structured_outputs.structural_tag', outputs?.structural_tag, tagShape),
    given('regex', body.regex, regexShape),
    given('ebnf', body.ebnf, ebnfShape),
    given('json_schema', body.json_schema, jsonShape),
    given('structural_tag', body.structural_tag, tagShape),
  ].filter((one) => one !== null);
  const [first, second] = found;
  if (second !== undefined) {
    throw new InvalidRequestError(
      `${second.param}: ${first?.param} says already what the answer looks like; give one`,
      second.param,
    );
  }
  return first ?? null;
}

function given<T>(
  param: string,
  value: T | null | undefined,
  shape: (value: T, param: string) => Shape,
): FieldShape | null {
  return value === null || value === undefined ? null : { shape: shape(value, param), param };
}

function formatShape(format: z.output<typeof responseFormat> | null): FieldShape | null {
  if (format === null || format.type === 'text') return null;
  if (format.type === 'json_object')
    return { shape: { kind: 'schema', schema: { type: 'object' } }, param: 'response_format' };
  if (format.type === 'structural_tag') return { shape: tagShape(format), param: 'response_format' };
  const param = 'response_format.json_schema.schema';
  return { shape: jsonShape(format.json_schema.schema ?? { type: 'object' }, param), param };
}

const regexShape = (pattern: string): Shape => ({ kind: 'regex', pattern });
const ebnfShape = (source: string): Shape => ({ kind: 'ebnf', source });
const textShape = (text: string): Shape => ({ kind: 'text', text });
const choiceShape = (texts: readonly string[]): Shape => ({ kind: 'choice', items: texts.map(textShape) });

/** A schema may come as text. */
function jsonShape(schema: unknown, param: string, whiteSpace: 'free' | 'none' = 'free'): Shape {
  return { kind: 'schema', schema: typeof schema === 'string' ? parsed(schema, param) : schema, whiteSpace };
}

function parsed(json: string, param: string): unknown {
  try {
    return JSON.parse(json);
  } catch {
    throw new InvalidRequestError(`${param}: not valid JSON`, param);
  }
}

type StructuralTag = z.output<typeof structuralTag>;

function tagShape(tag: string | StructuralTag, param = 'structural_tag'): Shape {
  if (typeof tag !== 'string') return tagsShape(tag, param);
  const result = structuralTag.safeParse(parsed(tag, param));
  if (result.success) return tagsShape(result.data, param);
  throw new InvalidRequestError(
    `${param}: expected {"structures": [{begin, schema, end}], "triggers": […]}`,
    param,
  );
}

/** Text without a trigger, then a structure that begins with one, and so on. */
function tagsShape({ structures, triggers }: StructuralTag, param: string): Shape {
  const stray = structures.find(({ begin }) => !triggers.some((trigger) => begin.startsWith(trigger)));
  if (stray !== undefined)
    throw new InvalidRequestError(`${param}: no trigger begins "${stray.begin}"`, param);
  const tags = structures.map(({ begin, schema, end }): Shape => {
    const value: Shape = { kind: 'schema', schema: schema ?? { type: 'object' } };
    return { kind: 'sequence', items: [textShape(begin), value, textShape(end)] };
  });
  const free: Shape = { kind: 'free', stops: triggers };
  const turn: Shape = { kind: 'sequence', items: [free, { kind: 'choice', items: tags }] };
  return { kind: 'sequence', items: [{ kind: 'repeat', item: turn, min: 0, max: null }, free] };
}
