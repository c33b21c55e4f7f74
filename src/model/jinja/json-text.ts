/** json.dumps, as the `tojson` filter of transformers calls it: nothing is escaped for HTML. Used by
 *  filters. */
import { bind } from './arguments.js';
import { compare } from './compare.js';
import { floatText } from './text.js';
import {
  type Arguments,
  Dict,
  fail,
  isList,
  isTrue,
  repeatedText,
  Tuple,
  typeName,
  type Value,
} from './values.js';

interface Style {
  readonly isAscii: boolean;
  readonly indent: string | null;
  readonly between: string;
  readonly afterKey: string;
  readonly sortsKeys: boolean;
}

export function toJson(value: Value, given: Arguments): string {
  const [isAscii = false, indent = null, separators = null, sortKeys = false] = bind('tojson', given, [
    ...['ensure_ascii', 'indent', 'separators', 'sort_keys'],
  ]);
  const step =
    typeof indent === 'string'
      ? indent
      : indent === null
        ? null
        : repeatedText(' ', Math.max(0, Math.floor(Number(indent)) || 0));
  const [between, afterKey] =
    separators instanceof Tuple ? separators.items : isList(separators) ? separators : [];
  return write(
    value,
    {
      isAscii: isTrue(isAscii),
      indent: step,
      between: typeof between === 'string' ? between : step === null ? ', ' : ',',
      afterKey: typeof afterKey === 'string' ? afterKey : ': ',
      sortsKeys: isTrue(sortKeys),
    },
    '\n',
  );
}

function write(value: Value, style: Style, line: string): string {
  if (value === null || typeof value === 'boolean' || typeof value === 'bigint') return String(value);
  if (typeof value === 'number') return number(value);
  if (typeof value === 'string') return quoted(value, style.isAscii);
  const inner = style.indent === null ? line : line + style.indent;
  const body = (open: string, close: string, parts: readonly string[]) => {
    if (parts.length === 0) return open + close;
    if (style.indent === null) return open + parts.join(style.between) + close;
    return open + inner + parts.join(style.between + inner) + line + close;
  };
  const items = isList(value) ? value : value instanceof Tuple ? value.items : null;
  if (items !== null)
    return body(
      '[',
      ']',
      items.map((item) => write(item, style, inner)),
    );
  if (!(value instanceof Dict)) return fail(`Object of type ${typeName(value)} is not JSON serializable`);
  const entries = style.sortsKeys ? value.entries().sort(([a], [b]) => compare(a, b)) : value.entries();
  const parts = entries.map(
    ([key, item]) => quoted(keyText(key), style.isAscii) + style.afterKey + write(item, style, inner),
  );
  return body('{', '}', parts);
}

function number(value: number): string {
  if (Number.isNaN(value)) return 'NaN';
  return Number.isFinite(value) ? floatText(value) : value > 0 ? 'Infinity' : '-Infinity';
}

function keyText(key: Value): string {
  if (typeof key === 'string') return key;
  if (typeof key === 'number') return number(key);
  if (key === null || typeof key === 'boolean' || typeof key === 'bigint') return String(key);
  return fail(`keys must be str, int, float, bool or None, not ${typeName(key)}`);
}

/** JSON.stringify escapes what Python does; a lone surrogate alike. */
function quoted(text: string, isAscii: boolean): string {
  const json = JSON.stringify(text);
  if (!isAscii) return json;
  return json.replace(/[\x7f-\uffff]/g, (unit) =>
    unit === '\x7f' ? unit : `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}
