/** Chat messages to the prompt text a model was trained on, by the Jinja template its folder brings. Used by server/ and cli/.
 *  The globals are transformers': messages, tools, add_generation_prompt, the special tokens by name, raise_exception,
 *  strftime_now, and a `tojson` that escapes nothing (the last three come with the library). */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { Template } from '@huggingface/jinja';
import { InvalidRequestError, ModelError, messageOf } from '../base/errors.js';
import { isJsonObject, type JsonObject, type JsonValue, readJsonObject, readOptionalJsonObject, readText } from './json-file.js';

interface ChatMessage {
  readonly role: string;
  /** Text, parts, or nothing (a message that is only tool calls): what the template can take. */
  readonly content?: unknown;
  readonly [field: string]: unknown;
}

interface RenderOptions {
  /** Whether the text ends where the assistant's answer begins. */
  readonly addGenerationPrompt: boolean;
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

  /** @throws InvalidRequestError when the template refuses these messages (unknown role, wrong order, …). */
  render(messages: readonly ChatMessage[], options: RenderOptions): string {
    const template = this.#choose(options.tools);
    try {
      return template.render({
        ...this.#specialTokens,
        ...options.extra,
        messages,
        tools: options.tools ?? null,
        add_generation_prompt: options.addGenerationPrompt,
      });
    } catch (error) {
      throw new InvalidRequestError(`the model's chat template refuses these messages: ${messageOf(error)}`, 'messages');
    }
  }

  /** As transformers: of several templates, `tool_use` when tools are given, else `default`. */
  #choose(tools: readonly unknown[] | undefined): Template {
    const template = (tools === undefined ? undefined : this.#templates.get('tool_use')) ?? this.#templates.get('default');
    if (template !== undefined) return template;
    const names = [...this.#templates.keys()].join(', ');
    throw new InvalidRequestError(`the model's chat templates (${names}) have no "default" one`, 'messages');
  }
}

/** @throws ModelError when the folder has no template or one that does not parse. */
export function loadChatTemplate(folder: string): ChatTemplate {
  const template = findChatTemplate(folder);
  if (template !== null) return template;
  throw new ModelError(
    `${folder}: no chat template (neither chat_template.jinja nor "chat_template" in tokenizer_config.json). ` +
      'This is a base model: use completions instead of chat, or put a template into chat_template.jinja',
  );
}

/** As loadChatTemplate, but null when the folder has no template. */
export function findChatTemplate(folder: string): ChatTemplate | null {
  const configFile = path.join(folder, 'tokenizer_config.json');
  const config = readOptionalJsonObject(configFile) ?? {};
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
  if (Array.isArray(value)) return (value as readonly JsonValue[]).map((entry) => namedSource(configFile, entry));
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
