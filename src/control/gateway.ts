/** Supervisor and coordinator in one object: what a server is in front of. Used by library/ and cli/; server/
 *  knows it as GatewayApi.
 *  Invariant: after stop() has resolved no worker process is left. */
import { messageOf, TwostrokeError } from '../base/errors.js';
import type { WorkerId } from '../base/ids.js';
import type { LoadProgress } from '../model/model.js';
import type { ProfileFile } from '../router/cost-parameters.js';
import { validateStrategy } from '../router/plan.js';
import type { StepSample } from '../router/step-work.js';
import { WorkerCosts } from '../router/worker-costs.js';
import type { Bundle, Place } from './admission.js';
import { Coordinator } from './coordinator.js';
import type { GatewayApi, RequestInput } from './gateway-api.js';
import { defaultGatewayLimits, type GatewayLimits, type GatewayOptions } from './gateway-options.js';
import type { GenerationStream } from './generation-stream.js';
import { healthOf } from './health.js';
import type { RoutingStatus } from './prediction-errors.js';
import type { RequestRecord } from './request-record.js';
import type { ServiceClass } from './service-class.js';
import { slotError, statusOf } from './slot-status.js';
import { Supervisor } from './supervisor.js';
import { spawnWorker } from './worker-process.js';
import type { WorkerSlot } from './worker-slot.js';
import type { Health, WorkerStatus } from './worker-status.js';

const drainPollMs = 10;

export class Gateway implements GatewayApi {
  readonly ready: Promise<void>;
  readonly #options: GatewayOptions;
  readonly #limits: GatewayLimits;
  readonly #supervisor: Supervisor;
  readonly #coordinator: Coordinator;
  readonly #listeners: Listeners;
  readonly #costs: WorkerCosts;
  #isStopping = false;
  #stopping: Promise<void> | null = null;

  /** Spawns the workers; resolves when the bus is up (the workers may still load: see `ready`). Throws
   *  InvalidRequestError for a strategy that the roles forbid, naming both. */
  static async start(options: GatewayOptions): Promise<Gateway> {
    const roles = options.workers.map(({ role }) => role);
    validateStrategy(roles, options.strategy, options.split);
    const limits = { ...defaultGatewayLimits, ...options.limits };
    const listeners = new Listeners();
    const { spawn = spawnWorker } = options.processes ?? {};
    const supervisor = await Supervisor.start({ ...options, limits, spawn, ...listeners.forSupervisor() });
    return new Gateway(options, limits, supervisor, listeners);
  }

  private constructor(
    options: GatewayOptions,
    limits: GatewayLimits,
    supervisor: Supervisor,
    listeners: Listeners,
  ) {
    const { clock, logger, strategy, onTransferFailure = 'recompute', onOverload = 'late' } = options;
    this.#options = options;
    this.#limits = limits;
    this.#supervisor = supervisor;
    this.#listeners = listeners;
    const { costs = new WorkerCosts() } = options;
    this.#costs = costs;
    listeners.stepSamples.add((id, samples) => costs.observe(id, samples));
    const onDone = (record: RequestRecord) => listeners.requestDone(record, logger);
    this.#coordinator = new Coordinator({
      directory: supervisor,
      costs,
      strategy,
      onTransferFailure,
      onOverload,
      ...(options.slo === undefined ? {} : { slo: options.slo }),
      limits,
      clock,
      logger,
      onDone,
      ready: listeners.ready,
    });
    listeners.onReady = (slot) => this.#tellStepCost(slot);
    listeners.onLost = (id) => this.#coordinator.forgetWorker(id);
    listeners.slots = supervisor.slots;
    this.ready = listeners.ready;
  }

  get state(): GatewayApi['state'] {
    if (this.#isStopping) return 'stopping';
    if (!this.#listeners.isReady) return 'loading';
    return this.#supervisor.slots.every((slot) => slot.isLive) ? 'ready' : 'degraded';
  }

  get requestCount(): number {
    return this.#coordinator.requestCount;
  }

  get choiceCountMax(): number {
    return this.#coordinator.choiceCountMax;
  }

  checkRoom(serviceClass?: ServiceClass): void {
    this.#refuseWhenStopping();
    this.#coordinator.checkRoom(serviceClass);
  }

  admit(bundle: Bundle): Place {
    this.#refuseWhenStopping();
    return this.#coordinator.admit(bundle);
  }

  submit(input: RequestInput): GenerationStream {
    this.#refuseWhenStopping();
    return this.#coordinator.submit(input);
  }

  workers(): readonly WorkerStatus[] {
    return this.#supervisor.slots.map(statusOf);
  }

  health(): Health {
    return healthOf(
      this.#supervisor.slots,
      this.#listeners.isReady ? 'ready' : 'loading',
      this.#limits.stalledMs,
    );
  }

  routing(): RoutingStatus {
    return this.#coordinator.routing;
  }

  /** What a worker costs was measured: the router and the worker itself go by it from now on. */
  useProfile(id: WorkerId, profile: ProfileFile): void {
    this.#costs.use(id, profile);
    const slot = this.#supervisor.slots.find((each) => each.id === id);
    if (slot !== undefined) this.#tellStepCost(slot);
  }

  #tellStepCost({ id, client }: WorkerSlot): void {
    const cost = this.#costs.measuredStepOf(id);
    if (cost !== null) client?.useStepCost(cost);
  }

  onLoadProgress(listener: (workerId: WorkerId, progress: LoadProgress) => void): void {
    this.#listeners.loadProgress.push(listener);
  }

  onRequestDone(listener: (record: RequestRecord) => void): void {
    this.#listeners.done.push(listener);
  }

  /** Requests with a measuredRoute; other listeners do not hear of them. Returns what ends the listening. */
  onMeasured(listener: (record: RequestRecord) => void): () => void {
    this.#listeners.measured.add(listener);
    return () => void this.#listeners.measured.delete(listener);
  }

  /** The steps that workers have computed, for whoever measures them: the newest since the last call, oldest
   *  first. Returns what ends the listening. */
  onStepSamples(listener: (workerId: WorkerId, samples: readonly StepSample[]) => void): () => void {
    this.#listeners.stepSamples.add(listener);
    return () => void this.#listeners.stepSamples.delete(listener);
  }

  async checkIntegrity(): Promise<void> {
    for (const { id, client } of this.#supervisor.slots) {
      await client?.checkIntegrity(new Set(this.#coordinator.requestIds)).catch((error) => {
        throw new TwostrokeError('internal', `worker ${id}: ${messageOf(error)}`, { cause: error });
      });
    }
  }

  stop({ drainMs = 0 }: { readonly drainMs?: number } = {}): Promise<void> {
    this.#isStopping = true;
    this.#stopping ??= this.#stop(drainMs);
    return this.#stopping;
  }

  #refuseWhenStopping(): void {
    if (this.#isStopping) throw new TwostrokeError('unavailable', 'the server is stopping');
  }

  async #stop(drainMs: number): Promise<void> {
    const { clock } = this.#options;
    const endMs = clock.nowMs() + drainMs;
    while (this.requestCount > 0 && clock.nowMs() < endMs) await clock.sleep(drainPollMs);
    this.#coordinator.failAll(new TwostrokeError('unavailable', 'the server is stopping'));
    await this.#supervisor.stop();
  }
}

/** What happens below reaches whoever listens; `ready` settles once. */
class Listeners {
  readonly loadProgress: ((workerId: WorkerId, progress: LoadProgress) => void)[] = [];
  readonly done: ((record: RequestRecord) => void)[] = [];
  readonly measured = new Set<(record: RequestRecord) => void>();
  readonly stepSamples = new Set<(workerId: WorkerId, samples: readonly StepSample[]) => void>();
  readonly ready: Promise<void>;
  isReady = false;
  onLost: (id: WorkerId) => void = () => {};
  onReady: (slot: WorkerSlot) => void = () => {};
  slots: readonly WorkerSlot[] = [];
  #resolve: () => void = () => {};
  #reject: (error: Error) => void = () => {};

  constructor() {
    this.ready = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.ready.catch(() => {}); // whoever wants it gets the rejection
  }

  forSupervisor() {
    return {
      onLoadProgress: (id: WorkerId, progress: LoadProgress) => {
        for (const listen of this.loadProgress) listen(id, progress);
      },
      onChange: (slot: WorkerSlot) => this.#onChange(slot),
      onLost: (id: WorkerId) => this.onLost(id),
      onStepSamples: (id: WorkerId, samples: readonly StepSample[]) => {
        for (const listen of this.stepSamples) listen(id, samples);
      },
    };
  }

  requestDone(record: RequestRecord, logger: GatewayOptions['logger']): void {
    logger.debug({ record }, 'request done');
    for (const listen of record.isMeasurement ? this.measured : this.done) listen(record);
  }

  #onChange(slot: WorkerSlot): void {
    if (slot.state === 'failed') this.#reject(slotError(slot));
    if (slot.state === 'ready') this.onReady(slot);
    if (this.slots.length === 0 || !this.slots.every((each) => each.isLive)) return;
    this.isReady = true;
    this.#resolve();
  }
}
