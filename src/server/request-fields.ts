/** zod fields that both completion endpoints share. Ranges are OpenAI's and vLLM's; `null` means "not given",
 *  as OpenAI allows. What is named nowhere here is for unknown-fields.ts. */
import { z } from 'zod';
import { sloField } from './request-slo.js';

const stopCountMax = 16;
const tokenIdsMax = 1024;
/** Alternatives per token that a sampling kernel reports (PD_TOP_MAX of native/pd.h). */
export const topLogprobCountMax = 20;

const tokenId = z.int().min(0);
/** 64 bits with a sign. Of what lies beyond 2^53, JSON.parse has kept the leading 53 bits. */
const seed = z
  .number()
  .min(-(2 ** 63))
  .max(2 ** 63)
  .refine(Number.isInteger, 'expected int, received number');

/** What is wrong with a field, and where in it. */
export interface Finding {
  readonly path: readonly PropertyKey[];
  readonly message: string;
}

/** A field that `find` looks at: for lists of any length. zod would go on through all of a list that begins
 *  wrong, and make a finding of each of its items. */
export function checked<Value>(find: (value: unknown) => Finding | null): z.ZodType<Value, Value> {
  return z.custom<Value>().superRefine((value, context) => {
    const finding = find(value);
    if (finding !== null)
      context.addIssue({ code: 'custom', path: [...finding.path], message: finding.message });
  });
}

/** `path`: of the list. */
export function wrongTokenIds(value: unknown, path: readonly number[] = []): Finding | null {
  if (!Array.isArray(value)) return { path, message: messageOf(z.array(tokenId), value) };
  const index = value.findIndex((id) => !Number.isSafeInteger(id) || id < 0);
  return index === -1 ? null : { path: [...path, index], message: messageOf(tokenId, value[index]) };
}

/** A list of which each item is parsed, up to the first that is wrong. `countMax` is checked before any of
 *  them is looked at. */
export function listOf<Item extends z.ZodType>(
  item: Item,
  { countMax = Number.POSITIVE_INFINITY, emptyMessage }: { countMax?: number; emptyMessage?: string } = {},
): z.ZodType<z.output<Item>[], z.input<Item>[]> {
  const list = z.unknown().transform((value, context): z.output<Item>[] => {
    const refuse = (finding: Finding): z.output<Item>[] => {
      context.addIssue({ code: 'custom', path: [...finding.path], message: finding.message });
      return z.NEVER;
    };
    if (!Array.isArray(value)) return refuse({ path: [], message: messageOf(z.array(z.unknown()), value) });
    if (value.length > countMax) return refuse({ path: [], message: tooMany(countMax) });
    if (value.length === 0 && emptyMessage !== undefined) return refuse({ path: [], message: emptyMessage });
    const items: z.output<Item>[] = [];
    for (const [index, each] of value.entries()) {
      const { data, error } = item.safeParse(each);
      if (error === undefined) items.push(data);
      else {
        for (const issue of error.issues.slice(0, 1)) {
          context.issues.push({ ...issue, path: [index, ...issue.path], input: each });
        }
        return z.NEVER;
      }
    }
    return items;
  });
  return list as unknown as z.ZodType<z.output<Item>[], z.input<Item>[]>;
}

/** An object of any names, whose values `find` looks at up to the first that is wrong. */
export function recordOf<Value>(
  find: (value: unknown) => string | null,
): z.ZodType<Readonly<Record<string, Value>>, Readonly<Record<string, Value>>> {
  return checked((value) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      return { path: [], message: messageOf(z.record(z.string(), z.unknown()), value) };
    for (const name of Object.keys(value)) {
      const message = find((value as Readonly<Record<string, unknown>>)[name]);
      if (message !== null) return { path: [name], message };
    }
    return null;
  });
}

const tooMany = (countMax: number) => `Too big: expected array to have <=${countMax} items`;

/** As zod says it. */
export function messageOf(schema: z.ZodType, value: unknown): string {
  return schema.safeParse(value).error?.issues[0]?.message ?? 'not valid';
}

export const tokenIds = checked<number[]>((value) => wrongTokenIds(value));

/** At most so many, checked before any of them is looked at. */
function fewTokenIds(countMax: number) {
  return checked<number[]>((value) =>
    Array.isArray(value) && value.length > countMax
      ? { path: [], message: tooMany(countMax) }
      : wrongTokenIds(value),
  );
}

const bias = z.number().min(-100).max(100);
const isBias = (value: unknown) => typeof value === 'number' && value >= -100 && value <= 100;
const stopString = z.string().min(1, 'a stop string must not be empty');

/** How tokens are drawn, and the vLLM extras around it. */
export const samplingFields = {
  temperature: z.number().min(0).max(100).nullish(),
  /** 0: greedy. */
  top_p: z.number().min(0).max(1).nullish(),
  top_k: z.int().min(-1).nullish(),
  min_p: z.number().min(0).max(1).nullish(),
  presence_penalty: z.number().min(-2).max(2).nullish(),
  frequency_penalty: z.number().min(-2).max(2).nullish(),
  repetition_penalty: z.number().gt(0).max(10).nullish(),
  logit_bias: recordOf<number>((value) => (isBias(value) ? null : messageOf(bias, value))).nullish(),
  seed: seed.nullish(),
  n: z.int().min(1).max(128).nullish(),
  stop: z
    .union([stopString, listOf(stopString, { countMax: stopCountMax })], {
      error: `expected a string, or a list of up to ${stopCountMax}, none of them empty`,
    })
    .nullish(),
  stop_token_ids: fewTokenIds(tokenIdsMax).nullish(),
  allowed_token_ids: fewTokenIds(tokenIdsMax).nullish(),
  ignore_eos: z.boolean().nullish(),
  min_tokens: z.int().min(0).nullish(),
  /** Benchmarks only, see forced-length.ts. */
  forced_output_tokens: z.int().min(1).nullish(),
  prompt_logprobs: z.int().min(0).max(topLogprobCountMax).nullish(),
};

/** What the response looks like. */
export const responseFields = {
  model: z.string().nullish(),
  stream: z.boolean().nullish(),
  stream_options: z
    .object({
      include_usage: z.boolean().nullish(),
      continuous_usage_stats: z.boolean().nullish(),
      include_obfuscation: z.unknown().optional(),
    })
    .nullish(),
  echo: z.boolean().nullish(),
  include_stop_str_in_output: z.boolean().nullish(),
  skip_special_tokens: z.boolean().nullish(),
  return_token_ids: z.boolean().nullish(),
  return_tokens_as_token_ids: z.boolean().nullish(),
  add_special_tokens: z.boolean().nullish(),
  /** Keep so many of the prompt's last tokens; -1: as many as leave room for one more. */
  truncate_prompt_tokens: z.int().min(-1).nullish(),
};

/** How the request is scheduled (vLLM's names). */
export const schedulingFields = {
  priority: z.int().nullish(),
  cache_salt: z.string().min(1).nullish(),
  on_transfer_failure: z.enum(['recompute', 'fail']).nullish(),
  slo: sloField,
};

/** Accepted so that clients which always send them work, and without effect on the result. */
export const ignoredFields = {
  user: z.unknown().optional(),
  store: z.unknown().optional(),
  metadata: z.unknown().optional(),
  service_tier: z.unknown().optional(),
  parallel_tool_calls: z.unknown().optional(),
  prompt_cache_key: z.unknown().optional(),
  prompt_cache_retention: z.unknown().optional(),
  safety_identifier: z.unknown().optional(),
  reasoning_effort: z.unknown().optional(),
  verbosity: z.unknown().optional(),
};

export const notSupported = 'not supported yet';

export function isEmptyArray(value: unknown): boolean {
  return Array.isArray(value) && value.length === 0;
}

/** A known field that works only when it says "nothing": absent, null, or what `isHarmless` lets through. */
export function unsupported(
  isHarmless: (value: unknown) => boolean = () => false,
): z.ZodOptional<z.ZodType<unknown>> {
  return z
    .unknown()
    .refine((value) => value === undefined || value === null || isHarmless(value), { message: notSupported })
    .optional();
}

/** Known fields of both endpoints that would change the result in ways not built yet. */
export const unsupportedFields = {
  bad_words: unsupported(isEmptyArray),
  logits_processors: unsupported(isEmptyArray),
  use_beam_search: unsupported((value) => value === false),
  length_penalty: unsupported((value) => value === 1),
};
