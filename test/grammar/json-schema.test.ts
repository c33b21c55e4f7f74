/** Schemas as grammars, against Ajv: no text that a grammar allows breaks its schema, and values of the
 *  schema are allowed. */
import { writeFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { studySchemas } from './schema-study.js';

const isFull = process.env.TWOSTROKE_TEST === 'full';

it('agrees with Ajv on schemas made of the keywords', () => {
  const counts = studySchemas(1, isFull ? 1500 : 60, isFull ? 10 : 3);
  const { TWOSTROKE_STUDY_JSON: file } = process.env; // the committed result is made by this
  if (file !== undefined) writeFileSync(file, `${JSON.stringify(counts, null, 1)}\n`);
  expect(counts.wrongAcceptances.map((one) => JSON.stringify(one))).toEqual([]);
  expect(counts.wrongRejections.map((one) => JSON.stringify(one))).toEqual([]);
  expect(counts.unfinished).toBe(0);
  expect(Object.keys(counts.refused).filter((reason) => !reason.includes('too large'))).toEqual([]);
  expect(counts.texts).toBeGreaterThan(150);
}, 1_200_000);
