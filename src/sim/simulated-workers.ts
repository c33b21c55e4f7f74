/** Worker processes without processes: the real worker, engine and hand-overs on a timed device, started and
 *  killed by the real supervisor. Used by simulation.ts. Invariant: what `kill` has ended does nothing any
 *  more, like a process that was reaped. */
import { assert } from '../base/assert.js';
import type { Clock } from '../base/clock.js';
import { messageOf } from '../base/errors.js';
import { type WorkerId, workerId } from '../base/ids.js';
import type { Logger } from '../base/log.js';
import type { BusHandlers } from '../bus/bus.js';
import type { WorkerProcesses } from '../control/gateway-options.js';
import type { ProcessEnd, SpawnOptions, WorkerProcess } from '../control/worker-process.js';
import type { DeviceInfo } from '../device/device.js';
import { Engine, type EngineHooks } from '../engine/engine.js';
import type { StepTimeModel } from '../engine/engine-options.js';
import type { RequestCost } from '../router/cost-parameters.js';
import type { StepWork } from '../router/step-work.js';
import type { LoadedEngine, loadEngine } from '../worker/load-engine.js';
import type { WorkerConfig } from '../worker/messages.js';
import { stepLimitsOf } from '../worker/step-limits.js';
import { runWorker } from '../worker/worker.js';
import type { Host } from './host.js';
import { InProcessBus, type Message } from './in-process-bus.js';
import type { LinkTimes } from './link-times.js';
import { MortalClock, MortalComputeTime } from './mortal-clock.js';
import type { StepTimes } from './step-times.js';
import { TimedDevice } from './timed-device.js';
import { simulatedKvDtype, timedModel } from './timed-model.js';

/** How long things take on one worker. */
export interface WorkerTimes {
  readonly steps: StepTimes;
  readonly link: LinkTimes;
  readonly request: RequestCost;
  readonly kvBytesPerToken: number;
}

interface SimulatedWorkersOptions {
  readonly clock: Clock;
  readonly host: Host;
  readonly logger: Logger;
  /** Asked at every start of a worker. */
  readonly timesOf: (workerIndex: number) => WorkerTimes;
  readonly vocabCount: number;
  readonly onMessage?: (worker: WorkerId, message: Message, body: unknown) => void;
  readonly onStep?: (worker: WorkerId, work: StepWork, ms: number) => void;
}

interface Running {
  readonly process: WorkerProcess;
  engine: Engine | null;
}

interface EngineParts {
  readonly clock: MortalClock;
  readonly hooks: EngineHooks;
  readonly stepTimes: StepTimeModel | undefined;
}

const gatewayPid = 1;

export class SimulatedWorkers implements WorkerProcesses {
  readonly #options: SimulatedWorkersOptions;
  readonly #bus = new InProcessBus();
  readonly #running = new Map<WorkerId, Running>();
  #lastPid = gatewayPid;

  constructor(options: SimulatedWorkersOptions) {
    this.#options = options;
  }

  readonly listen = this.#bus.listen;

  /** Engines of the workers that live, in the order of their first start. */
  get engines(): readonly { readonly id: WorkerId; readonly engine: Engine }[] {
    return [...this.#running].flatMap(([id, { engine }]) => (engine === null ? [] : [{ id, engine }]));
  }

  /** As SIGKILL from outside. The supervisor starts it again. */
  kill(id: WorkerId): void {
    this.#running.get(id)?.process.kill();
  }

  readonly spawn = ({ address, workerId: id }: SpawnOptions): WorkerProcess => {
    const { clock, logger, host } = this.#options;
    const loop = host.cores.addLoop();
    const life = new MortalClock(clock);
    const pid = ++this.#lastPid;
    const connections = new Set<{ close(reason: string): void }>();
    const times = this.#options.timesOf(indexOf(id));
    let end: (reason: string, signal?: ProcessEnd['signal']) => void = () => {};
    const exited = new Promise<ProcessEnd>((resolve) => {
      end = (reason, signal = null) => clock.after(0, () => resolve({ reason, signal }));
    });
    const process: WorkerProcess = {
      pid,
      exited,
      kill: () => {
        life.die();
        for (const connection of connections) connection.close('the process is gone');
        end('it was killed by SIGKILL', 'SIGKILL');
      },
    };
    const running: Running = { process, engine: null };
    this.#running.set(id, running);
    const connect = async (_address: string, _options: object, handlers: BusHandlers) => {
      await life.yield(); // the process takes a moment to start: its slot knows its pid by then
      const onDelivery = (message: Message, body: unknown) => this.#options.onMessage?.(id, message, body);
      const delayMs = (message: Message, body: unknown) =>
        delayMsOf(message, times.request) + host.messageWaitMs(loop, message, body);
      const connection = this.#bus.connect({ clock, delayMs, onDelivery }, handlers);
      connections.add(connection);
      return connection;
    };
    const load: typeof loadEngine = async (config, _clock, hooks, _onProgress, stepTimes) => {
      const loaded = this.#load(id, config, { clock: life, hooks, stepTimes }, times);
      running.engine = loaded.engine;
      return loaded;
    };
    const options = {
      address,
      workerId: id,
      pid,
      parentPid: () => gatewayPid,
      clock: life,
      logger,
      connect,
      load,
      residentBytes: () => 0,
    };
    runWorker(options).then(
      (code) => end(`it exited with code ${code}`),
      (error) => end(`it failed: ${messageOf(error)}`),
    );
    return process;
  };

  #load(
    id: WorkerId,
    config: WorkerConfig,
    { clock, hooks, stepTimes }: EngineParts,
    times: WorkerTimes,
  ): LoadedEngine {
    const { blockCount } = config;
    assert(blockCount !== undefined, 'a simulated worker has as many blocks as it is given');
    const { onStep, vocabCount, host } = this.#options;
    const time = new MortalComputeTime(host.cores, clock);
    const device = new TimedDevice({
      time,
      info: infoOf(config),
      steps: times.steps,
      link: times.link,
      ...(onStep === undefined ? {} : { onStep: (work: StepWork, ms: number) => onStep(id, work, ms) }),
    });
    const limits = stepLimitsOf(config.device.kind, config);
    const logitRowCountMax = Math.min(limits.sequenceCountMax, limits.tokenBudget);
    const model = timedModel(device, {
      kvBytesPerToken: times.kvBytesPerToken,
      vocabCount,
      logitRowCountMax,
    });
    const kv = { blockTokenCount: config.blockTokenCount, blockCount, dtype: simulatedKvDtype };
    const engine = new Engine(
      { ...config, ...limits, device: device.asDevice(), model, kv, clock, ...(stepTimes && { stepTimes }) },
      hooks,
    );
    return { device: device.asDevice(), model, engine, masks: null };
  }
}

/** The supervisor names workers w0, w1, … in the order of their specs. */
function indexOf(id: WorkerId): number {
  const index = Number(id.slice(1));
  assert(id === workerId(`w${index}`), `worker id ${id}`);
  return index;
}

function infoOf({ device }: WorkerConfig): DeviceInfo {
  return { name: 'simulated', isa: 'none', ...device, totalBytes: 0, freeBytes: 0 };
}

/** What a request was measured to cost beside steps and bytes, laid on the messages that carry it. Of a
 *  hand-over the two messages between its last byte and the decode side's next step: landed and resume. */
function delayMsOf(
  { kind, role, direction }: Message,
  { arrivalMs, tokenMs, handOverMs }: RequestCost,
): number {
  if (role === 'request' && (kind === 'generate' || kind === 'prefill')) return arrivalMs;
  if (kind === 'landed' || (kind === 'resume' && role === 'request')) return handOverMs / 2;
  return direction === 'toGateway' && kind === 'tokens' ? tokenMs : 0;
}
