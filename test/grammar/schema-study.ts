/** How the grammars of many schemas compare with Ajv: texts that a grammar allows and Ajv refuses (wrong
 *  acceptances), and values that Ajv accepts and the grammar refuses (wrong rejections). */

import { Ajv } from 'ajv';
import { Ajv2020 } from 'ajv/dist/2020.js';
import formatsModule from 'ajv-formats';
import { Prng } from '../../src/base/prng.js';
import { type SchemaCase, schemaCase } from './schema-cases.js';
import { accepts, drawText, masksOf } from './texts.js';

export interface StudyCounts {
  schemas: number;
  refused: Record<string, number>;
  texts: number;
  values: number;
  wrongAcceptances: { schema: unknown; text: string }[];
  wrongRejections: { schema: unknown; value: unknown }[];
  unfinished: number;
}

const addFormats = formatsModule.default;

function validatorOf({ schema }: SchemaCase): (value: unknown) => boolean {
  const isOld = JSON.stringify(schema).includes('additionalItems');
  const ajv = isOld
    ? new Ajv({ strict: false, unicodeRegExp: true, ownProperties: true })
    : new Ajv2020({ strict: false, unicodeRegExp: true, ownProperties: true });
  addFormats(ajv);
  return ajv.compile(schema as object);
}

/** Of one draft; and a $ref to #/$defs is of the whole schema: within another one it leads nowhere. */
const isMovable = (schema: unknown) =>
  !/prefixItems.*additionalItems|additionalItems.*prefixItems/.test(JSON.stringify(schema)) &&
  (!/"\$ref"/.test(JSON.stringify(schema)) || /^\{"\$defs"/.test(JSON.stringify(schema)));

export function studySchemas(seed: number, schemaCount: number, textCount: number): StudyCounts {
  const counts: StudyCounts = {
    schemas: 0,
    refused: {},
    texts: 0,
    values: 0,
    wrongAcceptances: [],
    wrongRejections: [],
    unfinished: 0,
  };
  const prng = new Prng(seed);
  while (counts.schemas < schemaCount) {
    const one = schemaCase(prng);
    if (!isMovable(one.schema)) continue;
    counts.schemas++;
    let masks: ReturnType<typeof masksOf>;
    try {
      masks = masksOf({ kind: 'schema', schema: one.schema });
    } catch (error) {
      const keyword = /"([^"]+)"/.exec((error as Error).message)?.[1] ?? (error as Error).message;
      counts.refused[keyword] = (counts.refused[keyword] ?? 0) + 1;
      continue;
    }
    const validate = validatorOf(one);
    for (let i = 0; i < textCount; i++) {
      const text = drawText(masks, prng, 600);
      if (text === null) {
        counts.unfinished++;
        continue;
      }
      counts.texts++;
      if (!isValid(validate, text)) counts.wrongAcceptances.push({ schema: one.schema, text });
      const value = one.draw(prng);
      if (!validate(value)) continue; // what the keywords beside it forbid
      counts.values++;
      if (!accepts(masks, JSON.stringify(value, null, prng.pick([0, 1, 2]))))
        counts.wrongRejections.push({ schema: one.schema, value });
    }
  }
  return counts;
}

function isValid(validate: (value: unknown) => boolean, text: string): boolean {
  try {
    return validate(JSON.parse(text));
  } catch {
    return false;
  }
}
