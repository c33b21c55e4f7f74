/** A worker process: an engine, its hand-overs, and one connection to the gateway. Started by cli/worker.ts.
 *  Invariant: it never outlives its gateway: when the connection ends, so does the process. */
import type { Clock } from '../base/clock.js';
import { InvalidRequestError, messageOf, toWire } from '../base/errors.js';
import type { WorkerId } from '../base/ids.js';
import type { Logger } from '../base/log.js';
import type { BusConnection, BusHandlers } from '../bus/bus.js';
import { type BusProtocolError, CheckedConnection } from '../bus/protocol.js';
import { connectUnix, removeAbandoned } from '../bus/unix-socket.js';
import type { TokenEvent } from '../engine/token-event.js';
import type { StepCost } from '../router/step-cost.js';
import { BestConnector } from '../transfer/best-connector.js';
import { BlockChecksums } from '../transfer/checksums.js';
import type { KvIdentity, KvSource } from '../transfer/connector.js';
import { HostRelayConnector } from '../transfer/host-relay.js';
import { PeerConnector } from '../transfer/peer.js';
import { TcpConnector } from '../transfer/tcp.js';
import { KvReceiver } from '../transfer/tcp-receiver.js';
import { EngineLoop, type Steppable } from './engine-loop.js';
import { HandOverSource } from './hand-over-source.js';
import { HandOverTarget } from './hand-over-target.js';
import { type LoadedEngine, loadEngine } from './load-engine.js';
import { gatewayAnswerChecks } from './message-checks.js';
import {
  type GatewayMessages,
  protocolVersion,
  type ReadyBody,
  type SnapshotBody,
  type WorkerConfig,
} from './messages.js';
import { OwnStepTimes } from './own-step-times.js';
import { StepBoundaryWaits } from './step-boundary-waits.js';
import { packSteps, RecentSteps } from './step-samples.js';
import { tokenMessages } from './token-messages.js';
import { WorkerService } from './worker-service.js';

interface WorkerOptions {
  readonly address: string;
  readonly workerId: WorkerId;
  readonly pid: number;
  /** Of the gateway, as this process sees it now: another number once the gateway is dead. */
  readonly parentPid: () => number;
  readonly clock: Clock;
  readonly logger: Logger;
  /** How it reaches its gateway and gets its engine. Absent: a unix socket, a model on a real device. The
   *  simulator has others. */
  readonly connect?: typeof connectUnix;
  readonly load?: typeof loadEngine;
  /** Memory of this process, reported in every snapshot. */
  readonly residentBytes?: () => number;
}

type GatewayConnection = BusConnection<GatewayMessages>;

const helloDeadlineMs = 30_000;
/** Snapshots while the engine works; when it rests, one per heartbeat. */
const busySnapshotEveryMs = 100;

/** Runs until the gateway is gone or the engine has failed; resolves with the exit code. */
export async function runWorker(options: WorkerOptions): Promise<number> {
  const { address, workerId, pid, parentPid, clock, logger, connect = connectUnix } = options;
  const gatewayPid = parentPid();
  const handlers = new LateHandlers();
  const bus = await connect(address, { clock, logger }, handlers);
  const connection = new CheckedConnection<GatewayMessages>(bus, gatewayAnswerChecks);
  const config = await connection
    .request('hello', { protocolVersion, workerId, pid }, helloDeadlineMs)
    .catch((error) => {
      connection.send('fatal', toWire(error)); // whoever started it is to know why it ends
      throw error;
    });
  const closed = connection.closed.then((reason) => {
    logger.debug({ reason }, 'the gateway is gone');
    return 0;
  });
  const served = serve(config, options, connection, handlers).catch((error) => {
    logger.error({ err: error }, `worker ${workerId} ends: ${messageOf(error)}`);
    connection.send('fatal', toWire(error));
    return 1;
  });
  const exitCode = await Promise.race([closed, served]);
  await Promise.race([connection.drained(), clock.sleep(100)]);
  if (exitCode === 0 && (await isOrphan(gatewayPid, parentPid, clock))) await removeAbandoned(address);
  return exitCode;
}

/** A killed gateway's sockets close a moment before its children get another parent. */
async function isOrphan(gatewayPid: number, parentPid: () => number, clock: Clock): Promise<boolean> {
  for (let attempt = 0; attempt < 20 && parentPid() === gatewayPid; attempt++) await clock.sleep(10);
  return parentPid() !== gatewayPid;
}

async function serve(
  config: WorkerConfig,
  options: WorkerOptions,
  connection: GatewayConnection,
  handlers: LateHandlers,
): Promise<number> {
  const { clock, logger, load = loadEngine, residentBytes = process.memoryUsage.rss } = options;
  const startMs = clock.nowMs();
  checkTransferOptions(config);
  const hooks: { source: HandOverSource | null } = { source: null };
  const steps = new RecentSteps();
  const stepTimes = new OwnStepTimes();
  const loaded = await load(
    config,
    clock,
    {
      onPrefillStart: (requestId, cachedTokenCount) =>
        hooks.source?.onPrefillStart(requestId, cachedTokenCount),
      onLayer: (layer, chunks, stream) => hooks.source?.onLayer(layer, chunks, stream),
      onStep: (sample) => steps.add(sample),
    },
    (progress) => connection.send('loading', { progress }),
    config.pacing === 'off' ? undefined : stepTimes,
  );
  const { engine, device } = loaded;
  const kv = identityOf(loaded, config);
  const connector = connectorFor(config, { device, cache: engine.cache, identity: kv, clock });
  const checksums = config.kvChecksum === 'on' ? new BlockChecksums(device, engine.cache) : null;
  const waits = new StepBoundaryWaits(clock);
  const target = new HandOverTarget(engine, kv.layoutHash, checksums, () => waits.resumed());
  const receiver = await listenFor(config, loaded, target, options);
  const source = new HandOverSource({
    connector,
    checksums,
    trialsOf: (channel) => connector.trialsOf(channel),
    layout: engine.cache.layout,
    device,
    clock,
    events: {
      prefillStarted: (body) => connection.send('prefillStarted', body),
      landed: (body) => connection.send('landed', body),
      handOverFailed: (body) => connection.send('handOverFailed', body),
    },
  });
  hooks.source = source;
  const deliver = (events: readonly TokenEvent[]): Promise<void> | undefined => {
    for (const message of tokenMessages(events)) connection.send('tokens', message);
    source.onTokens(events);
    return connection.isCongested ? connection.drained() : undefined;
  };
  const loop = new EngineLoop(watched(engine, waits), clock, deliver);
  const received = () => receiver?.passed() ?? Promise.resolve();
  const onStepCost = (cost: StepCost) => stepTimes.use(cost);
  let refuse: (error: BusProtocolError) => void = () => {};
  const refused = new Promise<never>((_, reject) => {
    refuse = reject;
  });
  const wake = () => loop.wake();
  handlers.use(new WorkerService({ engine, source, target, received, logger, wake, onStepCost, refuse }));
  connection.send('ready', readyBody(loaded, receiver, config, clock.nowMs() - startMs));
  const snapshot = () => ({ ...snapshotBody(loaded, source, target, waits), residentBytes: residentBytes() });
  void report(connection, clock, config.heartbeatEveryMs, snapshot, steps);
  await Promise.race([loop.run(), refused]);
  return 0;
}

/** Snapshots for as long as the connection lives: they are the heartbeat too. */
async function report(
  connection: GatewayConnection,
  clock: Clock,
  everyMs: number,
  snapshot: () => Omit<SnapshotBody, 'steps'>,
  steps: RecentSteps,
): Promise<void> {
  let lastState = '';
  let sentMs = Number.NEGATIVE_INFINITY;
  while (!connection.isClosed) {
    const body = snapshot();
    const { stepCount, runningCount, waitingCount, heldCount, reservedCount, ownedBlockCount } = body.engine;
    const state = [stepCount, runningCount, waitingCount, heldCount, reservedCount, ownedBlockCount].join();
    const nowMs = clock.nowMs(); // on a busy machine it sleeps longer than it asks to
    if (state !== lastState || nowMs - sentMs >= everyMs) {
      connection.send('snapshot', { ...body, steps: packSteps(steps.take()) });
      lastState = state;
      sentMs = nowMs;
    }
    await clock.sleep(Math.min(busySnapshotEveryMs, everyMs));
  }
}

/** Those that may be tried, the cheapest for the processors first. */
function connectorFor(
  { connector = 'auto', kvTransferDtype = 'auto' }: WorkerConfig,
  source: KvSource,
): BestConnector {
  const relays = [new HostRelayConnector(source), new TcpConnector(source)];
  const candidates = kvTransferDtype === 'auto' ? [new PeerConnector(source), ...relays] : relays;
  return new BestConnector(
    connector === 'auto' ? candidates : candidates.filter(({ name }) => name === connector),
  );
}

/** What cannot go together is said before a model is loaded. Throws InvalidRequestError. */
function checkTransferOptions({
  connector,
  kvTransferDtype = 'auto',
  kvChecksum,
  device,
}: WorkerConfig): void {
  if (connector === 'peer' && kvTransferDtype !== 'auto') {
    const what = `--connector peer writes KV as it is, and --kv-transfer-dtype is ${kvTransferDtype}`;
    throw new InvalidRequestError(`${what}: choose host-relay or tcp, or leave one of the two out`);
  }
  if (kvChecksum !== 'on') return;
  if (kvTransferDtype !== 'auto') {
    throw new InvalidRequestError(
      `--kv-checksum compares bytes, and ${kvTransferDtype} changes them on the way: leave one of the two out`,
    );
  }
  if (device.kind !== 'cpu') {
    throw new InvalidRequestError(
      `checksums of KV blocks are not there on ${device.kind} yet: leave --kv-checksum out`,
    );
  }
}

/** Null: KV never comes here over tcp. */
async function listenFor(
  config: WorkerConfig,
  loaded: LoadedEngine,
  target: HandOverTarget,
  { clock, logger, workerId }: WorkerOptions,
): Promise<KvReceiver | null> {
  if (config.role === 'prefill' || config.connector === 'peer') return null;
  const { device, engine } = loaded;
  const host = config.kvHost ?? '127.0.0.1';
  const accepts = target.accepts.bind(target);
  return KvReceiver.listen({
    device,
    cache: engine.cache,
    identity: identityOf(loaded, config),
    workerId,
    host,
    clock,
    logger,
    accepts,
  });
}

/** The engine, with a look at the clock before each step. */
function watched(engine: Steppable, waits: StepBoundaryWaits): Steppable {
  return {
    get hasWork() {
      return engine.hasWork;
    },
    step: () => {
      waits.stepping();
      return engine.step();
    },
  };
}

function snapshotBody(
  { engine }: LoadedEngine,
  source: HandOverSource,
  target: HandOverTarget,
  waits: StepBoundaryWaits,
): Omit<SnapshotBody, 'steps' | 'residentBytes'> {
  return {
    engine: engine.snapshot(),
    hasWork: engine.hasWork,
    connectors: source.status(),
    quarantinedBlockCount: target.quarantinedBlockCount,
    stepBoundaryWaits: waits.totals,
  };
}

function identityOf({ engine }: LoadedEngine, { kvTransferDtype = 'auto' }: WorkerConfig): KvIdentity {
  const { shape, hash } = engine.cache.layout;
  const identity = { protocolVersion, modelName: shape.modelName, dtype: shape.dtype, layoutHash: hash };
  return { ...identity, transferDtype: kvTransferDtype, geometry: { shape, firstHead: 0 } };
}

function readyBody(
  loaded: LoadedEngine,
  receiver: KvReceiver | null,
  config: WorkerConfig,
  loadMs: number,
): ReadyBody {
  const { device, model, engine } = loaded;
  const { layout, blockCount } = engine.cache;
  return {
    device: device.info,
    kv: identityOf(loaded, config),
    cache: engine.cache.export(),
    receiver: receiver?.address ?? null,
    blockTokenCount: layout.shape.blockTokenCount,
    blockCount,
    blockBytes: layout.blockBytes,
    weightBytes: model.weightBytes,
    weightFormat: model.weightFormat,
    batchInvariant: config.batchInvariant ?? 'off',
    maxModelTokenCount: config.maxModelTokenCount,
    loadMs,
  };
}

/** The connection is there before the engine is. */
class LateHandlers implements BusHandlers {
  #service: BusHandlers | null = null;

  use(service: BusHandlers): void {
    this.#service = service;
  }

  onRequest(kind: string, body: unknown): ReturnType<BusHandlers['onRequest']> {
    if (this.#service === null) return Promise.reject(new Error(`'${kind}' before the worker was ready`));
    return this.#service.onRequest(kind, body);
  }

  onEvent(kind: string, body: unknown): void {
    this.#service?.onEvent(kind, body);
  }
}
