/** Reads the payloads of a streamed completion or chat completion into an CompletionAnswer. Used by
 *  http-client.ts.
 *  Invariant: a stream counts as completed only when it said [DONE] or gave a finish reason, and no error. */
import type { CompletionAnswer } from './completion-client.js';
import type { Outcome } from './load-record.js';

/** The fields of OpenAI's chunks that matter here. */
interface Chunk {
  readonly id?: string;
  readonly choices?: readonly {
    readonly text?: string;
    readonly delta?: { readonly content?: string | null; readonly reasoning_content?: string | null };
    readonly finish_reason?: string | null;
  }[];
  readonly usage?: { readonly prompt_tokens?: number; readonly completion_tokens?: number } | null;
  readonly error?: { readonly message?: string };
}

export class AnswerReader {
  readonly #sentMs: number;
  readonly #chunkMs: number[] = [];
  #id: string | undefined;
  #usage: Chunk['usage'];
  #error: string | undefined;
  #endMs: number | undefined;
  #isFinished = false;
  #isDone = false;

  constructor(sentMs: number) {
    this.#sentMs = sentMs;
  }

  accept(payload: string, nowMs: number): void {
    if (payload === '[DONE]') {
      this.#isDone = true;
      return;
    }
    const chunk = parse(payload);
    if (chunk === null) {
      this.#error ??= `not JSON in the stream: ${payload.slice(0, 80)}`;
      return;
    }
    this.#id ??= chunk.id;
    if (chunk.error !== undefined) this.#error ??= chunk.error.message ?? 'error in the stream';
    if (chunk.usage !== undefined && chunk.usage !== null) this.#usage = chunk.usage;
    const [choice] = chunk.choices ?? [];
    if (choice === undefined) return;
    const isOver = typeof choice.finish_reason === 'string';
    this.#isFinished ||= isOver;
    if (!isOver && !carriesToken(choice)) return;
    this.#chunkMs.push(nowMs);
    this.#endMs = nowMs;
  }

  /** E2EL ends with the last token, not with the usage chunk behind it. */
  end(
    outcome: Outcome,
    nowMs: number,
    facts: Pick<CompletionAnswer, 'status' | 'error' | 'route'>,
  ): CompletionAnswer {
    const isBroken =
      outcome === 'completed' && (this.#error !== undefined || !(this.#isDone || this.#isFinished));
    const error = this.#error ?? facts.error ?? (isBroken ? 'the stream ended early' : undefined);
    const ended = isBroken ? 'failed' : outcome;
    return {
      outcome: ended,
      sentMs: this.#sentMs,
      endMs: ended === 'completed' ? (this.#endMs ?? nowMs) : nowMs,
      chunkMs: this.#chunkMs,
      outputTokenCount: this.#usage?.completion_tokens ?? this.#chunkMs.length,
      ...(this.#usage?.prompt_tokens === undefined ? {} : { promptTokenCount: this.#usage.prompt_tokens }),
      ...(facts.status === undefined ? {} : { status: facts.status }),
      ...(error === undefined ? {} : { error: error.slice(0, 200) }),
      ...(this.#id === undefined ? {} : { id: this.#id }),
      ...(facts.route === undefined ? {} : { route: facts.route }),
    };
  }
}

/** A chat stream opens with a chunk that has a role only; a completion's chunk with empty text is a token
 *  without visible text. */
function carriesToken({ text, delta }: NonNullable<Chunk['choices']>[number]): boolean {
  return delta === undefined ? text !== undefined : Boolean(delta.content || delta.reasoning_content);
}

function parse(payload: string): Chunk | null {
  try {
    const json: unknown = JSON.parse(payload);
    return typeof json === 'object' && json !== null ? (json as Chunk) : null;
  } catch {
    return null;
  }
}
