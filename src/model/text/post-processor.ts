/** The tokens that a tokenizer puts before and after a text. Used by text-encoding.ts. Only single texts are
 *  encoded here, so every post-processor of the Rust library comes down to two lists. */
import { ModelError } from '../../base/errors.js';
import type { TokenId } from '../../base/ids.js';
import type { ConfigFields } from '../config-fields.js';
import { describeJson, isJsonObject } from '../json-file.js';

interface Surroundings {
  readonly before: readonly TokenId[];
  readonly after: readonly TokenId[];
}

/** A text is surrounded by one or two. */
const tokenCountMax = 64;
const nothing: Surroundings = { before: [], after: [] };

/** `fields`: the object "post_processor". @throws ModelError */
export function readPostProcessor(fields: ConfigFields | null): Surroundings {
  if (fields === null) return nothing;
  const type = fields.text('type');
  switch (type) {
    case 'Sequence':
      return fields.objects('processors').map(readPostProcessor).reduce(around, nothing);
    case 'ByteLevel':
      return nothing;
    case 'BertProcessing':
    case 'RobertaProcessing':
      return { before: [namedId(fields, 'cls')], after: [namedId(fields, 'sep')] };
    case 'TemplateProcessing':
      return readTemplate(fields);
    default:
      throw new ModelError(`${fields.file}: post-processor ${describeJson(type)} is not supported`);
  }
}

function around(inner: Surroundings, outer: Surroundings): Surroundings {
  return { before: [...outer.before, ...inner.before], after: [...inner.after, ...outer.after] };
}

function readTemplate(fields: ConfigFields): Surroundings {
  const pieces = fields.objects('single');
  const index = pieces.findIndex((piece) => piece.has('Sequence'));
  if (index < 0 || pieces.filter((piece) => piece.has('Sequence')).length > 1)
    fields.fail('single', 'a template with one text');
  if (pieces.length > tokenCountMax) fields.fail('single', `a template of at most ${tokenCountMax} pieces`);
  const idsOf = (piece: ConfigFields) => specialIds(fields, piece);
  return { before: pieces.slice(0, index).flatMap(idsOf), after: pieces.slice(index + 1).flatMap(idsOf) };
}

/** The ids that the template itself gives its special tokens. */
function specialIds(fields: ConfigFields, piece: ConfigFields): readonly TokenId[] {
  const name =
    piece.object('SpecialToken')?.text('id') ?? piece.fail('SpecialToken', 'a special token or a text');
  const tokens = fields.raw('special_tokens');
  if (!isJsonObject(tokens) || !Object.hasOwn(tokens, name))
    return fields.fail('special_tokens', `an object with ${describeJson(name)}`);
  return fields.object('special_tokens')?.object(name)?.tokenIds('ids') ?? [];
}

/** [text, id] */
function namedId(fields: ConfigFields, name: string): TokenId {
  const value = fields.raw(name);
  const id = Array.isArray(value) ? value[1] : undefined;
  return typeof id === 'number' && Number.isInteger(id) && id >= 0
    ? id
    : fields.fail(name, 'a text and a token id');
}
