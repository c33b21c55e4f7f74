/** One choice's text as OpenAI's messages and deltas have it: content, reasoning_content, tool_calls. Used
 *  by chat-format.ts. */
import { freshId } from '../../base/prng.js';
import type { ChatDelta, ToolCall, ToolCallDelta } from '../api-types.js';
import type { AnswerPart, PartReader } from './answer-parts.js';
import type { ToolUse } from './tool-fields.js';

type CallPart = Extract<AnswerPart, { kind: 'call' }>;

export class ChoiceReader {
  readonly #reader: PartReader;
  readonly #toolUse: ToolUse | null;
  readonly #hasReasoning: boolean;
  #callCount = 0;

  constructor(reader: PartReader, toolUse: ToolUse | null, hasReasoning: boolean) {
    this.#reader = reader;
    this.#toolUse = toolUse;
    this.#hasReasoning = hasReasoning;
  }

  push(text: string, isEnd: boolean): readonly AnswerPart[] {
    const parts = [...this.#reader.push(text), ...(isEnd ? this.#reader.end() : [])];
    return parts.filter((part) => {
      if (part.kind === 'reasoning') return this.#hasReasoning;
      if (part.kind !== 'call') return true;
      if (part.index >= (this.#toolUse?.countMax ?? Number.POSITIVE_INFINITY)) return false;
      this.#callCount = Math.max(this.#callCount, part.index + 1);
      return true;
    });
  }

  /** As OpenAI: a function that was named is called, and the answer has just stopped. */
  finishReason(reason: 'stop' | 'length'): 'stop' | 'length' | 'tool_calls' {
    const isNamed = typeof this.#toolUse?.choice === 'object';
    return reason === 'stop' && this.#callCount > 0 && !isNamed ? 'tool_calls' : reason;
  }
}

const joined = (parts: readonly AnswerPart[], kind: 'content' | 'reasoning') =>
  parts.flatMap((part) => (part.kind === kind ? [part.text] : [])).join('');

export function deltaOf(parts: readonly AnswerPart[]): ChatDelta {
  const [content, reasoning] = [joined(parts, 'content'), joined(parts, 'reasoning')];
  const calls = callsOf(parts).map(({ index, name, text }): ToolCallDelta => {
    if (name === undefined) return { index, function: { arguments: text } };
    return { index, id: callId(), type: 'function', function: { name, arguments: text } };
  });
  return {
    ...(content === '' ? {} : { content }),
    ...(reasoning === '' ? {} : { reasoning_content: reasoning }),
    ...(calls.length === 0 ? {} : { tool_calls: calls }),
  };
}

export function messageOf(parts: readonly AnswerPart[]): {
  content?: string;
  reasoning_content?: string;
  tool_calls?: readonly ToolCall[];
} {
  const { content, reasoning_content } = deltaOf(parts.filter(({ kind }) => kind !== 'call'));
  const calls = callsOf(parts).map(({ name = '', text }): ToolCall => {
    return { id: callId(), type: 'function', function: { name, arguments: text } };
  });
  return {
    ...(content === undefined ? {} : { content }),
    ...(reasoning_content === undefined ? {} : { reasoning_content }),
    ...(calls.length === 0 ? {} : { tool_calls: calls }),
  };
}

/** Pieces of one call as one. */
function callsOf(parts: readonly AnswerPart[]): readonly CallPart[] {
  const calls = new Map<number, CallPart>();
  for (const part of parts) {
    if (part.kind !== 'call') continue;
    const known = calls.get(part.index);
    calls.set(part.index, known === undefined ? part : { ...known, text: known.text + part.text });
  }
  return [...calls.values()];
}

/** Nine letters and digits are what Mistral's templates take. */
function callId(): string {
  return freshId('call').replace('call-', '').slice(0, 9);
}
