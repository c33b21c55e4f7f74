/** What serving costs the processors of one host beside computing: the event loops of gateway, workers and
 *  load generator, on cores that they share with the compute threads. Measured from a real server
 *  (scripts/measure-host.mjs); used by simulation.ts. Nothing here knows how long a step takes, nor what the
 *  router believes. */
import type { Clock } from '../base/clock.js';
import { InvalidRequestError } from '../base/errors.js';
import type { TokenEvent } from '../engine/token-event.js';
import type { Message } from './in-process-bus.js';
import { type CoresOptions, type EventLoop, SharedCores } from './shared-cores.js';

/** Processor milliseconds of one event loop. */
interface LoopCost {
  /** For a request, from its first byte to its end, tokens apart. */
  readonly requestMs: number;
  /** For one message or packet with tokens. */
  readonly frameMs: number;
  readonly tokenMs: number;
}

export interface HostCosts extends CoresOptions {
  /** What an unloaded client waits for its first token beside workers and messages: HTTP, parsing, the choice
   *  of a route, its own loop. */
  readonly frontMs: number;
  readonly gateway: LoopCost;
  readonly worker: LoopCost;
  readonly generator: LoopCost;
}

const free: LoopCost = { requestMs: 0, frameMs: 0, tokenMs: 0 };
/** Cores to spare and a client inside the gateway: nothing waits but for what the profile measured. */
export const spareHost: HostCosts = {
  coreCount: Number.POSITIVE_INFINITY,
  neighbourSlowdown: 0,
  frontMs: 0,
  gateway: free,
  worker: free,
  generator: free,
};

export class Host {
  readonly cores: SharedCores;
  readonly costs: HostCosts;
  readonly #gateway: EventLoop;
  readonly #generator: EventLoop;

  constructor(clock: Clock, costs: HostCosts) {
    this.costs = costs;
    this.cores = new SharedCores(clock, costs);
    this.#gateway = this.cores.addLoop();
    this.#generator = this.cores.addLoop();
  }

  /** A request on its way to the gateway: milliseconds until it is there. */
  requestWaitMs(): number {
    const { frontMs, gateway, generator } = this.costs;
    const waitMs = this.#generator.run(generator.requestMs);
    return frontMs + waitMs + this.#gateway.run(gateway.requestMs, waitMs + generator.requestMs);
  }

  /** Tokens have come to the client, which sees them so many milliseconds later. */
  chunkWaitMs(tokenCount: number): number {
    const { frameMs, tokenMs } = this.costs.generator;
    return this.#generator.run(frameMs + tokenCount * tokenMs);
  }

  /** What a message waits for beside what an unloaded one takes. */
  messageWaitMs(workerLoop: EventLoop, { kind, role }: Message, body: unknown): number {
    const { gateway, worker } = this.costs;
    if (role === 'request' && (kind === 'generate' || kind === 'prefill' || kind === 'resume')) {
      return workerLoop.run(worker.requestMs);
    }
    if (kind !== 'tokens') return 0;
    const tokenCount = tokenCountOf(body);
    const sendMs = worker.frameMs + tokenCount * worker.tokenMs;
    const waitMs = workerLoop.run(sendMs);
    return waitMs + this.#gateway.run(gateway.frameMs + tokenCount * gateway.tokenMs, waitMs + sendMs);
  }
}

function tokenCountOf(body: unknown): number {
  let count = 0;
  for (const event of (body as { events: readonly TokenEvent[] }).events)
    if (event.kind === 'tokens') count += event.tokens.length;
  return count;
}

/** From JSON, as measure-host writes it. Throws InvalidRequestError naming `file`. */
export function parseHost(text: string, file: string): HostCosts {
  const isLoop = (value: unknown) => {
    const { requestMs, frameMs, tokenMs } = (value ?? {}) as Partial<LoopCost>;
    return [requestMs, frameMs, tokenMs].every((ms) => typeof ms === 'number' && ms >= 0);
  };
  let host: Partial<HostCosts> = {};
  try {
    host = JSON.parse(text) as Partial<HostCosts>;
  } catch {
    throw new InvalidRequestError(`${file} is no JSON`);
  }
  const { coreCount = 0, neighbourSlowdown = -1, frontMs = -1, gateway, worker, generator } = host;
  if (
    !(coreCount >= 1) ||
    !(neighbourSlowdown >= 0) ||
    !(frontMs >= 0) ||
    ![gateway, worker, generator].every(isLoop)
  ) {
    const names = 'coreCount, neighbourSlowdown, frontMs, gateway, worker, generator';
    throw new InvalidRequestError(
      `${file} does not say what serving costs a host (${names}): have scripts/measure-host.mjs measure it`,
    );
  }
  return host as HostCosts;
}
