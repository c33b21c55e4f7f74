/** Chat messages to the prompt text a model was trained on, by the Jinja template its folder brings. Used by
 *  server/, on a thread of its own: a template is a program and may run for ever. The globals are
 *  transformers': messages, tools, add_generation_prompt, the special tokens by name, raise_exception,
 *  strftime_now. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { localDate, systemClock } from '../base/clock.js';
import { InvalidRequestError, ModelError, messageOf } from '../base/errors.js';
import { Template } from './jinja/template.js';
import {
  isJsonObject,
  type JsonObject,
  type JsonValue,
  readJsonObject,
  readOptionalJsonObject,
  readText,
} from './json-file.js';
import { readModelDocument } from './model-files.js';

interface TextPart {
  readonly type: 'text';
  readonly text: string;
}

export interface TemplateMessage {
  readonly role: string;
  /** Text, parts, or nothing: given to the template in the form that it takes. */
  readonly content?: string | readonly TextPart[] | null;
  readonly [field: string]: unknown;
}

export interface RenderOptions {
  /** Whether the text ends where the assistant's answer begins. */
  readonly addGenerationPrompt: boolean;
  /** Whether the text ends where the last message's content does, for an answer that goes on from there. */
  readonly continueFinalMessage?: boolean;
  readonly tools?: readonly unknown[];
  /** More variables for the template, such as `enable_thinking`. */
  readonly extra?: Readonly<Record<string, unknown>>;
}

export class ChatTemplate {
  readonly #templates: ReadonlyMap<string, Template>;
  readonly #specialTokens: Readonly<Record<string, string>>;

  constructor(templates: ReadonlyMap<string, Template>, specialTokens: Readonly<Record<string, string>>) {
    this.#templates = templates;
    this.#specialTokens = specialTokens;
  }

  /** Of all its templates: what a model writes is seen from what it is shown. */
  get source(): string {
    return [...this.#templates.values()].map(({ source }) => source).join('\n');
  }

  /** @throws InvalidRequestError when the template refuses these messages (unknown role, wrong order, …). */
  render(messages: readonly TemplateMessage[], options: RenderOptions): string {
    const template = this.#choose(options.tools);
    const variables = {
      ...this.#specialTokens,
      ...options.extra,
      messages: messages.map((message) => inFormat(message, template)),
      tools: options.tools ?? null,
      add_generation_prompt: options.addGenerationPrompt,
    };
    const text = rendered(template, variables);
    return options.continueFinalMessage === true ? continued(text, messages.at(-1)) : text;
  }

  /** As transformers: of several templates, `tool_use` when tools are given, else `default`. */
  #choose(tools: readonly unknown[] | undefined): Template {
    const template =
      (tools === undefined ? undefined : this.#templates.get('tool_use')) ?? this.#templates.get('default');
    if (template !== undefined) return template;
    const names = [...this.#templates.keys()].join(', ');
    throw new InvalidRequestError(`the model's chat templates (${names}) have no "default" one`, 'messages');
  }
}

function rendered(template: Template, variables: Readonly<Record<string, unknown>>): string {
  try {
    return template.render(variables, () => localDate(systemClock));
  } catch (error) {
    throw new InvalidRequestError(
      `the model's chat template refuses these messages: ${messageOf(error)}`,
      'messages',
    );
  }
}

/** As vLLM: parts become one text for a template that takes texts, and a text one part for a template that
 *  takes parts. */
function inFormat(message: TemplateMessage, { contentFormat }: Template): TemplateMessage {
  const { content } = message;
  if (content === undefined || content === null || contentFormat === 'either') return message;
  if (contentFormat === 'string')
    return typeof content === 'string' ? message : { ...message, content: joinedText(content) };
  return typeof content === 'string' ? { ...message, content: [{ type: 'text', text: content }] } : message;
}

/** Text parts are joined by a line break, as vLLM does for templates that take strings. */
export function joinedText(content: string | readonly TextPart[] | null | undefined): string {
  if (typeof content === 'string') return content;
  return (content ?? []).map((part) => part.text).join('\n');
}

/** As transformers' continue_final_message: cut behind the last message's content; what the template trims
 *  off it stays off. */
function continued(text: string, last: TemplateMessage | undefined): string {
  const content = typeof last?.content === 'string' ? last.content : last?.content?.at(-1)?.text;
  if (content === undefined)
    throw new InvalidRequestError('continue_final_message: the last message has no text', 'messages');
  const trimmed = content.trim();
  const start = text.lastIndexOf(trimmed);
  if (start < 0) {
    throw new InvalidRequestError(
      'continue_final_message: the last message does not appear in the text that the chat template makes',
      'messages',
    );
  }
  const whole = content.trimStart();
  return text.slice(
    0,
    start + (text.slice(start, start + whole.length) === content ? whole.length : trimmed.length),
  );
}

/** @throws ModelError when the folder has no template or one that does not parse. */
export function loadChatTemplate(folder: string): ChatTemplate {
  const template = findChatTemplate(folder);
  if (template !== null) return template;
  throw new ModelError(
    `${folder}: no chat template (neither chat_template.jinja nor "chat_template" in tokenizer_config.json or the GGUF file). ` +
      'This is a base model: use completions instead of chat, or put a template into chat_template.jinja',
  );
}

/** As loadChatTemplate, but null when the folder has no template. */
export function findChatTemplate(folder: string): ChatTemplate | null {
  const { file: configFile, values } = readModelDocument(folder, 'tokenizer_config.json');
  const config = values ?? {};
  const sources = findSources(folder, configFile, config);
  if (sources.length === 0) return null;
  const templates = new Map(sources.map(({ name, file, text }) => [name, parseTemplate(file, text)]));
  return new ChatTemplate(templates, readSpecialTokens(folder, config));
}

interface TemplateSource {
  readonly name: string;
  readonly file: string;
  readonly text: string;
}

/** A file of its own comes before the config's field, as in transformers. */
function findSources(folder: string, configFile: string, config: JsonObject): readonly TemplateSource[] {
  const file = path.join(folder, 'chat_template.jinja');
  if (existsSync(file)) return [{ name: 'default', file, text: readText(file) }];
  const jsonFile = path.join(folder, 'chat_template.json');
  const value = existsSync(jsonFile) ? readJsonObject(jsonFile).chat_template : config.chat_template;
  if (value === undefined || value === null) return [];
  if (typeof value === 'string') return [{ name: 'default', file: configFile, text: value }];
  if (Array.isArray(value))
    return (value as readonly JsonValue[]).map((entry) => namedSource(configFile, entry));
  throw new ModelError(`${configFile}: "chat_template" must be a string or a list of named templates`);
}

function namedSource(file: string, entry: JsonValue): TemplateSource {
  if (isJsonObject(entry) && typeof entry.name === 'string' && typeof entry.template === 'string') {
    return { name: entry.name, file, text: entry.template };
  }
  throw new ModelError(`${file}: each entry of "chat_template" needs a name and a template`);
}

function parseTemplate(file: string, text: string): Template {
  try {
    return new Template(text);
  } catch (error) {
    throw new ModelError(`${file}: the chat template does not parse: ${messageOf(error)}`, error);
  }
}

/** bos_token, eos_token, …: a string or an object with `content`. */
function readSpecialTokens(folder: string, config: JsonObject): Readonly<Record<string, string>> {
  const map = readOptionalJsonObject(path.join(folder, 'special_tokens_map.json')) ?? {};
  const tokens: Record<string, string> = {};
  for (const [name, value] of [...Object.entries(map), ...Object.entries(config)]) {
    if (!/^[a-z]+_token$/.test(name)) continue;
    const content = isJsonObject(value) ? value.content : value;
    if (typeof content === 'string') tokens[name] = content;
  }
  return tokens;
}
