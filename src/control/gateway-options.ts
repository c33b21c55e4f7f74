/** What is decided before a Gateway starts. Every default is made by library/. */
import type { Clock } from '../base/clock.js';
import type { Logger } from '../base/log.js';
import type { listenUnix } from '../bus/unix-socket.js';
import type { Split, Strategy } from '../router/route.js';
import type { SloSpec } from '../router/slo-spec.js';
import type { WorkerCosts } from '../router/worker-costs.js';
import type { WorkerSettings } from '../worker/messages.js';
import type { OverloadPolicy, TransferFailurePolicy } from './gateway-api.js';
import type { SpawnWorker } from './worker-process.js';
import type { WorkerSpec } from './worker-spec.js';

export interface GatewayOptions {
  readonly workers: readonly WorkerSpec[];
  readonly strategy: Strategy;
  readonly split?: Split;
  /** The same for every worker, unless its spec says otherwise. */
  readonly settings: WorkerSettings;
  /** Compute threads of all CPU workers together, shared evenly; a spec's own `threads` wins. Absent: all
   *  cores. */
  readonly threads?: number;
  /** Cores of this host, for gateway and workers together. Absent: as many as this process may use. */
  readonly coreCount?: number;
  /** Path of the worker's JavaScript: dist/src/cli/worker-main.cjs. */
  readonly workerEntry: string;
  /** Environment of the worker processes; absent: this process's own. */
  readonly workerEnvironment?: Readonly<Record<string, string | undefined>>;
  /** For requests that do not say. Absent: recompute. */
  readonly onTransferFailure?: TransferFailurePolicy;
  /** For requests whose TTFT cannot be met any more. Absent: late. */
  readonly onOverload?: OverloadPolicy;
  /** What requests that do not say are to be served within. Absent: the usual multiples of what they take
   *  alone. */
  readonly slo?: SloSpec;
  readonly logger: Logger;
  readonly clock: Clock;
  readonly limits?: Partial<GatewayLimits>;
  /** What is known of the workers' costs beforehand. Absent: nothing; they are guessed, and learned from what
   *  steps take. */
  readonly costs?: WorkerCosts;
  /** How workers are started and reached. Absent: child processes over unix sockets. The simulator has
   *  others. */
  readonly processes?: WorkerProcesses;
}

export interface WorkerProcesses {
  readonly spawn: SpawnWorker;
  readonly listen: typeof listenUnix;
}

/** Times and bounds; every wait in control/ ends by one of them. */
export interface GatewayLimits {
  /** Requests accepted and not finished, one of n choices counting n; more are refused with `overloaded`.
   *  null: as many as the workers can hold, and once more as many that wait (admission.ts says why). */
  readonly requestCountMax: number | null;
  /** A request without a deadline of its own ends after this. */
  readonly requestDeadlineMs: number;
  /** Whoever would wait longer for others before its prompt begins is refused with `overloaded`. */
  readonly waitMsMax: number;
  /** For a worker's answer to a control message that needs no computing. Long, because a worker that is alive
   *  may have to wait for a core. */
  readonly replyDeadlineMs: number;
  /** For the answer to a release: a step and its copies may have to end first. */
  readonly releaseDeadlineMs: number;
  /** A worker that is stopped, or says nothing and does not run, for this long is frozen (freeze-watch.ts):
   *  it is killed, reaped and restarted. */
  readonly frozenMs: number;
  /** So is one that says nothing for this long, whatever it does: on a busy machine it may have to wait for a
   *  core. */
  readonly heartbeatMs: number;
  /** Work, but no step for this long: /health says stalled. */
  readonly stalledMs: number;
  /** Work, but no step for this long: the worker is killed and restarted. */
  readonly stalledKillMs: number;
  /** Silence while a worker loads its model. */
  readonly loadSilenceMs: number;
  /** How long a finished prefill keeps its blocks while decode has no room. */
  readonly holdMs: number;
  /** How long a reservation waits for its prefill to start. */
  readonly leaseMs: number;
  /** From the first token (and a place to go) until every byte of a hand-over has landed. */
  readonly landDeadlineMs: number;
  /** Crashes of a worker that has never been ready before it is given up. */
  readonly startCountMax: number;
  /** Tokens of growth reserved with a prompt, per choice. */
  readonly growthTokenCount: number;
  /** Deaths of workers in a row that may speak against a request before it fails (suspicion.ts): one that
   *  kills its workers must not kill them all. */
  readonly lossCountMax: number;
  /** Before a worker is started again that died before it was ready, doubled each time. One that was ready is
   *  started again at once. */
  readonly restartDelayMsMin: number;
  readonly restartDelayMsMax: number;
}

export const defaultGatewayLimits: GatewayLimits = {
  // whoever embeds a gateway brings requests of its own; `serve`, which meets everybody's, goes by the
  // workers
  requestCountMax: 4096,
  requestDeadlineMs: 30 * 60_000,
  // the proxies and clients that are in use give up on a silent server after a minute: what is computed later
  // nobody reads
  waitMsMax: 60_000,
  replyDeadlineMs: 60_000,
  releaseDeadlineMs: 60_000,
  frozenMs: 1_000,
  heartbeatMs: 15_000,
  stalledMs: 30_000,
  stalledKillMs: 180_000,
  loadSilenceMs: 10 * 60_000,
  holdMs: 1_000,
  leaseMs: 10_000,
  landDeadlineMs: 30_000,
  startCountMax: 5,
  growthTokenCount: 32,
  lossCountMax: 3,
  restartDelayMsMin: 100,
  restartDelayMsMax: 10_000,
};
