/** The hierarchy behind the length predictor: from what all requests share to what only this conversation
 *  does. Each level sorts requests into contexts by something known before generation, counts lengths per
 *  context, and shrinks them towards the level above. Which levels tell anything is learned
 *  (length-shrinkage.ts). Used by length-predictor.ts. */
import { LengthCounts } from './length-counts.js';
import { type Resolution, Shrinkage } from './length-shrinkage.js';
import { RecentMap } from './recent-map.js';

export type ContextKey = string | number;

/** What may be known before a request's first token. */
export interface LengthFacts {
  readonly promptTokenCount: number;
  /** The request's limit on its output, if it has one. */
  readonly maxTokenCount?: number;
  /** Who asks: an API key, a tenant. */
  readonly client?: ContextKey;
  /** Ids of the prompt's beginnings, shortest first (system prompt … conversation … whole prompt); equal ids,
   *  equal beginnings. */
  readonly prefixIds?: readonly ContextKey[];
}

/** Of the ids of a prompt's blocks, each for all up to it, the 1st, 2nd, 4th, 8th … and the last:
 *  prefixIds for a prompt of any length, in O(log) of it. */
export function samplePrefixes<Id extends ContextKey>(blockIds: readonly Id[]): Id[] {
  const indices: number[] = [];
  for (let index = 0; index < blockIds.length; index = 2 * index + 1) indices.push(index);
  if (blockIds.length > 0 && indices.at(-1) !== blockIds.length - 1) indices.push(blockIds.length - 1);
  return indices.flatMap((index) => blockIds[index] ?? []);
}

/** Earlier outputs under one key. */
export interface History {
  /** Mean of log2(1 + tokens), the latest counting at least a quarter. */
  readonly meanLog2: number;
  readonly count: number;
}

/** Facts, and what earlier requests with the same beginnings or the same prompt length did. */
export interface KnownFacts {
  readonly facts: LengthFacts;
  readonly shortestPrefix: ContextKey | undefined;
  /** The longest beginning that was seen before. */
  readonly deepestPrefix: ContextKey | undefined;
  readonly deepestHistory: History | undefined;
  readonly sameLengthHistory: History | undefined;
}

export interface LevelOptions {
  readonly name: string;
  /** The context a request belongs to; undefined leaves the level out. */
  readonly contextOf: (known: KnownFacts) => ContextKey | undefined;
  readonly halfLifeCount: number;
  readonly contextCountMax: number;
  readonly resolutions: readonly Resolution[];
  /** The most observations that the level above is taken to be worth before anything is learned; any number
   *  if left out. */
  readonly firstStrengthMax?: number;
}

/** Context classes per octave of a prompt's length or a limit. */
const classesPerOctave = 2;
const classOf = (count: number) => Math.round(classesPerOctave * Math.log2(1 + count));
/** Earlier lengths are distinguished to a quarter of an octave, and one earlier output from several. */
const historyClass = (history: History | undefined) =>
  history === undefined ? undefined : 2 * Math.round(4 * history.meanLog2) + (history.count > 1 ? 1 : 0);

/** A beginning gets counts of its own when it was seen that often; until then its history says what there is
 *  to say, in less memory. */
const ownCountsFrom = 4;

/** Halves of the parent's distribution, then eighths, then bins: few observations move it as a whole, many
 *  shape it in detail. */
const coarseToFine: readonly Resolution[] = [2, 8, 'bins'];

/** Order: each level is the parent of the next. What all do comes before what some do; a new observation
 *  counts in all of them. */
export const levelOptions: readonly LevelOptions[] = [
  {
    name: 'all',
    contextOf: () => 0,
    halfLifeCount: 4096,
    contextCountMax: 1,
    resolutions: coarseToFine,
    firstStrengthMax: 8,
  },
  { name: 'recent', contextOf: () => 0, halfLifeCount: 128, contextCountMax: 1, resolutions: coarseToFine },
  { name: 'latest', contextOf: () => 0, halfLifeCount: 32, contextCountMax: 1, resolutions: [2, 8] },
  {
    name: 'promptLength',
    contextOf: ({ facts }) => classOf(facts.promptTokenCount),
    halfLifeCount: 1024,
    contextCountMax: 64,
    resolutions: coarseToFine,
  },
  {
    name: 'limit',
    contextOf: ({ facts }) => (facts.maxTokenCount === undefined ? undefined : classOf(facts.maxTokenCount)),
    halfLifeCount: 1024,
    contextCountMax: 64,
    resolutions: coarseToFine,
  },
  {
    name: 'samePromptLength',
    contextOf: ({ sameLengthHistory }) => historyClass(sameLengthHistory),
    halfLifeCount: 1024,
    contextCountMax: 256,
    resolutions: coarseToFine,
  },
  {
    name: 'client',
    contextOf: ({ facts }) => facts.client,
    halfLifeCount: 512,
    contextCountMax: 256,
    resolutions: coarseToFine,
  },
  {
    name: 'shortestPrefix',
    contextOf: ({ shortestPrefix }) => shortestPrefix,
    halfLifeCount: 512,
    contextCountMax: 256,
    resolutions: coarseToFine,
  },
  {
    name: 'conversation',
    contextOf: ({ deepestHistory }) => historyClass(deepestHistory),
    halfLifeCount: 1024,
    contextCountMax: 256,
    resolutions: coarseToFine,
  },
  {
    name: 'deepestPrefix',
    contextOf: ({ deepestPrefix, deepestHistory, shortestPrefix }) =>
      (deepestHistory?.count ?? 0) < ownCountsFrom || deepestPrefix === shortestPrefix
        ? undefined
        : deepestPrefix,
    halfLifeCount: 256,
    contextCountMax: 512,
    resolutions: coarseToFine,
  },
];

export class LengthLevel {
  readonly name: string;
  readonly shrinkages: readonly Shrinkage[];
  readonly #contexts: RecentMap<ContextKey, LengthCounts>;
  readonly #options: LevelOptions;

  constructor(options: LevelOptions) {
    this.name = options.name;
    this.#options = options;
    this.#contexts = new RecentMap(options.contextCountMax);
    this.shrinkages = options.resolutions.map(
      (resolution) => new Shrinkage(resolution, options.firstStrengthMax ?? Number.POSITIVE_INFINITY),
    );
  }

  /** What was counted for such requests; undefined if nothing was. */
  find(known: KnownFacts): LengthCounts | undefined {
    const context = this.#options.contextOf(known);
    return context === undefined ? undefined : this.#contexts.peek(context);
  }

  /** The counts to add to; undefined if the level does not apply. */
  touch(known: KnownFacts): LengthCounts | undefined {
    const context = this.#options.contextOf(known);
    return context === undefined
      ? undefined
      : this.#contexts.touch(context, () => new LengthCounts(this.#options.halfLifeCount));
  }
}
