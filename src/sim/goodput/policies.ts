/** Policies that are tried on modelled workers: fixed token budgets and paced steps, collocated requests,
 *  prompts apart from decodes, and prefill-first workers, as many of each as there can be. Used by
 *  best-found.ts. */
import {
  aimedTpotShare,
  leastPromptTokenCount,
  promptRoomWithin,
  stepWith,
} from '../../router/paced-step.js';
import type { ModelRequest, ModelWorker, Policy } from './cluster-model.js';
import {
  budgeted,
  dueMsOf,
  type Knowledge,
  largestPaced,
  paced,
  rowsOf,
  uncomputedOf,
} from './step-policies.js';

type Route = Policy['route'];

export function policiesFor(knowledge: Knowledge, workerCount: number): readonly Policy[] {
  const looks = new Looks(knowledge);
  const { tokenBudget } = knowledge;
  const pacing = { aimedShare: aimedTpotShare, spend: 'step', late: 'rejected', order: 'due' } as const;
  const rejecting = paced(knowledge, pacing);
  const tight = paced(knowledge, { ...pacing, aimedShare: 1 });
  const saving = paced(knowledge, { ...pacing, spend: 'answer' });
  const waiting = paced(knowledge, { ...pacing, late: 'waits' });
  const shortest = paced(knowledge, { ...pacing, spend: 'answer', order: 'shortest' });
  const collocated = looks.collocated();
  const ofCount = (count: number): readonly Policy[] => {
    const disaggregated = looks.disaggregated(count);
    const first = (comfortableUse: number) => looks.prefillFirst(count, comfortableUse);
    const name = (text: string) => (workerCount === 2 ? text : `${text}, ${count} prefill`);
    return [
      {
        name: name('disaggregated, full budget'),
        route: disaggregated,
        step: budgeted(knowledge, tokenBudget),
      },
      { name: name('disaggregated, paced, hopeless rejected'), route: disaggregated, step: rejecting },
      { name: name('prefill-first, paced'), route: first(0.5), step: waiting },
      { name: name('prefill-first, paced, hopeless rejected'), route: first(0.5), step: rejecting },
      { name: name('prefill-first, paced at its TPOT, hopeless rejected'), route: first(0.5), step: tight },
      {
        name: name('prefill-first from 30 % of TTFT, slack spent, hopeless rejected'),
        route: first(0.3),
        step: saving,
      },
      {
        name: name('prefill-first from 80 % of TTFT, slack spent, hopeless rejected'),
        route: first(0.8),
        step: saving,
      },
      { name: name('prefill-first, shortest first, hopeless rejected'), route: first(0.5), step: shortest },
    ];
  };
  return [
    { name: 'collocated, full budget', route: collocated, step: budgeted(knowledge, tokenBudget) },
    {
      name: 'collocated, an eighth of the budget',
      route: collocated,
      step: budgeted(knowledge, Math.ceil(tokenBudget / 8)),
    },
    { name: 'collocated, paced', route: collocated, step: waiting },
    { name: 'collocated, paced, hopeless rejected', route: collocated, step: rejecting },
    { name: 'collocated, paced at its TPOT, hopeless rejected', route: collocated, step: tight },
    { name: 'collocated, slack spent, hopeless rejected', route: collocated, step: saving },
    { name: 'collocated, shortest first, hopeless rejected', route: collocated, step: shortest },
    ...Array.from({ length: workerCount - 1 }, (_, index) => ofCount(index + 1)).flat(),
  ];
}

/** Looks at workers, and routes by them. */
class Looks {
  readonly #knowledge: Knowledge;
  readonly #largest: number;

  constructor(knowledge: Knowledge) {
    this.#knowledge = knowledge;
    this.#largest = largestPaced(knowledge);
  }

  /** Where TTFT and TPOT together take the least share of their SLOs. */
  collocated(): Route {
    return (request, workers, nowMs) => {
      const use = (worker: ModelWorker) =>
        this.#ttftUse(request, worker, nowMs) + this.#tpotUse(request, worker);
      const best = least(workers, use);
      return [best, best];
    };
  }

  /** The first `count` compute prompts, the rest decodes. */
  disaggregated(count: number): Route {
    return (request, workers, nowMs) => [
      least(workers.slice(0, count), (worker) => this.#ttftUse(request, worker, nowMs)),
      least(workers.slice(count), (worker) => this.#tpotUse(request, worker)),
    ];
  }

  /** Prompts on the first `count` while their first token takes at most that share of its TTFT, else where it
   *  comes first; decodes on the others, while they keep their TPOT. */
  prefillFirst(count: number, comfortableUse: number): Route {
    return (request, workers, nowMs) => {
      const ttftUse = (worker: ModelWorker) => this.#ttftUse(request, worker, nowMs);
      const tpotUse = (worker: ModelWorker) => this.#tpotUse(request, worker);
      const prefill = least(workers.slice(0, count), ttftUse);
      const decode = least(workers.slice(count), tpotUse);
      if (tpotUse(decode) > aimedTpotShare && tpotUse(prefill) < tpotUse(decode)) return [prefill, prefill];
      const isEarly = ttftUse(prefill) <= Math.max(comfortableUse, ttftUse(decode));
      return [isEarly ? prefill : decode, decode];
    };
  }

  /** Of the first token: after the steps in flight and the prompts that are due before. */
  #ttftUse(request: ModelRequest, worker: ModelWorker, nowMs: number): number {
    const { predictMs } = this.#knowledge;
    const dueMs = dueMsOf({ request });
    let tokenCount = request.promptTokenCount;
    for (const prompt of worker.prompts)
      if (dueMsOf(prompt) <= dueMs && dueMsOf(prompt) >= nowMs) tokenCount += uncomputedOf(prompt);
    const rows = rowsOf([...worker.decoding, ...worker.incoming]);
    const paced = promptRoomWithin(predictMs, rows, aimedTpotShare * request.slo.tpotMs, {
      most: this.#largest,
      firstPosition: 0,
    });
    const room = rows.count === 0 ? this.#largest : Math.max(leastPromptTokenCount, paced);
    const stepMs = predictMs(stepWith(rows, Math.min(room, tokenCount)));
    const inFlightMs = Math.max(0, (worker.stepEndsMs.at(-1) ?? 0) - nowMs);
    return (inFlightMs + Math.max(1, tokenCount / room) * stepMs) / request.slo.ttftMs;
  }

  /** Of a step with all who decode there, or will, and this one. */
  #tpotUse({ promptTokenCount, slo }: ModelRequest, worker: ModelWorker): number {
    const others = rowsOf([
      ...worker.decoding,
      ...worker.incoming,
      ...worker.prompts.filter(({ decodeWorker }) => decodeWorker === worker),
    ]);
    const rows = { count: others.count + 1, kvTokenCount: others.kvTokenCount + promptTokenCount };
    return this.#knowledge.predictMs(stepWith(rows, 0)) / slo.tpotMs;
  }
}

/** The first of equals. */
function least(workers: readonly ModelWorker[], useOf: (worker: ModelWorker) => number): ModelWorker {
  const [first, ...others] = workers as readonly [ModelWorker, ...ModelWorker[]];
  let [best, bestUse] = [first, useOf(first)];
  for (const worker of others) {
    const use = useOf(worker);
    if (use < bestUse) [best, bestUse] = [worker, use];
  }
  return best;
}
