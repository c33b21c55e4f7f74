/** The shapes of the API's answers: OpenAI's, with vLLM's and our extensions. Written by chat-format.ts,
 *  completion-format.ts, tokenize.ts and api-error.ts; given to clients by `twostroke/client`. Types only,
 *  without imports. */

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  prompt_tokens_details: { cached_tokens: number };
}

type FinishReason = 'stop' | 'length';

/** What every answer says of itself. */
interface Frame<Kind extends string> {
  id: string;
  object: Kind;
  /** Seconds since 1970. */
  created: number;
  model: string;
  system_fingerprint: string;
}

/** A token as text, or as `token_id:ID` with return_tokens_as_token_ids. */
export interface ChatToken {
  token: string;
  logprob: number;
  bytes: readonly number[];
}

export interface ChatLogprobs {
  content: readonly (ChatToken & { top_logprobs: readonly ChatToken[] })[];
  refusal: null;
}

/** By token id; null for the first token of the prompt. */
export type PromptLogprobs = readonly (Record<string, PromptLogprob> | null)[];

interface PromptLogprob {
  logprob: number;
  rank?: number;
  decoded_token: string | null;
}

export interface ToolCall {
  id: string;
  type: 'function';
  /** `arguments` is JSON. */
  function: { name: string; arguments: string };
}

interface ChatAnswer {
  role: 'assistant';
  /** null: calls, and no text. */
  content: string | null;
  refusal: null;
  /** What stood between <think> and </think>, or on gpt-oss's channel for it. */
  reasoning_content?: string;
  tool_calls?: readonly ToolCall[];
}

/** Of a call the first delta has id, type and name; later ones more of its arguments. */
export interface ToolCallDelta {
  index: number;
  id?: string;
  type?: 'function';
  function: { name?: string; arguments: string };
}

export interface ChatDelta {
  role?: 'assistant';
  content?: string;
  reasoning_content?: string;
  tool_calls?: readonly ToolCallDelta[];
}

export interface ChatCompletion extends Frame<'chat.completion'> {
  choices: readonly {
    index: number;
    message: ChatAnswer;
    logprobs: ChatLogprobs | null;
    finish_reason: FinishReason | 'tool_calls';
    /** The stop string or stop token of the request that ended it. */
    stop_reason: string | number | null;
    /** With return_token_ids. */
    token_ids?: readonly number[];
  }[];
  usage: Usage;
  /** With return_token_ids. */
  prompt_token_ids?: readonly number[];
  /** With prompt_logprobs. */
  prompt_logprobs?: PromptLogprobs;
}

export interface ChatCompletionChunk extends Frame<'chat.completion.chunk'> {
  choices: readonly {
    index: number;
    delta: ChatDelta;
    logprobs: ChatLogprobs | null;
    finish_reason: FinishReason | 'tool_calls' | null;
    stop_reason?: string | number | null;
    token_ids?: readonly number[];
  }[];
  /** With stream_options.include_usage: null until the last chunk, which has no choices, or with
   *  continuous_usage_stats on every one. */
  usage?: Usage | null;
  prompt_token_ids?: readonly number[];
}

export interface CompletionLogprobs {
  tokens: readonly string[];
  token_logprobs: readonly (number | null)[];
  top_logprobs: readonly (Record<string, number> | null)[];
  /** In code points, where the token's first complete character begins, counted from the start of the
   *  choice's text. */
  text_offset: readonly number[];
}

interface CompletionChoice<Reason> {
  /** prompt × n + choice. */
  index: number;
  text: string;
  logprobs: CompletionLogprobs | null;
  finish_reason: Reason;
  stop_reason?: string | number | null;
  token_ids?: readonly number[];
  prompt_token_ids?: readonly number[];
  prompt_logprobs?: PromptLogprobs;
}

export interface Completion extends Frame<'text_completion'> {
  choices: readonly CompletionChoice<FinishReason>[];
  usage: Usage;
}

export interface CompletionChunk extends Frame<'text_completion'> {
  choices: readonly CompletionChoice<FinishReason | null>[];
  usage?: Usage | null;
}

export interface Tokenized {
  count: number;
  max_model_len: number;
  tokens: readonly number[];
  token_strs: readonly string[] | null;
}

export interface Detokenized {
  prompt: string;
}

export interface ModelCard {
  id: string;
  object: 'model';
  created: number;
  owned_by: string;
  root: string;
  max_model_len: number;
}

export interface ModelList {
  object: 'list';
  data: readonly ModelCard[];
}

/** Of every status above 399, and an event of a stream that fails. */
export interface ErrorBody {
  error: { message: string; type: string; param: string | null; code: string | null };
}
