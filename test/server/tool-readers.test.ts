/** Calls and reasoning as models write them, whole and cut at every place: the parts are the same. */
import { describe, expect, it } from 'vitest';
import type { AnswerPart, PartReader } from '../../src/server/tools/answer-parts.js';
import { answerStyleOf, readerOf, thinkStartOf } from '../../src/server/tools/answer-style.js';
import { messageOf } from '../../src/server/tools/choice-reader.js';
import { type ToolParserName, toolFormats, toolParserOf } from '../../src/server/tools/tool-formats.js';

function read(reader: PartReader, pieces: readonly string[]) {
  const parts: AnswerPart[] = pieces.flatMap((piece) => [...reader.push(piece)]);
  const { tool_calls: calls = [], ...rest } = messageOf([...parts, ...reader.end()]);
  return { ...rest, calls: calls.map(({ function: { name, arguments: given } }) => [name, given] as const) };
}

/** In one piece, in two at every place, and character by character. */
function readEveryWay(newReader: () => PartReader, text: string) {
  const whole = read(newReader(), [text]);
  for (let at = 1; at < text.length; at++)
    expect(read(newReader(), [text.slice(0, at), text.slice(at)])).toEqual(whole);
  expect(read(newReader(), [...text])).toEqual(whole);
  return whole;
}

const cases: readonly (readonly [ToolParserName, string, ReturnType<typeof read>])[] = [
  ['hermes', 'Just text < tool.', { content: 'Just text < tool.', calls: [] }],
  [
    'hermes',
    'Let me look.\n<tool_call>\n{"name": "f", "arguments": {"a": "}<"}}\n</tool_call>\n<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>',
    {
      content: 'Let me look.',
      calls: [
        ['f', '{"a": "}<"}'],
        ['g', '{}'],
      ],
    },
  ],
  ['hermes', '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', { calls: [['f', '{"a":1}']] }],
  [
    'hermes',
    '<tool_call>not json</tool_call> and more',
    { content: '<tool_call>not json and more', calls: [] },
  ],
  [
    'hermes',
    'cut <tool_call>\n{"name": "f", "arguments": {"a": [1,',
    { content: 'cut', calls: [['f', '{"a": [1,']] },
  ],
  ['llama3_json', '{"name": "f", "parameters": {"a": {"b": 1}}}', { calls: [['f', '{"a": {"b": 1}}']] }],
  [
    'llama3_json',
    '{"type": "function", "name": "f", "parameters": {}}; {"name": "g", "parameters": {"x": "\\""}}',
    {
      calls: [
        ['f', '{}'],
        ['g', '{"x": "\\""}'],
      ],
    },
  ],
  [
    'llama3_json',
    'A text with {"name": "f"} in it',
    { content: 'A text with {"name": "f"} in it', calls: [] },
  ],
  [
    'mistral',
    '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]',
    {
      calls: [
        ['f', '{"a": 1}'],
        ['g', '{}'],
      ],
    },
  ],
  ['mistral', 'Hm. [TOOL_CALLS]f[ARGS]{"a": 1}', { content: 'Hm.', calls: [['f', '{"a": 1}']] }],
  [
    'deepseek_v3',
    'ok<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{"a": 1}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    {
      content: 'ok',
      calls: [
        ['f', '{"a": 1}'],
        ['g', '{}'],
      ],
    },
  ],
  [
    'deepseek_v31',
    '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    { calls: [['f', '{"a": 1}']] },
  ],
  [
    'openai',
    '<|channel|>analysis<|message|>Think.<|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}<|call|>',
    { reasoning_content: 'Think.', calls: [['f', '{"a": 1}']] },
  ],
  [
    'openai',
    '<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>Done < here',
    { reasoning_content: 'Hm', content: 'Done < here', calls: [] },
  ],
  [
    'pythonic',
    `[get_weather(city="São \\"P\\"", days=3, ok=True), now(), f(x=[1, 'a'], y={"k": None})]`,
    {
      calls: [
        ['get_weather', '{"city":"São \\"P\\"","days":3,"ok":true}'],
        ['now', '{}'],
        ['f', '{"x":[1,"a"],"y":{"k":null}}'],
      ],
    },
  ],
  ['pythonic', '[1, 2] is a list', { content: '[1, 2] is a list', calls: [] }],
  ['pythonic', '[f(a=]', { content: '[f(a=]', calls: [] }],
];

describe('calls', () => {
  it.each(cases)('%s: %s', (name, text, expected) => {
    expect(readEveryWay(() => toolFormats[name].reader(), text)).toEqual(expected);
  });

  it('are known by the chat template', () => {
    const templates: readonly (readonly [string, ToolParserName])[] = [
      ['{% for tool in tools %}<tool_call>', 'hermes'],
      ['[AVAILABLE_TOOLS] [TOOL_CALLS]', 'mistral'],
      ["'<｜tool▁calls▁begin｜>' ```json", 'deepseek_v3'],
      ["'<｜tool▁calls▁begin｜>' <｜tool▁sep｜>", 'deepseek_v31'],
      ['<|start|>assistant<|channel|>final', 'openai'],
      ['"parameters": dictionary <|python_tag|>', 'llama3_json'],
      ['[func_name1(params_name1=params_value1', 'pythonic'],
      ['{{ messages }}', 'hermes'],
    ];
    for (const [template, name] of templates) expect(toolParserOf(template), template).toBe(name);
  });
});

describe('reasoning', () => {
  const style = answerStyleOf('{{ tools }} <think></think>', {});

  it.each([
    [
      'open',
      '<think>\nHm, 1 < 2.\n</think>\n\nYes.',
      { reasoning_content: 'Hm, 1 < 2.\n', content: 'Yes.', calls: [] },
    ],
    ['open', 'No thought.', { content: 'No thought.', calls: [] }],
    ['inside', 'So.</think>Yes.', { reasoning_content: 'So.', content: 'Yes.', calls: [] }],
    ['inside', 'It never ends </thin', { reasoning_content: 'It never ends </thin', calls: [] }],
    ['closed', '<think> is a word', { content: '<think> is a word', calls: [] }],
    [
      'open',
      '<think>a</think><tool_call>{"name": "f", "arguments": {}}</tool_call>',
      { reasoning_content: 'a', calls: [['f', '{}']] },
    ],
  ] as const)('%s: %s', (start, text, expected) => {
    expect(style).toEqual({ toolParser: 'hermes', reasoningParser: 'think', takesTools: true });
    expect(readEveryWay(() => readerOf(style, true, start), text)).toEqual(expected);
  });

  it('begins where the prompt ends', () => {
    expect(['<think>\n', '<think>\n\n</think>\n\n', 'assistant\n'].map(thinkStartOf)).toEqual([
      'inside',
      'closed',
      'open',
    ]);
  });
});
