/** `name=URL` or `name=command line` of a sweep's targets. A command line is split as a shell would split
 *  plain words and quotes. */
import { InvalidRequestError } from '../base/errors.js';

type TargetSource =
  | { readonly kind: 'url'; readonly baseUrl: string }
  | { readonly kind: 'command'; readonly words: readonly string[] };

export interface TargetSpec {
  readonly name: string;
  readonly source: TargetSource;
  /** As it was given, for the report. */
  readonly text: string;
}

export function parseTarget(text: string): TargetSpec {
  const match = /^([\w-]+)=(.+)$/s.exec(text.trim());
  if (match === null)
    throw new InvalidRequestError(`--target ${text}: expected name=http://… or name=command line`, 'target');
  const [, name = '', value = ''] = match;
  if (/^https?:\/\//.test(value)) return { name, source: { kind: 'url', baseUrl: value }, text: value };
  return { name, source: { kind: 'command', words: splitWords(value) }, text: value };
}

function splitWords(text: string): readonly string[] {
  const words = [...text.matchAll(/"([^"]*)"|'([^']*)'|(\S+)/g)].map(
    ([, double, single, plain]) => double ?? single ?? plain ?? '',
  );
  if (words.length === 0) throw new InvalidRequestError('an empty command line');
  return words;
}
