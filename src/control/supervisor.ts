/** All worker processes of this host: one slot each, one bus for all. Used by gateway.ts; a WorkerDirectory
 *  for the coordinator.
 *  Invariants: a connection belongs to the process that the slot has started (id and pid must agree); when a
 *  worker dies, every other one lets go of its cache. */
import os from 'node:os';
import { type WorkerId, workerId } from '../base/ids.js';
import { type NextChange, Signal } from '../base/signal.js';
import type { BusConnection, BusHandlers, BusServer } from '../bus/bus.js';
import { answering, BusProtocolError } from '../bus/protocol.js';
import { listenUnix } from '../bus/unix-socket.js';
import { effectiveRoles } from '../router/plan.js';
import { gatewayRequestChecks } from '../worker/message-checks.js';
import type { GatewayMessages, HelloBody, WorkerConfig } from '../worker/messages.js';
import { stepLimitsOf } from '../worker/step-limits.js';
import { looksPerFreeze } from './freeze-watch.js';
import type { GatewayLimits, GatewayOptions } from './gateway-options.js';
import { LoadTurns } from './load-turns.js';
import type { WorkerClient } from './worker-client.js';
import type { WorkerDirectory, WorkerFacts } from './worker-directory.js';
import { type SlotContext, type SlotOptions, WorkerSlot } from './worker-slot.js';
import type { WorkerSpec } from './worker-spec.js';

interface SupervisorOptions extends Omit<GatewayOptions, 'limits'>, SlotContext {
  /** A slot has changed its state. */
  readonly onChange: (slot: WorkerSlot) => void;
  readonly onLost: (workerId: WorkerId) => void;
}

const heartbeatsPerLimit = 8;

/** Between two heartbeats of a worker, and between two looks at it. */
function heartbeatEveryMs({ heartbeatMs, frozenMs }: GatewayLimits): number {
  return Math.min(heartbeatMs / heartbeatsPerLimit, frozenMs / looksPerFreeze);
}

export class Supervisor implements WorkerDirectory {
  readonly slots: readonly WorkerSlot[];
  readonly #options: SupervisorOptions;
  readonly #bus: BusServer;
  readonly #changed = new Signal();
  #facts: readonly WorkerFacts[] | null = null;
  #isStopping = false;

  static async start(options: SupervisorOptions): Promise<Supervisor> {
    const supervisor: { current: Supervisor | null } = { current: null };
    const { listen = listenUnix } = options.processes ?? {};
    const bus = await listen({ clock: options.clock, logger: options.logger }, (connection) => {
      if (supervisor.current === null) throw new Error('a connection before the first worker was started');
      return supervisor.current.#accept(connection);
    });
    supervisor.current = new Supervisor(options, bus);
    for (const slot of supervisor.current.slots) slot.start();
    void supervisor.current.#watch();
    return supervisor.current;
  }

  private constructor(options: SupervisorOptions, bus: BusServer) {
    this.#options = options;
    this.#bus = bus;
    this.slots = slotOptions(options, bus.address, (slot) => this.#onChange(slot)).map(
      (each) => new WorkerSlot(each),
    );
  }

  /** Made anew only when a worker has come or gone: every decision asks. */
  workers(): readonly WorkerFacts[] {
    this.#facts ??= this.slots.map((slot) => ({
      id: slot.id,
      role: slot.options.effectiveRole,
      isLive: slot.isLive,
      pacing: slot.options.config.pacing ?? 'on',
      blockTokenCount: slot.ready?.blockTokenCount ?? 1,
      blockCount: slot.ready?.blockCount ?? 1,
      ...shapeOf(slot),
    }));
    return this.#facts;
  }

  availableBlockCount(id: WorkerId): number {
    const { snapshot, ready } = this.slots.find((slot) => slot.id === id) ?? {};
    if (snapshot == null) return ready?.blockCount ?? 0;
    return snapshot.engine.freeBlockCount + snapshot.engine.cachedBlockCount;
  }

  client(id: WorkerId): WorkerClient | null {
    return this.slots.find((slot) => slot.id === id)?.client ?? null;
  }

  nextChange(): NextChange {
    return this.#changed.next();
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    await Promise.all(this.slots.map((slot) => slot.stop()));
    await this.#bus.close();
  }

  /** A connection is nobody's until it has said hello as a process that was started here. */
  #accept(connection: () => BusConnection): BusHandlers {
    let slot: WorkerSlot | null = null;
    return {
      onRequest: answering<GatewayMessages['requests']>(gatewayRequestChecks, {
        hello: (hello) => {
          if (slot !== null) throw new BusProtocolError(`worker ${slot.id} has said hello before`);
          slot = this.#slotOf(hello);
          if (slot !== null) {
            connection().identified();
            return slot.greet(connection(), hello);
          }
          const reason = `no worker ${hello.workerId} with pid ${hello.pid} was started here`;
          connection().close(reason);
          throw new BusProtocolError(reason);
        },
      }),
      onEvent: (kind, body) => slot?.onEvent(kind, body),
    };
  }

  #slotOf({ workerId: id, pid }: HelloBody): WorkerSlot | null {
    return this.slots.find((each) => each.id === id && each.pid === pid && each.state === 'starting') ?? null;
  }

  /** While this process itself has no core, or is stopped, nobody is silent: of a longer gap only two
   *  intervals count, and what has come meanwhile is read before the next look. */
  async #watch(): Promise<void> {
    const everyMs = heartbeatEveryMs(this.#options.limits);
    let lastMs = this.#options.clock.nowMs();
    while (!this.#isStopping) {
      await this.#sleep(everyMs);
      const nowMs = this.#options.clock.nowMs();
      const elapsedMs = Math.min(nowMs - lastMs, 2 * everyMs);
      const sleptMs = nowMs - lastMs - elapsedMs;
      lastMs = nowMs;
      for (const slot of this.slots) slot.watch(elapsedMs, sleptMs);
    }
  }

  /** Does not keep the process alive. */
  #sleep(delayMs: number): Promise<void> {
    return new Promise((resolve) => this.#options.clock.after(delayMs, resolve));
  }

  #onChange(slot: WorkerSlot): void {
    this.#facts = null;
    if (slot.state === 'dead') this.#onDead(slot);
    if (slot.state === 'ready') this.#connectPeers(slot);
    this.#options.onChange(slot);
    this.#changed.fire();
  }

  /** Ways for hand-overs, to and from a worker that has come. */
  #connectPeers(fresh: WorkerSlot): void {
    const open = (from: WorkerSlot, to: WorkerSlot) => {
      const mayHandOver = from.options.effectiveRole !== 'decode' && to.options.effectiveRole !== 'prefill';
      if (mayHandOver && to.client !== null) from.client?.openPeer(to.client.target);
    };
    for (const other of this.slots) {
      if (other === fresh || !other.isLive) continue;
      open(fresh, other);
      open(other, fresh);
    }
  }

  #onDead(dead: WorkerSlot): void {
    this.#options.onLost(dead.id);
    for (const slot of this.slots) slot.client?.forgetPeer(dead.id, dead.incarnation);
  }
}

/** What the cost model wants to know of a worker without measuring it; nothing before it has been ready. */
function shapeOf({
  ready,
  options: { config },
}: WorkerSlot): Pick<WorkerFacts, 'batchSlotCount' | 'shape' | 'kind'> {
  if (ready === null) return {};
  const { device, kv, weightFormat, batchInvariant } = ready;
  const { sequenceCountMax, ...step } = stepLimitsOf(config.device.kind, config);
  const kind = JSON.stringify([
    device.name,
    device.threadCount,
    kv.modelName,
    kv.dtype,
    weightFormat,
    batchInvariant,
    step,
  ]);
  return {
    kind,
    batchSlotCount: sequenceCountMax,
    shape: { ...step, kvBytesPerToken: ready.blockBytes / ready.blockTokenCount },
  };
}

function slotOptions(
  options: SupervisorOptions,
  address: string,
  onChange: (slot: WorkerSlot) => void,
): SlotOptions[] {
  const { workers, strategy, split, limits } = options;
  const roles = workers.map(({ role }) => role);
  const effective = effectiveRoles(roles, strategy, split);
  const turnsByGpu = new Map<number, LoadTurns>();
  const loadTurnsOf = ({ device: { kind, index } }: WorkerSpec) => {
    if (kind === 'cpu') return null;
    const turns = turnsByGpu.get(index) ?? new LoadTurns();
    turnsByGpu.set(index, turns);
    return turns;
  };
  return workers.map((spec, index) => {
    const effectiveRole = effective[index] ?? spec.role;
    const config: WorkerConfig = {
      ...options.settings,
      ...(spec.quantize === undefined ? {} : { quantize: spec.quantize }),
      ...(spec.blockCount === undefined ? {} : { blockCount: spec.blockCount }),
      role: effectiveRole,
      device: { ...spec.device, threadCount: threadCountOf(spec, options) },
      deviceShareCount: workers.filter(
        (each) => each.device.kind === spec.device.kind && each.device.index === spec.device.index,
      ).length,
      heartbeatEveryMs: heartbeatEveryMs(limits),
    };
    const loadTurns = loadTurnsOf(spec);
    return {
      id: workerId(`w${index}`),
      role: spec.role,
      effectiveRole,
      config,
      address,
      loadTurns,
      supervisor: options,
      onChange,
    };
  });
}

/** CPU workers share the cores evenly, at least one thread each. */
function threadCountOf(spec: WorkerSpec, { workers, threads }: SupervisorOptions): number {
  if (spec.device.kind !== 'cpu') return 0;
  if (spec.threadCount !== undefined) return spec.threadCount;
  const cpuWorkerCount = workers.filter(({ device }) => device.kind === 'cpu').length;
  return Math.max(1, Math.floor((threads ?? os.availableParallelism()) / cpuWorkerCount));
}
