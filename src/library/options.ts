/** What a program may say when it loads a model, generates, or starts a server. Types only, without imports,
 *  since they are the package's public face. option-schemas.ts checks them and fills in what is left out.
 *  Those that are also flags of `twostroke serve` have the flag's name: maxModelLen is --max-model-len. */

/** How a model runs, in this process or on workers. */
export interface EngineOptions {
  /** 'dummy': random weights from config.json alone. Default 'auto'. */
  readonly loadFormat?: 'auto' | 'dummy' | undefined;
  /** Of the weights. Default 'auto': what the files have. */
  readonly dtype?: 'auto' | 'f32' | 'bf16' | 'f16' | undefined;
  /** Of the KV cache. Default 'auto': as the model. */
  readonly kvCacheDtype?: 'auto' | 'f32' | 'bf16' | 'f16' | 'fp8' | undefined;
  /** Weights are quantised at load. Default 'none'. */
  readonly quantize?: 'none' | 'int4' | 'int8' | 'fp8' | undefined;
  /** Tokens per KV block: 8, 16 (default), 32, 64, 128 or 256. */
  readonly blockSize?: number | undefined;
  /** Bytes of a KV cache. Default: a share of the free memory. */
  readonly kvCacheMemory?: number | undefined;
  /** KV blocks, instead of bytes. */
  readonly numBlocks?: number | undefined;
  /** Share of a GPU's memory that may be used. Default 0.9. */
  readonly gpuMemoryUtilization?: number | undefined;
  /** Longest context, prompt and answer together. Default: the model's own. */
  readonly maxModelLen?: number | undefined;
  /** Tokens per step. */
  readonly maxNumBatchedTokens?: number | undefined;
  /** Sequences per batch; more wait. */
  readonly maxNumSeqs?: number | undefined;
  /** Prompt tokens of one sequence per step. */
  readonly prefillChunk?: number | undefined;
  /** Reuse the KV of equal prompt beginnings. Default true. */
  readonly prefixCaching?: boolean | undefined;
  /** Same request, same tokens, whatever else is in the batch; slower on GPUs, CPUs always do so. Default
   *  false. */
  readonly batchInvariant?: boolean | undefined;
  /** Compute threads on the CPU. Default: all cores. */
  readonly threads?: number | undefined;
}

export interface ModelOptions extends EngineOptions {
  /** 'cpu' (default) or 'cuda:N'. */
  readonly device?: 'cpu' | 'cuda' | `cuda:${number}` | undefined;
}

/** What `messages` of the chat API are: text, by who says it. */
export interface ChatMessage {
  readonly role: 'system' | 'developer' | 'user' | 'assistant' | 'tool';
  readonly content: string;
}

/** Text that is continued as it stands, a chat that goes through the model's template, or token ids. */
export type Prompt = string | readonly ChatMessage[] | readonly number[];

/** Absent: what the model's generation_config.json recommends, else no effect. */
export interface GenerateOptions {
  /** Default: until the model ends or its context is full. */
  readonly maxTokens?: number | undefined;
  readonly minTokens?: number | undefined;
  /** 0: always the likeliest token. */
  readonly temperature?: number | undefined;
  readonly topP?: number | undefined;
  readonly topK?: number | undefined;
  readonly minP?: number | undefined;
  readonly presencePenalty?: number | undefined;
  readonly frequencyPenalty?: number | undefined;
  readonly repetitionPenalty?: number | undefined;
  /** Added to the logits, by token id. */
  readonly logitBias?: Readonly<Record<string, number>> | undefined;
  /** Same seed, same tokens. Default: a fresh one. */
  readonly seed?: number | undefined;
  /** The text ends before these. */
  readonly stop?: string | readonly string[] | undefined;
  readonly stopTokenIds?: readonly number[] | undefined;
  readonly ignoreEos?: boolean | undefined;
  /** Lower first, then in the order they came. Default 0. */
  readonly priority?: number | undefined;
  /** Ends the generation: the device computes no further step for it, and TwostrokeError 'cancelled' is
   *  thrown. */
  readonly signal?: AbortSignal | undefined;
}

export interface TokenUsage {
  readonly promptTokens: number;
  /** Of them, those whose KV was found in the prefix cache. */
  readonly cachedTokens: number;
  readonly completionTokens: number;
}

export interface TextChunk {
  /** What has become certain: whole characters, no part of a stop string. */
  readonly text: string;
  readonly tokenIds: readonly number[];
  /** null: more comes. 'stop': the model or a stop string ended it. 'length': maxTokens or the context
   *  did. */
  readonly finishReason: 'stop' | 'length' | null;
  /** So far. */
  readonly usage: TokenUsage;
}

export interface CompletedText extends TextChunk {
  readonly finishReason: 'stop' | 'length';
}

export interface ServerOptions extends EngineOptions {
  /** A folder, org/name of a model in Hugging Face's cache, or 'demo'. */
  readonly model: string;
  /** role:device[*count][?threads=N&…], comma separated; roles any, prefill, decode. Default 'any:cpu'. */
  readonly workers?: string | undefined;
  /** Address to listen on. Default 127.0.0.1. */
  readonly host?: string | undefined;
  /** Default 8000; 0: any free one. */
  readonly port?: number | undefined;
  /** Which path requests take. Default 'adaptive'. */
  readonly strategy?: 'adaptive' | 'collocated' | 'disaggregated' | undefined;
  /** How `any` workers are divided when disaggregated, as PREFILL:DECODE. */
  readonly split?: string | undefined;
  /** File with what the workers cost, as `twostroke profile` writes it. Default: the one that fits, if
   *  any. */
  readonly profile?: string | undefined;
  /** How KV goes between workers. Default 'auto': what is measured to be fastest. */
  readonly connector?: 'auto' | 'peer' | 'host-relay' | 'tcp' | undefined;
  /** Smaller on the way between workers than in their caches; lossy. Default 'auto': as it is. */
  readonly kvTransferDtype?: 'auto' | 'fp8' | 'int8' | undefined;
  /** Check every block that is handed over (CPU workers). Default false. */
  readonly kvChecksum?: boolean | undefined;
  /** Where decode workers listen for KV over tcp. Default 127.0.0.1. */
  readonly kvHost?: string | undefined;
  /** Names in the API, the first is the one reported. Default: the model's. */
  readonly servedModelName?: readonly string[] | undefined;
  /** Token ids in, token ids out. Default false. */
  readonly skipTokenizerInit?: boolean | undefined;
  /** Keys that clients must send. */
  readonly apiKey?: readonly string[] | undefined;
  /** Keys that see all requests. */
  readonly adminKey?: readonly string[] | undefined;
  /** Share cached prompts among API keys. Default false. */
  readonly sharePrefixCache?: boolean | undefined;
  /** Value of access-control-allow-origin. */
  readonly corsOrigin?: string | undefined;
  /** Choices accepted and unfinished; more get 429. Default: twice what the workers' batches hold. */
  readonly maxQueue?: number | undefined;
  /** Bytes of the largest request body. Default 8 MiB. */
  readonly maxBody?: number | undefined;
  /** Seconds that open requests may go on for after close(). Default 10. */
  readonly drain?: number | undefined;
  /** How calls of tools are written. Default 'auto': as the chat template shows. */
  readonly toolCallParser?:
    | 'auto'
    | 'hermes'
    | 'llama3_json'
    | 'mistral'
    | 'deepseek_v3'
    | 'deepseek_v31'
    | 'openai'
    | 'pythonic'
    | undefined;
  /** How reasoning is set apart. Default 'auto': as the chat template shows. */
  readonly reasoningParser?: 'auto' | 'think' | 'openai' | 'none' | undefined;
  /** For requests that do not say: prompts whose KV did not arrive. Default 'recompute'. */
  readonly onTransferFailure?: 'recompute' | 'fail' | undefined;
  /** Of requests that do not say: 'ttft:500,tpot:50,e2el:20000' in milliseconds, or multiples of what a
   *  request takes alone. Default 'ttft:5x,tpot:2x'. */
  readonly slo?: string | undefined;
  /** 'off': steps take prompts first come, first served, whatever becomes of SLOs. Default 'on'. */
  readonly pacing?: 'on' | 'off' | undefined;
  /** Requests whose first token will be late: 'shed' refuses them (429), 'late' serves them after all others.
   *  Default 'late'. */
  readonly onOverload?: 'shed' | 'late' | undefined;
  /** File, YAML or JSON, of classes of requests by header, with priority, SLO and reserved share. */
  readonly qos?: string | undefined;
  /** Let requests fix their output length (benchmarks). Default false. */
  readonly allowForcedLength?: boolean | undefined;
  /** Refuse unknown fields instead of ignoring them. Default false. */
  readonly strictFields?: boolean | undefined;
  /** What goes to stderr. Default 'warn'. */
  readonly logLevel?: 'debug' | 'info' | 'warn' | 'error' | 'silent' | undefined;
}
