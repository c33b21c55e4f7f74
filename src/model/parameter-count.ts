/** How many parameters a model has, from its shapes alone: for the start-up screen and for the memory a model
 *  needs. Tied embeddings count once; norms are left out of nothing but the per-head ones, which are a
 *  rounding error. */
import type { ModelConfig } from './config.js';

export function parameterCount(config: ModelConfig): number {
  const { hiddenCount, headCount, kvHeadCount, headDim, vocabCount } = config;
  const attention = hiddenCount * headDim * (2 * headCount + 2 * kvHeadCount);
  const norms = hiddenCount * (config.sandwichNorms ? 4 : 2);
  const layers = config.layers.map(
    ({ feedForward }) => attention + norms + feedForwardCount(config, feedForward),
  );
  const embeddings = vocabCount * hiddenCount * (config.tiedEmbeddings ? 1 : 2);
  return embeddings + hiddenCount + layers.reduce((sum, count) => sum + count, 0);
}

/** Of them, how many a decode step of so many sequences reads: of the embedding table only when it is also
 *  the last projection, and of a mixture the experts that are chosen, each as likely as any other. */
export function readParameterCount(config: ModelConfig, sequenceCount: number): number {
  const { hiddenCount, vocabCount, tiedEmbeddings, moe, layers } = config;
  const table = tiedEmbeddings ? 0 : vocabCount * hiddenCount;
  const mixtureCount = layers.filter(({ feedForward }) => feedForward === 'moe').length;
  return parameterCount(config) - table - mixtureCount * (moe === null ? 0 : unread(moe));

  function unread({ expertCount, expertsPerToken, interCount }: NonNullable<ModelConfig['moe']>): number {
    const unchosenShare = (1 - expertsPerToken / expertCount) ** sequenceCount;
    return expertCount * unchosenShare * 3 * hiddenCount * interCount;
  }
}

/** Gate, up and down projections; for a mixture all experts and the router. */
function feedForwardCount({ hiddenCount, interCount, moe }: ModelConfig, kind: 'dense' | 'moe'): number {
  if (kind === 'dense' || moe === null) return 3 * hiddenCount * interCount;
  return moe.expertCount * (3 * hiddenCount * moe.interCount + hiddenCount);
}
