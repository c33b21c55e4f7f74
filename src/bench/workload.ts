/** What requests ask for, by workload name: prompts and answer lengths from one seed. Used by plan.ts.
 *  Invariant: request i of a workload depends on workload and seed alone, never on the rate, so that runs can
 *  be paired. */
import { at } from '../base/assert.js';
import { InvalidRequestError } from '../base/errors.js';
import { Prng } from '../base/prng.js';
import { lognormalLength, rangeLength, type TokenLengths, uniformLength } from './lengths.js';
import type { LoadPrompt } from './load-record.js';
import { mix, randomIds, sharedIds } from './prompts.js';
import type { TraceEntry } from './trace.js';

export const workloadNames = ['random', 'short', 'long', 'mixed', 'trace', 'sharegpt'] as const;
export type WorkloadName = (typeof workloadNames)[number];

export interface WorkloadOptions {
  readonly name: WorkloadName;
  readonly seed: number;
  /** Of the tokens themselves; runs that differ here alone have equal lengths and find nothing of each other
   *  in a prefix cache. */
  readonly contentSeed: number;
  /** Ids that random prompts are made of. */
  readonly tokenIdPool: readonly number[];
  readonly inputTokenCount: number;
  /** Mean of the answers. */
  readonly outputTokenCount: number;
  readonly rangeRatio: number;
  /** 'range': as vLLM's random dataset; 'lognormal': a tail as in real services. */
  readonly outputShape: 'range' | 'lognormal';
  readonly trace?: readonly TraceEntry[];
  /** Multiplies the lengths of a trace. */
  readonly lengthScale: number;
  readonly conversations?: readonly Conversation[];
}

/** A prompt with the length of the answer it once got. */
export interface Conversation {
  readonly text: string;
  readonly promptTokenCount: number;
  readonly outputTokenCount: number;
}

export interface Sample {
  readonly prompt: LoadPrompt;
  readonly promptTokenCount: number;
  readonly outputTokenCount: number;
}

export interface Workload {
  /** Samples there are; Infinity: as many as wanted. */
  readonly sampleCount: number;
  readonly outputTokenCountMax: number;
  /** Of a trace: when its requests came. */
  readonly arrivalsMs?: readonly number[];
  sample(index: number): Sample;
}

export function createWorkload(options: WorkloadOptions): Workload {
  switch (options.name) {
    case 'random':
      return drawn(options, () => rangeLength(options.inputTokenCount, options.rangeRatio));
    case 'short':
      return drawn(options, () => shortPrompts);
    case 'long':
      return drawn(options, () => longPrompts);
    case 'mixed':
      return drawn(options, (prng) => (prng.uniform() < 0.5 ? shortPrompts : longPrompts));
    case 'trace':
      return traced(options, options.trace ?? missing('trace'));
    case 'sharegpt':
      return conversing(options.conversations ?? missing('sharegpt'));
  }
}

const shortPrompts = uniformLength(64, 256);
const longPrompts = uniformLength(1024, 2048);

function missing(name: WorkloadName): never {
  throw new InvalidRequestError(`--dataset-name ${name} needs --dataset-path`);
}

function drawn(options: WorkloadOptions, promptLengths: (prng: Prng) => TokenLengths): Workload {
  const outputs =
    options.outputShape === 'range'
      ? rangeLength(options.outputTokenCount, options.rangeRatio)
      : lognormalLength(options.outputTokenCount);
  return {
    sampleCount: Number.POSITIVE_INFINITY,
    outputTokenCountMax: outputs.max,
    sample: (index) => {
      const prng = new Prng(mix(options.seed, index));
      const promptTokenCount = promptLengths(prng).draw(prng);
      const outputTokenCount = outputs.draw(prng);
      const ids = randomIds(options.tokenIdPool, options.contentSeed, index, promptTokenCount);
      return { prompt: { kind: 'ids', ids }, promptTokenCount, outputTokenCount };
    },
  };
}

function traced(
  { contentSeed, tokenIdPool, lengthScale }: WorkloadOptions,
  trace: readonly TraceEntry[],
): Workload {
  const scaled = (tokenCount: number) => Math.max(1, Math.round(tokenCount * lengthScale));
  return {
    sampleCount: trace.length,
    arrivalsMs: trace.map(({ atMs }) => atMs),
    outputTokenCountMax: trace.reduce((max, entry) => Math.max(max, scaled(entry.outputTokenCount)), 1),
    sample: (index) => {
      const entry = at(trace, index);
      const promptTokenCount = scaled(entry.promptTokenCount);
      const ids =
        entry.blockIds === undefined
          ? randomIds(tokenIdPool, contentSeed, index, promptTokenCount)
          : sharedIds(tokenIdPool, contentSeed, entry.blockIds, promptTokenCount, lengthScale);
      return {
        prompt: { kind: 'ids', ids },
        promptTokenCount,
        outputTokenCount: scaled(entry.outputTokenCount),
      };
    },
  };
}

function conversing(conversations: readonly Conversation[]): Workload {
  return {
    sampleCount: conversations.length,
    outputTokenCountMax: conversations.reduce(
      (max, { outputTokenCount }) => Math.max(max, outputTokenCount),
      1,
    ),
    sample: (index) => {
      const { text, promptTokenCount, outputTokenCount } = at(conversations, index);
      return { prompt: { kind: 'text', text }, promptTokenCount, outputTokenCount };
    },
  };
}
