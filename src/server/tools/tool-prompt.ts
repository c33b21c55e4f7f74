/** Tools for a model whose chat template takes none: they are described to it in a system message. Used by
 *  chat-prompt.ts. */
import type { TemplateMessage } from '../../model/chat-template.js';
import type { ToolDefinition } from './tool-fields.js';

export function withToolPrompt(
  messages: readonly TemplateMessage[],
  tools: readonly ToolDefinition[],
): readonly TemplateMessage[] {
  const described = tools.map((tool) => JSON.stringify(tool)).join('\n');
  const text =
    `You may call functions. They are described in JSON:\n${described}\n` +
    'To call one, write <tool_call>\n{"name": NAME, "arguments": {…}}\n</tool_call> and nothing after it.';
  const [first, ...rest] = messages.map(asText);
  if (first?.role !== 'system') return [{ role: 'system', content: text }, ...messages.map(asText)];
  return [{ ...first, content: `${String(first.content)}\n\n${text}` }, ...rest];
}

/** Such a template knows no calls and no results either. */
function asText(message: TemplateMessage): TemplateMessage {
  const { tool_calls: calls, ...rest } = message;
  const content = typeof rest.content === 'string' ? rest.content : '';
  if (message.role === 'tool')
    return { role: 'user', content: `<tool_response>\n${content}\n</tool_response>` };
  if (!Array.isArray(calls) || calls.length === 0) return rest;
  const written = calls.map(
    ({ function: one }: { function: unknown }) => `<tool_call>\n${JSON.stringify(one)}\n</tool_call>`,
  );
  return { ...rest, content: [content, ...written].filter((part) => part !== '').join('\n') };
}
