/** How models write calls of tools, by the names that vLLM has for them: the grammar of such calls, and
 *  the reader that finds them in a text. Which one a model uses is seen from its chat template. */
import type { Shape } from '../../grammar/shapes.js';
import type { PartReader } from './answer-parts.js';
import { CallReader, type CallSyntax } from './call-reader.js';
import { HarmonyReader } from './harmony-reader.js';
import { PythonicReader } from './pythonic-reader.js';

export const toolParserNames = [
  'hermes',
  'llama3_json',
  'mistral',
  'deepseek_v3',
  'deepseek_v31',
  'openai',
  'pythonic',
] as const;
export type ToolParserName = (typeof toolParserNames)[number];

/** A function that may be called; `arguments`: what its arguments must be. */
interface CallableTool {
  readonly name: string;
  readonly arguments: Shape;
}

export interface ToolFormat {
  /** The markers are special tokens, which are else left out of texts. */
  readonly hasSpecialMarkers: boolean;
  /** What begins calls within other text; null: a text is calls from its beginning, or none. */
  readonly trigger: string | null;
  /** Calls of these functions and nothing else: at least one. */
  calls(tools: readonly CallableTool[], countMax: number | null): Shape;
  reader(): PartReader;
}

const text = (value: string): Shape => ({ kind: 'text', text: value });
const marker = (value: string): Shape => ({ kind: 'marker', text: value });
const all = (...items: Shape[]): Shape => ({ kind: 'sequence', items });
const oneOf = (items: readonly Shape[]): Shape => ({ kind: 'choice', items });
const separated = (item: Shape, separator: Shape, countMax: number | null): Shape =>
  all(item, {
    kind: 'repeat',
    item: all(separator, item),
    min: 0,
    max: countMax === null ? null : countMax - 1,
  });

const named = String.raw`"name"\s*:\s*(?<name>"(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=[{[])`;
const objectOf = (tool: CallableTool, key: string): Shape =>
  all(text(`{"name": ${JSON.stringify(tool.name)}, "${key}": `), tool.arguments, text('}'));

function withSyntax(syntax: CallSyntax, hasSpecialMarkers: boolean, calls: ToolFormat['calls']): ToolFormat {
  return { hasSpecialMarkers, trigger: syntax.begin, calls, reader: () => new CallReader(syntax) };
}

const hermes = withSyntax(
  {
    begin: '<tool_call>',
    header: new RegExp(String.raw`^\s*\{\s*${named}`),
    footer: /^\s*\}\s*<\/tool_call>/,
    close: '</tool_call>',
    filling: /^\s*$/,
    follows: false,
  },
  false,
  (tools, countMax) =>
    separated(
      all(
        text('<tool_call>\n'),
        oneOf(tools.map((tool) => objectOf(tool, 'arguments'))),
        text('\n</tool_call>'),
      ),
      text('\n'),
      countMax,
    ),
);

const llama3 = withSyntax(
  {
    begin: null,
    header: new RegExp(String.raw`^\s*;?\s*\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?${named}`),
    footer: /^\s*\}/,
    close: null,
    filling: /^[\s;]*$/,
    follows: true,
  },
  false,
  (tools, countMax) =>
    separated(oneOf(tools.map((tool) => objectOf(tool, 'parameters'))), text('; '), countMax),
);

const mistral = withSyntax(
  {
    begin: '[TOOL_CALLS]',
    header: new RegExp(
      String.raw`^\s*(?:[[,]?\s*\{\s*${named}|(?<name2>[\w.:-]+)\s*(?:\[CALL_ID\]\w*)?\[ARGS\]\s*)`,
    ),
    footer: /^\s*\}?/,
    close: null,
    filling: /^[\s\]},]*$/,
    follows: true,
  },
  true,
  (tools, countMax) =>
    all(
      marker('[TOOL_CALLS]'),
      text('['),
      separated(oneOf(tools.map((tool) => objectOf(tool, 'arguments'))), text(', '), countMax),
      text(']'),
    ),
);

const deepseekMarkers = {
  begin: '<｜tool▁calls▁begin｜>',
  end: '<｜tool▁calls▁end｜>',
  callBegin: '<｜tool▁call▁begin｜>',
  callEnd: '<｜tool▁call▁end｜>',
  separator: '<｜tool▁sep｜>',
} as const;

function deepseek(isFenced: boolean): ToolFormat {
  const { begin, end, callBegin, callEnd, separator } = deepseekMarkers;
  const head = isFenced
    ? `function${separator}(?<name>[^\\n]+)\\n\`\`\`json\\s*`
    : `(?<name>[^<]+?)${separator}\\s*`;
  const syntax: CallSyntax = {
    begin,
    header: new RegExp(`^\\s*${callBegin}${head}(?=[{[])`),
    footer: new RegExp(`^\\s*(?:\`\`\`)?\\s*${callEnd}`),
    close: end,
    filling: /^\s*$/,
    follows: true,
  };
  return withSyntax(syntax, true, (tools, countMax) => {
    const call = (tool: CallableTool) =>
      isFenced
        ? all(
            marker(callBegin),
            text('function'),
            marker(separator),
            text(`${tool.name}\n\`\`\`json\n`),
            tool.arguments,
            text('\n```'),
            marker(callEnd),
          )
        : all(marker(callBegin), text(tool.name), marker(separator), tool.arguments, marker(callEnd));
    return all(
      marker(begin),
      separated(oneOf(tools.map(call)), text(isFenced ? '\n' : ''), countMax),
      marker(end),
    );
  });
}

/** A call ends the answer: its marker is one of the model's end tokens. So there is one at a time. */
const harmony: ToolFormat = {
  hasSpecialMarkers: true,
  trigger: null,
  reader: () => new HarmonyReader(),
  calls: (tools) => {
    const analysis = all(
      marker('<|channel|>'),
      text('analysis'),
      marker('<|message|>'),
      { kind: 'free', stops: [] },
      marker('<|end|>'),
      marker('<|start|>'),
      text('assistant'),
    );
    const call = (tool: CallableTool) =>
      all(
        marker('<|channel|>'),
        text(`commentary to=functions.${tool.name} `),
        marker('<|constrain|>'),
        text('json'),
        marker('<|message|>'),
        tool.arguments,
      );
    return all({ kind: 'repeat', item: analysis, min: 0, max: 1 }, oneOf(tools.map(call)));
  },
};

/** Arguments are written as Python's own: their grammar is not the schema's, so any literal may stand
 *  there. */
const pythonic: ToolFormat = {
  hasSpecialMarkers: false,
  trigger: null,
  reader: () => new PythonicReader(),
  calls: (tools, countMax) => {
    const literal = String.raw`(?:"[^"\\\n]{0,200}"|-?\d{1,15}(?:\.\d{1,9})?|True|False|None)`;
    const kwargs: Shape = {
      kind: 'regex',
      pattern: `(?:[a-z_][a-z0-9_]{0,40}=${literal}(?:, [a-z_][a-z0-9_]{0,40}=${literal}){0,15})?`,
    };
    const call = (tool: CallableTool) => all(text(`${tool.name}(`), kwargs, text(')'));
    return all(text('['), separated(oneOf(tools.map(call)), text(', '), countMax), text(']'));
  },
};

export const toolFormats: Readonly<Record<ToolParserName, ToolFormat>> = {
  hermes,
  llama3_json: llama3,
  mistral,
  deepseek_v3: deepseek(true),
  deepseek_v31: deepseek(false),
  openai: harmony,
  pythonic,
};

/** As its template shows them to the model; hermes where it shows none. */
export function toolParserOf(template: string): ToolParserName {
  if (template.includes('<|channel|>')) return 'openai';
  if (template.includes('<tool_call>')) return 'hermes';
  if (template.includes('[TOOL_CALLS]')) return 'mistral';
  if (template.includes('tool▁calls▁begin'))
    return template.includes('```json') ? 'deepseek_v3' : 'deepseek_v31';
  if (/func_name1?\(/.test(template)) return 'pythonic';
  return template.includes('<|python_tag|>') || template.includes('"parameters":') ? 'llama3_json' : 'hermes';
}
