/** What a text thread is asked and answers, and how a job is done. Used by text-thread-entry.ts on the
 *  thread, by text-service.ts and text-thread.ts beside it. Everything here is plain data for postMessage. */
import { ContextLengthError, InvalidRequestError, toWire, type WireError } from '../base/errors.js';
import type { TokenId } from '../base/ids.js';
import { packShape, type Shape } from '../grammar/shapes.js';
import {
  type ChatTemplate,
  findChatTemplate,
  type RenderOptions,
  type TemplateMessage,
} from '../model/chat-template.js';
import { type PackedTokens, packTokens } from '../model/detokenizer.js';
import { type EncodeOptions, loadTokenizer, type Tokenizer } from '../model/tokenizer.js';

export interface Chat {
  readonly messages: readonly TemplateMessage[];
  readonly options: RenderOptions;
}

export type TextJob =
  | { readonly kind: 'encode'; readonly texts: readonly string[]; readonly options: EncodeOptions }
  /** `unitCountMax`: a rendered text that is longer is refused before it is tokenised. */
  | {
      readonly kind: 'chat';
      readonly chat: Chat;
      readonly options: EncodeOptions;
      readonly unitCountMax: number;
    }
  | { readonly kind: 'decode'; readonly ids: readonly Int32Array[] }
  /** `param`: the field that the shape came in. */
  | { readonly kind: 'shape'; readonly shape: Shape; readonly param: string };

export type TextAnswer =
  | { readonly kind: 'ids'; readonly ids: readonly Int32Array[] }
  | { readonly kind: 'texts'; readonly texts: readonly string[] }
  | { readonly kind: 'grammar'; readonly grammar: string }
  | { readonly kind: 'error'; readonly error: WireError };

/** The first thing a thread says. */
export type LoadAnswer =
  | {
      readonly kind: 'loaded';
      readonly tokens: PackedTokens;
      /** null: the model has no chat template. */
      readonly templateSource: string | null;
      readonly endTokenId: TokenId | null;
    }
  | { readonly kind: 'error'; readonly error: WireError };

export interface LoadedText {
  readonly tokenizer: Tokenizer;
  /** null: the model has none. */
  readonly chatTemplate: ChatTemplate | null;
}

/** @throws ModelError for a tokenizer or template that cannot be used. */
export function loadText(folder: string): LoadedText {
  return { tokenizer: loadTokenizer(folder), chatTemplate: findChatTemplate(folder) };
}

export function loadAnswer({ tokenizer, chatTemplate }: LoadedText): LoadAnswer {
  const { table, endTokenId } = tokenizer;
  return {
    kind: 'loaded',
    tokens: packTokens(table),
    templateSource: chatTemplate?.source ?? null,
    endTokenId,
  };
}

export function runJob(text: LoadedText, job: TextJob): TextAnswer {
  try {
    if (job.kind === 'shape') return { kind: 'grammar', grammar: packShape(job.shape, job.param) };
    if (job.kind === 'decode')
      return { kind: 'texts', texts: job.ids.map((ids) => decoded(text.tokenizer, ids)) };
    const texts = job.kind === 'encode' ? job.texts : [chatText(text, job.chat, job.unitCountMax)];
    return { kind: 'ids', ids: texts.map((one) => Int32Array.from(text.tokenizer.encode(one, job.options))) };
  } catch (error) {
    return { kind: 'error', error: toWire(error) };
  }
}

/** Of a text, which is one string. */
const textBytesMax = 2 ** 25;

function decoded(tokenizer: Tokenizer, ids: Int32Array): string {
  const byteCount = ids.reduce((sum, id) => sum + tokenizer.table.bytes(id).length, 0);
  if (byteCount > textBytesMax) {
    const message = `tokens: they are a text of ${byteCount} bytes, and ${textBytesMax} are the limit`;
    throw new InvalidRequestError(message, 'tokens');
  }
  return tokenizer.decode([...ids], { special: 'keep' });
}

function chatText({ chatTemplate }: LoadedText, chat: Chat, unitCountMax: number): string {
  if (chatTemplate === null)
    throw new InvalidRequestError('messages: this model has no chat template', 'messages');
  const text = chatTemplate.render(chat.messages, chat.options);
  if (text.length <= unitCountMax) return text;
  throw new ContextLengthError(
    `messages: a prompt of ${text.length} characters cannot fit this model's context`,
    'messages',
  );
}

/** The size of a job: how long it may take, and where it queues. */
export function unitCountOf(job: TextJob): number {
  if (job.kind === 'encode') return sum(job.texts.map((text) => text.length));
  if (job.kind === 'decode') return sum(job.ids.map((ids) => ids.length));
  return textUnitCount(job.kind === 'chat' ? job.chat : job.shape);
}

/** Everything goes to the template, whichever field it came in. The values are a JSON body's: no deeper than
 *  its reader allows. */
function textUnitCount(value: unknown): number {
  if (typeof value === 'string') return value.length;
  if (typeof value !== 'object' || value === null) return 0;
  return Object.entries(value).reduce((total, [key, item]) => total + key.length + textUnitCount(item), 0);
}

const sum = (counts: readonly number[]) => counts.reduce((total, count) => total + count, 0);
