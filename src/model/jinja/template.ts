/** A chat template as Hugging Face transformers sets up Python's jinja2: its sandbox, trim_blocks and
 *  lstrip_blocks, break and continue, the generation tag, raise_exception, strftime_now and a `tojson` that
 *  escapes nothing. Used by chat-template.ts. The invariant: the text is jinja2's, to the byte;
 *  test/fixtures/jinja holds what Python made. Nothing here bounds time: callers do. */
import { type ContentFormat, contentFormatOf } from './content-format.js';
import { globals } from './globals.js';
import type { Statement } from './nodes.js';
import { parse } from './parser.js';
import { Renderer } from './render.js';
import { Scope } from './scope.js';
import { fromJs } from './values.js';

export class Template {
  readonly source: string;
  readonly contentFormat: ContentFormat;
  readonly #body: readonly Statement[];

  /** @throws TemplateError for a template that does not parse. */
  constructor(source: string) {
    this.source = source;
    this.#body = parse(source);
    this.contentFormat = contentFormatOf(this.#body);
  }

  /** @throws TemplateError for what Python's jinja2 refuses, and for what the template itself raises. */
  render(context: Readonly<Record<string, unknown>>, now: () => Date): string {
    const scope = new Scope(null);
    for (const [name, value] of globals(now)) scope.set(name, value);
    const inner = new Scope(scope);
    for (const [name, value] of Object.entries(context)) inner.set(name, fromJs(value));
    return new Renderer().render(this.#body, inner);
  }
}
