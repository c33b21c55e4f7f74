/** The goodput that no policy exceeds in a steady state: without queues, SLOs of the first token or scatter.
 *  Used by goodput-point.ts.
 *
 *  A worker spends its time in steps of many shapes: u_j is the time that all workers together spend in shape
 *  j, which has d_j decodes and c_j prompt tokens and takes m_j ms. x_k requests a ms of class k (p_k prompt
 *  tokens, n_k further output tokens) are good only if
 *
 *      Σ u_j            ≤ workers              there is no more time
 *      Σ u_j · c_j/m_j  ≥ x_k · p_k            their prompts are computed
 *      Σ u_j · d_j/m_j  ≥ x_k · n_k            their tokens are drawn
 *      Σ u_j · d_j      ≤ x_k · n_k · TPOT_k   none decodes for longer than n · TPOT (Little's law)
 *      x_k              ≤ what arrives
 *
 *  for every class, sums over the shapes with prompts or decodes of that class. The largest Σ x_k is a linear
 *  program. Whoever computes what is left open, so it holds for collocated, disaggregated and everything
 *  between. */
import { type LengthClass, lengthClassOf } from '../../bench/load-record.js';
import type { StepWork } from '../../router/step-work.js';
import type { ModelRequest } from './cluster-model.js';
import { maximum } from './linear-program.js';
import type { Knowledge } from './step-policies.js';

/** Shapes to a doubling of decodes, and of prompt tokens. */
const shapesPerDoubling = 4;
/** The smallest chunk of a prompt. */
const chunkTokenCountMin = 16;

/** Requests of one class of prompt length, on average. */
interface RequestClass {
  readonly ratePerMs: number;
  readonly promptTokenCount: number;
  readonly pairsPerPromptToken: number;
  /** Output tokens after the first. */
  readonly furtherTokenCount: number;
  /** Keys of a sequence that decodes. */
  readonly kvTokenCount: number;
  /** That decoding may take. */
  readonly decodeMsMax: number;
}

interface Shape {
  readonly decodeClass: RequestClass;
  readonly decodeCount: number;
  readonly promptClass: RequestClass;
  readonly chunkTokenCount: number;
  readonly ms: number;
}

/** Good requests a second. `requests`: a sample of what is asked for, arriving at `ratePerSecond`. */
export function boundWithoutQueues(
  requests: readonly ModelRequest[],
  ratePerSecond: number,
  knowledge: Knowledge,
  workerCount: number,
): number {
  const classes = classesOf(requests, ratePerSecond / 1000);
  const shapes = shapesOf(classes, knowledge);
  const row = (
    ofShape: (shape: Shape) => number,
    ofClass: (each: RequestClass) => number,
    atMost: number,
  ) => ({
    coefficients: [...shapes.map(ofShape), ...classes.map(ofClass)],
    atMost,
  });
  const rows = classes.flatMap((mine) => {
    const decodesOf = (shape: Shape) => (shape.decodeClass === mine ? shape.decodeCount : 0);
    const chunkOf = (shape: Shape) => (shape.promptClass === mine ? shape.chunkTokenCount : 0);
    const only = (value: number) => (each: RequestClass) => (each === mine ? value : 0);
    return [
      row((shape) => -chunkOf(shape) / shape.ms, only(mine.promptTokenCount), 0),
      row((shape) => -decodesOf(shape) / shape.ms, only(mine.furtherTokenCount), 0),
      row(decodesOf, only(-mine.decodeMsMax), 0),
      row(() => 0, only(1), mine.ratePerMs),
    ];
  });
  const time = row(
    () => 1,
    () => 0,
    workerCount,
  );
  return (
    1000 * maximum({ objective: [...shapes.map(() => 0), ...classes.map(() => 1)], rows: [time, ...rows] })
  );
}

function classesOf(requests: readonly ModelRequest[], ratePerMs: number): readonly RequestClass[] {
  const byClass = new Map<LengthClass, ModelRequest[]>();
  for (const request of requests) {
    const name = lengthClassOf(request.promptTokenCount);
    byClass.set(name, [...(byClass.get(name) ?? []), request]);
  }
  return [...byClass.values()].map((mine) => {
    const mean = (ofEach: (request: ModelRequest) => number) =>
      mine.reduce((sum, each) => sum + ofEach(each), 0) / mine.length;
    const promptTokenCount = mean((each) => each.promptTokenCount);
    const furtherTokenCount = mean((each) => each.outputTokenCount - 1);
    const kvTokens = mean(
      (each) => (each.outputTokenCount - 1) * (each.promptTokenCount + each.outputTokenCount / 2),
    );
    return {
      ratePerMs: (ratePerMs * mine.length) / requests.length,
      promptTokenCount,
      pairsPerPromptToken:
        mean((each) => (each.promptTokenCount * (each.promptTokenCount + 1)) / 2) / promptTokenCount,
      furtherTokenCount,
      kvTokenCount: furtherTokenCount === 0 ? 0 : kvTokens / furtherTokenCount,
      decodeMsMax: mean((each) => (each.outputTokenCount - 1) * each.slo.tpotMs),
    };
  });
}

/** With mixed classes of decodes, or of prompts, a step takes what lies between the pure ones: its time is
 *  linear in keys and pairs. */
function shapesOf(
  classes: readonly RequestClass[],
  { predictMs, tokenBudget, sequenceCountMax }: Knowledge,
): readonly Shape[] {
  const [anyClass] = classes;
  if (anyClass === undefined) return [];
  const shapes: Shape[] = [];
  for (const decodeCount of [0, ...steps(1, Math.min(sequenceCountMax, tokenBudget))]) {
    for (const chunkTokenCount of [0, ...steps(chunkTokenCountMin, tokenBudget - decodeCount)]) {
      if (decodeCount + chunkTokenCount === 0) continue;
      for (const decodeClass of decodeCount === 0 ? [anyClass] : classes) {
        for (const promptClass of chunkTokenCount === 0 ? [anyClass] : classes) {
          const work: StepWork = {
            decodeCount,
            decodeKvTokenCount: decodeCount * decodeClass.kvTokenCount,
            prefillTokenCount: chunkTokenCount,
            prefillPairCount: chunkTokenCount * promptClass.pairsPerPromptToken,
          };
          shapes.push({ decodeClass, decodeCount, promptClass, chunkTokenCount, ms: predictMs(work) });
        }
      }
    }
  }
  return shapes;
}

/** Whole numbers from `from` to `to`, both included, in steps of a part of a doubling. */
function steps(from: number, to: number): readonly number[] {
  if (to < from) return [];
  const count = Math.ceil(Math.log2(to / from) * shapesPerDoubling);
  const numbers = Array.from({ length: count + 1 }, (_, index) =>
    Math.min(to, Math.round(from * 2 ** (index / shapesPerDoubling))),
  );
  return [...new Set([...numbers, to])];
}
