/** A request's shape → the grammar that goes to workers, and what cannot go together with one. Used by
 *  chat.ts and completions.ts. */
import { InvalidRequestError } from '../../base/errors.js';
import { requireText, type ServedModel } from '../served-model.js';
import type { FieldShape } from './shape-fields.js';

interface LengthFields {
  readonly ignore_eos?: boolean | null | undefined;
  readonly min_tokens?: number | null | undefined;
  readonly forced_output_tokens?: number | null | undefined;
}

/** undefined: any text. @throws InvalidRequestError naming what cannot be enforced. */
export async function grammarOf(
  model: ServedModel,
  field: FieldShape | null,
  body: LengthFields,
): Promise<string | undefined> {
  if (field === null) return undefined;
  const { shape, param } = field;
  const refuse = (name: string) => {
    throw new InvalidRequestError(
      `${name}: cannot be held beside ${param}, which says where the answer ends`,
      name,
    );
  };
  if (body.ignore_eos === true) refuse('ignore_eos');
  if ((body.min_tokens ?? 0) > 0) refuse('min_tokens');
  if ((body.forced_output_tokens ?? null) !== null) refuse('forced_output_tokens');
  return requireText(model, param).packShape(shape, param);
}
