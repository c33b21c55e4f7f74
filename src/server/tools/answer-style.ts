/** How the served model's answers are read: its calls of tools and its reasoning. Set by
 *  --tool-call-parser and --reasoning-parser, else seen from its chat template. Made by served-model.ts. */
import type { Shape } from '../../grammar/shapes.js';
import { type PartReader, plainReader } from './answer-parts.js';
import { ThinkReader } from './think-reader.js';
import { type ToolFormat, type ToolParserName, toolFormats, toolParserOf } from './tool-formats.js';

export const reasoningParserNames = ['think', 'openai', 'none'] as const;
export type ReasoningParserName = (typeof reasoningParserNames)[number];

export interface AnswerStyle {
  readonly toolParser: ToolParserName;
  readonly reasoningParser: ReasoningParserName;
  /** Its template shows tools to the model. */
  readonly takesTools: boolean;
}

/** Of a model without a chat template, and where nothing is said. */
export const plainStyle: AnswerStyle = { toolParser: 'hermes', reasoningParser: 'none', takesTools: false };

export function answerStyleOf(
  template: string | null,
  given: {
    readonly toolParser?: ToolParserName | undefined;
    readonly reasoningParser?: ReasoningParserName | undefined;
  },
): AnswerStyle {
  const toolParser = given.toolParser ?? (template === null ? 'hermes' : toolParserOf(template));
  const seen =
    toolParser === 'openai' ? 'openai' : template?.includes('</think>') === true ? 'think' : 'none';
  return {
    toolParser,
    reasoningParser: given.reasoningParser ?? seen,
    takesTools: template !== null && /\btools\b/.test(template),
  };
}

/** Where an answer begins, as the end of the prompt says. */
export type ThinkStart = 'inside' | 'open' | 'closed';

export function thinkStartOf(promptEnd: string): ThinkStart {
  const end = promptEnd.trimEnd();
  if (end.endsWith('<think>')) return 'inside';
  return end.endsWith('</think>') ? 'closed' : 'open';
}

/** Of one choice. `hasTools`: calls may come. */
export function readerOf(
  { toolParser, reasoningParser }: AnswerStyle,
  hasTools: boolean,
  start: ThinkStart,
): PartReader {
  if (reasoningParser === 'openai') return toolFormats.openai.reader();
  const rest = hasTools ? toolFormats[toolParser].reader() : plainReader;
  return reasoningParser === 'think' && start !== 'closed' ? new ThinkReader(rest, start === 'inside') : rest;
}

/** Whether special tokens are part of what is read. */
export function readsSpecial({ toolParser, reasoningParser }: AnswerStyle, hasTools: boolean): boolean {
  return reasoningParser === 'openai' || (hasTools && toolFormats[toolParser].hasSpecialMarkers);
}

export function formatOf({ toolParser }: AnswerStyle): ToolFormat {
  return toolFormats[toolParser];
}

/** A shape after the reasoning that comes before it. Calls of gpt-oss have theirs already. */
export function withReasoning(
  shape: Shape,
  { reasoningParser }: AnswerStyle,
  start: ThinkStart,
  isCalls: boolean,
): Shape {
  const text = (value: string): Shape => ({ kind: 'text', text: value });
  if (reasoningParser === 'openai') {
    if (isCalls) return shape;
    const special = (value: string): Shape => ({ kind: 'marker', text: value });
    const message = (channel: string, content: Shape): Shape[] => [
      special('<|channel|>'),
      text(channel),
      special('<|message|>'),
      content,
    ];
    const analysis: Shape = {
      kind: 'sequence',
      items: [
        ...message('analysis', { kind: 'free', stops: [] }),
        special('<|end|>'),
        special('<|start|>'),
        text('assistant'),
      ],
    };
    return {
      kind: 'sequence',
      items: [{ kind: 'repeat', item: analysis, min: 0, max: 1 }, ...message('final', shape)],
    };
  }
  if (reasoningParser !== 'think' || start === 'closed') return shape;
  const gap: Shape = { kind: 'regex', pattern: '\\n{0,2}' };
  const thought: Shape = {
    kind: 'sequence',
    items: [{ kind: 'free', stops: ['</think>'] }, text('</think>'), gap, shape],
  };
  if (start === 'inside') return thought;
  return { kind: 'choice', items: [shape, { kind: 'sequence', items: [text('<think>'), thought] }] };
}
