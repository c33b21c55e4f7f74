/** Sends the load generator's requests straight to a gateway: what HTTP and the generator cost is the host's
 *  to say. Used by simulation.ts. */
import type { Clock } from '../base/clock.js';
import { messageOf, TwostrokeError } from '../base/errors.js';
import { requestId } from '../base/ids.js';
import type { CompletionAnswer, CompletionClient, PreparedRequest } from '../bench/completion-client.js';
import type { PlannedRequest } from '../bench/load-record.js';
import type { GatewayApi } from '../control/gateway-api.js';
import type { RouteSummary } from '../control/request-record.js';
import type { ServiceClass } from '../control/service-class.js';
import { greedy } from '../engine/sampling-params.js';
import type { Host } from './host.js';

/** What the headers of a request would say. */
export type ClassOf = (request: PlannedRequest) => ServiceClass | undefined;
/** Whose key it would bring. */
export type OwnerOf = (request: PlannedRequest) => string | undefined;

interface AskedBy {
  /** Absent: requests are of no class. */
  readonly classOf?: ClassOf;
  /** Absent: all are anybody's. */
  readonly ownerOf?: OwnerOf;
}

export class GatewayClient implements CompletionClient {
  readonly #gateway: GatewayApi;
  readonly #clock: Clock;
  readonly #host: Host;
  readonly #askedBy: AskedBy;

  constructor(gateway: GatewayApi, clock: Clock, host: Host, askedBy: AskedBy = {}) {
    this.#gateway = gateway;
    this.#clock = clock;
    this.#host = host;
    this.#askedBy = askedBy;
  }

  prepare(request: PlannedRequest): PreparedRequest {
    return { send: (signal) => this.#send(request, signal) };
  }

  async #send(planned: PlannedRequest, signal: AbortSignal): Promise<CompletionAnswer> {
    const { index, prompt, wantedTokenCount, maxTokenCount, slo } = planned;
    const serviceClass = this.#askedBy.classOf?.(planned);
    const owner = this.#askedBy.ownerOf?.(planned);
    const sentMs = this.#clock.nowMs();
    let seenMs = sentMs;
    const chunkMs: number[] = [];
    let outputTokenCount = 0;
    let route: RouteSummary | null = null;
    let cancel = () => {};
    const ended = (outcome: CompletionAnswer['outcome'], error?: string): CompletionAnswer => ({
      outcome,
      sentMs,
      endMs: Math.max(seenMs, this.#clock.nowMs()),
      chunkMs,
      outputTokenCount,
      id: `r${index}`,
      ...(error === undefined ? {} : { error }),
      ...(route === null ? {} : { route: `${route.path}; ${route.workers.join(' -> ')}` }),
    });
    try {
      const waitMs = this.#host.requestWaitMs();
      if (waitMs > 0) await this.#clock.sleep(waitMs);
      const stream = this.#gateway.submit({
        id: requestId(`r${index}`),
        ...(slo === undefined ? {} : { slo }),
        ...(serviceClass === undefined ? {} : { serviceClass }),
        ...(owner === undefined ? {} : { owner }),
        promptIds: prompt.kind === 'ids' ? prompt.ids : [],
        sampling: { ...greedy, maxTokenCount, forcedTokenCount: wantedTokenCount },
      });
      cancel = () => stream.cancel();
      signal.addEventListener('abort', cancel, { once: true });
      void stream.route.then(
        (summary) => {
          route = summary;
        },
        () => {},
      );
      for await (const event of stream) {
        if (event.kind !== 'tokens' || event.tokens.length === 0) continue;
        seenMs = this.#clock.nowMs() + this.#host.chunkWaitMs(event.tokens.length);
        chunkMs.push(seenMs);
        outputTokenCount += event.tokens.length;
      }
      return ended(signal.aborted ? 'unfinished' : 'completed');
    } catch (error) {
      const isRejected =
        error instanceof TwostrokeError && (error.code === 'overloaded' || error.code === 'unavailable');
      return ended(signal.aborted ? 'unfinished' : isRejected ? 'rejected' : 'failed', messageOf(error));
    } finally {
      signal.removeEventListener('abort', cancel);
    }
  }
}
