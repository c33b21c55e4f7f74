/** What a template is given (texts or parts) and how a last message is continued, as vLLM and transformers do
 *  it. */
import { describe, expect, it } from 'vitest';
import { InvalidRequestError } from '../../src/base/errors.js';
import { ChatTemplate, type RenderOptions, type TemplateMessage } from '../../src/model/chat-template.js';
import { Template } from '../../src/model/jinja/template.js';

function render(
  template: string,
  messages: readonly TemplateMessage[],
  options: Partial<RenderOptions> = {},
): string {
  const templates = new Map([['default', new Template(template)]]);
  return new ChatTemplate(templates, {}).render(messages, { addGenerationPrompt: false, ...options });
}

const parts = [
  { type: 'text', text: 'a' },
  { type: 'text', text: 'b' },
] as const;
const takesText = '{% for m in messages %}{{ m.content }}{% endfor %}';
const takesParts =
  "{% for m in messages %}{% for part in m['content'] %}[{{ part['text'] }}]{% endfor %}{% endfor %}";
const takesEither =
  '{% for m in messages %}{% set content = m.content %}{% if content is string %}{{ content }}' +
  '{% else %}{% for part in content %}[{{ part.text }}]{% endfor %}{% endif %}{% endfor %}';

describe('content', () => {
  it.each([
    ['string', takesText, 'x', 'x'],
    ['string', takesText, parts, 'a\nb'],
    ['parts', takesParts, 'x', '[x]'],
    ['parts', takesParts, parts, '[a][b]'],
    ['either', takesEither, 'x', 'x'],
    ['either', takesEither, parts, '[a][b]'],
  ] as const)('a template that takes %s', (format, template, content, text) => {
    expect(new Template(template).contentFormat).toBe(format);
    expect(render(template, [{ role: 'user', content }])).toBe(text);
  });

  it.each([
    [
      "{% for m in messages %}{% for c in m.content | selectattr('type', 'equalto', 'text') %}{% endfor %}{% endfor %}",
      'parts',
    ],
    ['{% for m in messages %}{% for c in m.content[1:] %}{% endfor %}{% endfor %}', 'parts'],
    ['{% macro show(content) %}{% for c in content %}{% endfor %}{% endmacro %}', 'parts'],
    ["{% for m in messages %}{% for l in m.content.split('x') %}{% endfor %}{% endfor %}", 'string'],
    [
      '{% for m in messages %}{% for call in m.tool_calls %}{% endfor %}{{ m.content }}{% endfor %}',
      'string',
    ],
  ])('%s: %s', (template, format) => expect(new Template(template).contentFormat).toBe(format));
});

describe('continue_final_message', () => {
  const template = '{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}';
  const trims = '{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>{% endfor %}';
  const chat = (content: TemplateMessage['content']): TemplateMessage[] => [
    { role: 'user', content: 'Hi' },
    { role: 'assistant', ...(content === undefined ? {} : { content }) },
  ];
  const continued = { continueFinalMessage: true };

  it('ends where the last message does', () => {
    expect(render(template, chat('So'), continued)).toBe('<user>Hi</><assistant>So');
    expect(render(template, chat('So '), continued)).toBe('<user>Hi</><assistant>So ');
    expect(render(trims, chat('So '), continued)).toBe('<user>Hi</><assistant>So');
    expect(render(template, chat('Hi'), continued)).toBe('<user>Hi</><assistant>Hi');
    expect(render(template, chat(parts), continued)).toBe('<user>Hi</><assistant>a\nb');
  });

  it('refuses what is not there to continue', () => {
    expect(() => render('{{ messages[0].content }}', chat('So'), continued)).toThrow(InvalidRequestError);
    expect(() => render('{{ messages[0].content }}', chat('So'), continued)).toThrow(/does not appear/);
    expect(() => render(template, chat(undefined), continued)).toThrow(/no text/);
  });
});
