/** The fields of tools in a chat request, and what they mean together. Used by chat.ts. */
import { z } from 'zod';
import { InvalidRequestError } from '../../base/errors.js';
import type { Shape } from '../../grammar/shapes.js';
import { listOf } from '../request-fields.js';
import type { ToolFormat } from './tool-formats.js';

const functionName = z
  .string()
  .regex(/^[A-Za-z0-9_.:-]{1,64}$/, 'expected up to 64 letters, digits, "_", "-", "." or ":"');
const toolSchema = z.object({
  type: z.literal('function', 'only tools of type "function" are supported'),
  function: z.object({
    name: functionName,
    description: z.string().nullish(),
    parameters: z.unknown().optional(),
    strict: z.boolean().nullish(),
  }),
});

export const toolFields = {
  tools: listOf(toolSchema, { countMax: 128 }).nullish(),
  tool_choice: z
    .union(
      [
        z.enum(['none', 'auto', 'required']),
        z.object({ type: z.literal('function'), function: z.object({ name: z.string() }) }),
      ],
      { error: 'expected "none", "auto", "required" or {"type": "function", "function": {"name": …}}' },
    )
    .nullish(),
  parallel_tool_calls: z.boolean().nullish(),
};

type ToolBody = z.output<z.ZodObject<typeof toolFields>>;
export type ToolDefinition = z.output<typeof toolSchema>;

export interface ToolUse {
  readonly tools: readonly ToolDefinition[];
  /** named: one call of that function, and the answer ends as any other does. */
  readonly choice: 'auto' | 'required' | { readonly name: string };
  readonly countMax: number | null;
}

/** null: none may be called. @throws InvalidRequestError for a choice without its tool. */
export function toolUseOf({
  tools,
  tool_choice: choice,
  parallel_tool_calls: parallel,
}: ToolBody): ToolUse | null {
  if (choice === 'none') return null;
  if (tools === null || tools === undefined || tools.length === 0) {
    if (choice === null || choice === undefined || choice === 'auto') return null;
    throw new InvalidRequestError('tool_choice: needs "tools"', 'tool_choice');
  }
  const names = tools.map((tool) => tool.function.name);
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) throw new InvalidRequestError(`tools: "${twice}" is there twice`, 'tools');
  const countMax = parallel === false ? 1 : null;
  if (typeof choice !== 'object' || choice === null)
    return { tools, choice: choice === 'required' ? 'required' : 'auto', countMax };
  const { name } = choice.function;
  if (!names.includes(name))
    throw new InvalidRequestError(`tool_choice: there is no tool "${name}"`, 'tool_choice');
  return { tools, choice: { name }, countMax: 1 };
}

const anyObject = { type: 'object' };

/** What calls look like; null: the model is free to call or not, and as it likes. `isAlternative`: to
 *  another shape. */
export function toolShape(
  { tools, choice, countMax }: ToolUse,
  format: ToolFormat,
  isAlternative: boolean,
): Shape | null {
  const callable = ({ function: one }: ToolDefinition) => ({
    name: one.name,
    arguments: {
      kind: 'schema' as const,
      schema: one.parameters ?? { type: 'object', properties: {} },
      ...(one.strict === true ? {} : { fallback: anyObject }),
    },
  });
  if (typeof choice === 'object')
    return format.calls(tools.filter((tool) => tool.function.name === choice.name).map(callable), 1);
  if (choice === 'required' || isAlternative) return format.calls(tools.map(callable), countMax);
  const { trigger } = format;
  if (trigger === null || !tools.some((tool) => tool.function.strict === true)) return null;
  const free: Shape = { kind: 'free', stops: [trigger] };
  const calls = format.calls(tools.map(callable), countMax);
  return { kind: 'sequence', items: [free, { kind: 'repeat', item: calls, min: 0, max: 1 }] };
}
