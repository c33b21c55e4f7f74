/** Asks a running gateway for what a measurement needs: random prompts on a given route, and what became of
 *  them. Used by measure-*.ts.
 *  Invariant: a request it has made ends with the measurement, also when that is cut. */
import type { Clock } from '../base/clock.js';
import { TwostrokeError } from '../base/errors.js';
import { requestId, type TokenId, type WorkerId } from '../base/ids.js';
import { freshId, Prng } from '../base/prng.js';
import type { Gateway } from '../control/gateway.js';
import type { GenerationStream } from '../control/generation-stream.js';
import type { RequestRecord } from '../control/request-record.js';
import { greedy } from '../engine/sampling-params.js';
import type { RoutePlace } from '../router/route.js';
import type { Ask } from './bursts.js';

export type MeasuredGateway = Pick<Gateway, 'submit' | 'workers' | 'onMeasured' | 'onStepSamples'>;

interface AskerOptions {
  readonly gateway: MeasuredGateway;
  readonly clock: Clock;
  readonly vocabCount: number;
  readonly signal: AbortSignal;
}

interface Asked {
  readonly firstToken: Promise<void>;
  /** Rejects when the request failed. */
  readonly record: Promise<RequestRecord>;
  cancel(): void;
}

export const onWorker = (worker: WorkerId): RoutePlace => ({ path: 'collocated', worker });
export const handedOver = (prefillWorker: WorkerId, decodeWorker: WorkerId): RoutePlace => ({
  path: 'disaggregated',
  prefillWorker,
  decodeWorker,
});

export class Asker {
  readonly #options: AskerOptions;
  readonly #prng = new Prng(1);
  readonly #commonPrompt: readonly TokenId[];
  readonly #waiting = new Map<string, (record: RequestRecord) => void>();
  readonly #open = new Set<GenerationStream>();
  readonly #stopListening: () => void;

  constructor(options: AskerOptions) {
    this.#options = options;
    this.#commonPrompt = this.#randomPrompt(8192);
    this.#stopListening = options.gateway.onMeasured((record) => this.#waiting.get(record.id)?.(record));
    options.signal.addEventListener('abort', () => {
      for (const stream of this.#open) stream.cancel();
    });
  }

  ask({ promptTokenCount, cachedTokenCount, outputTokenCount }: Ask, route: RoutePlace): Asked {
    if (this.#options.signal.aborted) throw new TwostrokeError('cancelled', 'the measurement was stopped');
    const id = requestId(freshId('measure'));
    const promptIds = [
      ...this.#commonPrompt.slice(0, cachedTokenCount),
      ...this.#randomPrompt(promptTokenCount - cachedTokenCount),
    ];
    const reported = new Promise<RequestRecord>((resolve) => this.#waiting.set(id, resolve));
    const sampling = { ...greedy, maxTokenCount: outputTokenCount };
    const stream = this.#options.gateway.submit({ id, promptIds, sampling, measuredRoute: route });
    this.#open.add(stream);
    let sawFirst = () => {};
    const firstToken = new Promise<void>((resolve) => {
      sawFirst = resolve;
    });
    const read = async () => {
      for await (const event of stream) if (event.kind === 'tokens') sawFirst();
    };
    const record = read()
      .then(() => reported)
      .finally(() => {
        sawFirst();
        this.#open.delete(stream);
        this.#waiting.delete(id);
      });
    record.catch(() => {}); // whoever wants it gets the rejection
    return { firstToken, record, cancel: () => stream.cancel() };
  }

  close(): void {
    this.#stopListening();
  }

  #randomPrompt(tokenCount: number): TokenId[] {
    return Array.from({ length: tokenCount }, () => this.#prng.integer(0, this.#options.vocabCount - 1));
  }
}
