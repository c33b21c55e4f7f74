/** Our jinja against Python's: every construct that a chat template may use, as recorded by
 *  test/fixtures/jinja/record.py. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { Template } from '../../src/model/jinja/template.js';
import { TemplateError } from '../../src/model/jinja/values.js';

interface Recorded {
  readonly name: string;
  readonly template: string;
  readonly context: Record<string, unknown>;
  readonly output?: string;
  readonly error?: string;
}

const file = path.resolve(import.meta.dirname, '../fixtures/jinja/recorded.json');
const { cases } = JSON.parse(readFileSync(file, 'utf8')) as { readonly cases: readonly Recorded[] };
/** What record.py took for the present. */
const now = () => new Date(2026, 2, 4, 5, 6, 7);

describe('templates as Python renders them', () => {
  it('has the recorded cases', () => expect(cases.length).toBeGreaterThan(150));

  it.each(cases.map((recorded) => [recorded.name, recorded] as const))(
    '%s',
    (_, { template, context, output, error }) => {
      const render = () => new Template(template).render(context, now);
      if (error === undefined) expect(render()).toBe(output);
      else expect(render, error).toThrow(TemplateError);
    },
  );
});
