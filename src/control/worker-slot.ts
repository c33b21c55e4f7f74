/** One worker's place: starts its process, hears its messages, watches that it lives, and starts it again
 *  when it has died. Made by supervisor.ts, one per worker spec, for the life of the gateway.
 *  Invariants: at most one process at a time; `onLost` is called only after the process has been reaped; a
 *  process whose connection broke, or that went silent, is killed first. */
import { TwostrokeError, type WireError } from '../base/errors.js';
import type { WorkerId } from '../base/ids.js';
import type { BusConnection } from '../bus/bus.js';
import { CheckedConnection, hearing } from '../bus/protocol.js';
import type { LoadProgress } from '../model/model.js';
import type { WorkerRole } from '../router/snapshot.js';
import type { StepSample } from '../router/step-work.js';
import { gatewayEventChecks, otherVersion, workerAnswerChecks } from '../worker/message-checks.js';
import {
  type GatewayMessages,
  type HelloBody,
  type HelloReply,
  type LoadingBody,
  protocolVersion,
  type ReadyBody,
  type SnapshotBody,
  type WorkerConfig,
  type WorkerMessages,
} from '../worker/messages.js';
import { unpackSteps } from '../worker/step-samples.js';
import { FreezeWatch } from './freeze-watch.js';
import type { GatewayLimits, GatewayOptions } from './gateway-options.js';
import type { LoadTurn, LoadTurns } from './load-turns.js';
import { RemoteWorker } from './remote-worker.js';
import type { Blame } from './suspicion.js';
import type { SpawnWorker, WorkerProcess } from './worker-process.js';
import type { WorkerState } from './worker-status.js';

/** What all slots share. */
export interface SlotContext
  extends Pick<GatewayOptions, 'workerEntry' | 'workerEnvironment' | 'clock' | 'logger'> {
  readonly spawn: SpawnWorker;
  readonly limits: GatewayLimits;
  readonly onLoadProgress: (workerId: WorkerId, progress: LoadProgress) => void;
  /** The newest steps that a worker has computed, oldest first. */
  readonly onStepSamples?: (workerId: WorkerId, samples: readonly StepSample[]) => void;
}

export interface SlotOptions {
  readonly id: WorkerId;
  readonly role: WorkerRole;
  readonly effectiveRole: WorkerRole;
  readonly config: WorkerConfig;
  /** Of the bus. */
  readonly address: string;
  /** Shared by the workers of one GPU; null: this one may load whenever it likes. */
  readonly loadTurns: LoadTurns | null;
  readonly supervisor: SlotContext;
  readonly onChange: (slot: WorkerSlot) => void;
}

/** Errors that another start will not cure, as long as the worker has never been ready. */
const permanentCodes: readonly string[] = ['model_error', 'device_error', 'invalid_request'];
interface Kill {
  readonly reason: string;
  readonly blame: Blame;
}

/** Nothing that a worker computes sends these. */
const outsideSignals: readonly NodeJS.Signals[] = ['SIGKILL', 'SIGTERM', 'SIGINT', 'SIGQUIT', 'SIGHUP'];

export class WorkerSlot {
  readonly id: WorkerId;
  readonly options: SlotOptions;
  state: WorkerState = 'starting';
  incarnation = 0;
  restartCount = 0;
  client: RemoteWorker | null = null;
  ready: ReadyBody | null = null;
  snapshot: SnapshotBody | null = null;
  error: WireError | null = null;
  #process: WorkerProcess | null = null;
  #connection: BusConnection | null = null;
  #loading: LoadProgress | null = null;
  #killed: Kill | null = null;
  /** This process, not an earlier one. */
  #wasReady = false;
  #turn: LoadTurn | null = null;
  #freeze: FreezeWatch;
  /** Since its last message, as far as this process was awake. */
  #silentMs = 0;
  #lastProgressMs = 0;
  #isStopping = false;
  /** Its process is of another version: so will the next one be. */
  #isOtherVersion = false;
  #stopWaiting: () => void = () => {};
  readonly #hear = hearing<GatewayMessages['events']>(
    gatewayEventChecks,
    {
      tokens: (body) => this.client?.onTokens(body),
      snapshot: (body) => this.#onSnapshot(body),
      prefillStarted: (body) => this.client?.onPrefillStarted(body),
      landed: (body) => this.client?.onLanded(body),
      handOverFailed: (body) => this.client?.onHandOverFailed(body),
      loading: (body) => this.#onLoading(body),
      ready: (body) => this.#onReady(body),
      fatal: (body) => {
        this.error = body;
      },
    },
    ({ message }) => this.#refuse(`it sent ${message}`),
  );
  #life: Promise<void> = Promise.resolve();

  constructor(options: SlotOptions) {
    this.id = options.id;
    this.options = options;
    this.#freeze = new FreezeWatch(options.supervisor.limits.frozenMs);
  }

  get loading(): LoadProgress | null {
    return this.#loading;
  }

  get pid(): number | null {
    return this.#process?.pid ?? null;
  }

  get isLive(): boolean {
    return this.state === 'ready';
  }

  /** How long it has had work and made no step; 0 while it has none. */
  get stalledMs(): number {
    return this.snapshot?.hasWork === true ? this.#clock.nowMs() - this.#lastProgressMs : 0;
  }

  start(): void {
    this.#life = this.#live();
  }

  /** Kills the process for good; resolves when it has been reaped. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    this.#stopWaiting();
    this.#connection?.close('the gateway stops');
    this.kill('the gateway stops');
    await this.#life;
  }

  kill(reason: string, blame: Blame = 'work'): void {
    if (this.#process === null || this.#killed !== null) return;
    this.#killed = { reason, blame };
    if (!this.#isStopping) this.#logger.warn({ worker: this.id, pid: this.pid, reason }, 'worker killed');
    this.#process.kill();
  }

  /** The process has said hello: what it is to do. Throws when it speaks another protocol: it is killed, and
   *  not started again. */
  greet(connection: BusConnection, hello: HelloBody): HelloReply {
    this.#connection = connection;
    if (hello.protocolVersion !== protocolVersion) {
      const message = otherVersion(`worker ${this.id}`, hello.protocolVersion);
      this.error = { code: 'internal', message };
      this.#isOtherVersion = true;
      this.kill(message);
      throw new TwostrokeError('internal', message);
    }
    this.#heard();
    this.#setState('loading');
    void connection.closed.then((reason) => {
      if (this.#connection === connection) this.kill(`its connection ended: ${reason}`, 'outside');
    });
    return { ...this.options.config, protocolVersion, deviceLoadedCount: this.#turn?.loadedCount ?? 0 };
  }

  onEvent(kind: string, body: unknown): void {
    this.#heard();
    this.#hear(kind, body);
  }

  /** What it says makes no sense: nothing more is heard of it. */
  #refuse(reason: string): void {
    this.kill(reason);
    this.#connection?.close(reason);
  }

  /** Called by the supervisor every now and then. `sleptMs`: of the time since the last call, what does not
   *  count beside `elapsedMs`, because the gateway itself did not run. */
  watch(elapsedMs: number, sleptMs: number): void {
    const { limits } = this.options.supervisor;
    this.#silentMs += elapsedMs;
    this.#lastProgressMs += sleptMs;
    if (this.#process === null) return;
    const look = this.#process.look?.() ?? null;
    const freeze =
      look === null ? null : this.#freeze.look(look, elapsedMs, this.isLive ? 'promised' : 'not_yet');
    const silentMsMax = this.isLive ? limits.heartbeatMs : limits.loadSilenceMs;
    if (freeze !== null) this.kill(freeze.reason, freeze.blame);
    else if (this.#silentMs > silentMsMax) this.kill(`it said nothing for ${Math.round(this.#silentMs)} ms`);
    else if (this.stalledMs > limits.stalledKillMs)
      this.kill(`it has work but made no step for ${Math.round(this.stalledMs)} ms`);
  }

  /** One process after another, until stopped or hopeless. Who served is back at once: only who dies at its
   *  start is waited for. */
  async #live(): Promise<void> {
    const { limits } = this.options.supervisor;
    let delayMs = limits.restartDelayMsMin;
    while (!this.#isStopping) {
      this.#turn = (await this.options.loadTurns?.take()) ?? null;
      const reason = this.#isStopping ? 'the gateway stops' : await this.#runProcess();
      this.#turn?.end();
      if (this.#isStopping) break;
      if (this.ready === null && this.#isHopeless()) return this.#setState('failed');
      this.#logger.error(
        { worker: this.id, reason, delayMs: this.#wasReady ? 0 : delayMs },
        'worker died, restarting',
      );
      if (this.#wasReady) delayMs = limits.restartDelayMsMin;
      else {
        await this.#pause(delayMs);
        delayMs = Math.min(2 * delayMs, limits.restartDelayMsMax);
      }
      this.restartCount++;
    }
    this.#setState('dead');
  }

  /** Another start will not cure it. Only asked while it has never been ready. */
  #isHopeless(): boolean {
    const isPermanent = this.error !== null && permanentCodes.includes(this.error.code);
    return (
      isPermanent || this.#isOtherVersion || this.incarnation >= this.options.supervisor.limits.startCountMax
    );
  }

  /** Resolves, with what ended it, when the process has been reaped. */
  async #runProcess(): Promise<string> {
    const { supervisor, address } = this.options;
    this.incarnation++;
    this.#killed = null;
    this.#freeze = new FreezeWatch(supervisor.limits.frozenMs);
    this.#wasReady = false;
    this.error = null;
    this.#loading = null;
    this.#heard();
    this.#setState('starting');
    this.#process = supervisor.spawn({
      entry: supervisor.workerEntry,
      address,
      workerId: this.id,
      logLevel: supervisor.logger.level,
      ...(supervisor.workerEnvironment === undefined ? {} : { environment: supervisor.workerEnvironment }),
    });
    const { reason: exit, signal } = await this.#process.exited;
    const killed = this.#killed as Kill | null; // set meanwhile
    const reason = killed === null ? exit : `${exit}: ${killed.reason}`;
    const isOutside = signal !== null && outsideSignals.includes(signal) && killed?.blame !== 'work';
    this.#process = null;
    this.error ??= { code: 'unavailable', message: `worker ${this.id}: ${reason}` };
    this.#lose(reason, isOutside ? 'outside' : 'work');
    return reason;
  }

  #lose(reason: string, blame: Blame): void {
    const { client } = this;
    this.client = null;
    this.snapshot = null;
    this.#connection?.close(reason);
    this.#connection = null;
    this.#setState('dead');
    client?.lose(reason, blame);
  }

  #onLoading({ progress }: LoadingBody): void {
    this.#loading = progress;
    this.options.supervisor.onLoadProgress(this.id, progress);
  }

  #onReady(body: ReadyBody): void {
    const connection = this.#connection;
    if (connection === null || this.state !== 'loading') return;
    const { limits } = this.options.supervisor;
    const target = {
      workerId: this.id,
      incarnation: this.incarnation,
      cache: body.cache,
      blockCount: body.blockCount,
      kv: body.kv,
      receiver: body.receiver,
    };
    this.ready = body;
    this.#wasReady = true;
    const checked = new CheckedConnection<WorkerMessages>(connection, workerAnswerChecks);
    this.client = new RemoteWorker({
      target,
      connection: checked,
      limits,
      kill: (reason) => this.#refuse(reason),
    });
    this.#logger.info(
      { worker: this.id, pid: this.pid, loadMs: Math.round(body.loadMs), blocks: body.blockCount },
      'worker ready',
    );
    this.#turn?.loaded();
    this.#setState('ready');
  }

  #onSnapshot(body: SnapshotBody): void {
    const before = this.snapshot;
    this.snapshot = body;
    this.client?.onSnapshot(body);
    if (body.steps.length > 0) this.options.supervisor.onStepSamples?.(this.id, unpackSteps(body.steps));
    if (before?.engine.stepCount !== body.engine.stepCount || !before.hasWork)
      this.#lastProgressMs = this.#clock.nowMs();
  }

  #pause(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = this.#clock.after(delayMs, resolve);
      this.#stopWaiting = () => {
        timer.cancel();
        resolve();
      };
    });
  }

  #setState(state: WorkerState): void {
    this.state = state;
    this.options.onChange(this);
  }

  #heard(): void {
    this.#silentMs = 0;
    this.#freeze.heard();
  }

  get #clock() {
    return this.options.supervisor.clock;
  }

  get #logger() {
    return this.options.supervisor.logger;
  }
}
