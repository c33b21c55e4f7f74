/** The whole cluster on virtual time: gateway, router, workers, engines and hand-overs are the real ones;
 *  processes, devices and time are not. Used by cli/simulate.ts, scripts/simulate-*.mjs and tests.
 *  Invariants: same options, same run, to the byte of its event log; at the end no request is lost and no
 *  worker holds a block. */
import { assert } from '../base/assert.js';
import type { Clock } from '../base/clock.js';
import { messageOf } from '../base/errors.js';
import { workerId } from '../base/ids.js';
import { silentLogger } from '../base/log.js';
import type { LoadRecord, PlannedRequest } from '../bench/load-record.js';
import { type RunOptions, runLoad } from '../bench/run.js';
import { type RoutedFacts, routedFactsOf, withRouted } from '../bench/server-facts.js';
import { Gateway } from '../control/gateway.js';
import type { OverloadPolicy } from '../control/gateway-api.js';
import type { GatewayLimits } from '../control/gateway-options.js';
import type { RequestRecord as GatewayRecord } from '../control/request-record.js';
import type { WorkerSpec } from '../control/worker-spec.js';
import type { EngineSnapshot } from '../engine/engine-options.js';
import type { ProfileFile } from '../router/cost-parameters.js';
import type { Split, Strategy } from '../router/route.js';
import type { SloSpec } from '../router/slo-spec.js';
import { WorkerCosts } from '../router/worker-costs.js';
import type { WorkerSettings } from '../worker/messages.js';
import { messageLine, stepLine } from './event-log.js';
import { type ClassOf, GatewayClient, type OwnerOf } from './gateway-client.js';
import { Host, type HostCosts, spareHost } from './host.js';
import { SimulatedWorkers, type WorkerTimes } from './simulated-workers.js';
import { VirtualClock } from './virtual-clock.js';

/** What an engine may hold and do in a step; the same for every worker. */
export type SimulatedSettings = Pick<
  WorkerSettings,
  | 'blockTokenCount'
  | 'tokenBudget'
  | 'prefillChunkTokenCount'
  | 'sequenceCountMax'
  | 'maxModelTokenCount'
  | 'prefixCaching'
  | 'pacing'
  | 'depth'
> & { readonly blockCount: number; readonly vocabCount: number };

export interface SimulationOptions {
  readonly workers: readonly WorkerSpec[];
  readonly strategy: Strategy;
  readonly split?: Split;
  readonly onOverload?: OverloadPolicy;
  readonly slo?: SloSpec;
  /** Absent: requests are of no class. */
  readonly classOf?: ClassOf;
  /** Absent: all are anybody's. */
  readonly ownerOf?: OwnerOf;
  readonly settings: SimulatedSettings;
  /** Asked at every start of a worker. */
  readonly timesOf: (workerIndex: number) => WorkerTimes;
  /** All processes run there. Absent: it has cores to spare. */
  readonly host?: HostCosts;
  readonly limits?: Partial<GatewayLimits>;
  /** What the router believes of each worker; null, or absent: nothing, it learns. */
  readonly profileOf?: (workerIndex: number) => ProfileFile | null;
  /** Gets every line of the event log, without line ends. Absent: nothing is logged, which is faster. */
  readonly onLogLine?: (line: string) => void;
  /** Things that go wrong, by time since the first request could arrive. */
  readonly faults?: readonly Fault[];
  /** Of each request, as the gateway has it. */
  readonly onRequestDone?: (record: GatewayRecord) => void;
}

interface Fault {
  readonly atMs: number;
  readonly strike: (workers: SimulatedWorkers) => void;
}

type SimulatedLoad = Pick<
  RunOptions,
  'concurrencyMax' | 'warmupMs' | 'warmupRequestCount' | 'drainMs' | 'durationMs'
>;

export interface SimulatedRun {
  readonly plan: Iterable<PlannedRequest>;
  readonly load: SimulatedLoad;
  /** Before it nobody asks for anything for so long. Absent: 0. */
  readonly idleMs?: number;
}

export interface SimulationResult {
  /** As a load test of a real server has them. */
  readonly records: readonly LoadRecord[];
  /** Of each worker at the end. */
  readonly engines: readonly (EngineSnapshot & { readonly id: string })[];
  /** Virtual time at the end. */
  readonly simulatedMs: number;
}

/** After the workers are ready, ways between them are opened and measured. */
/** Nobody stops a simulated process. */
const unfrozen: Partial<GatewayLimits> = { frozenMs: Number.POSITIVE_INFINITY };
const settleMs = 2000;
const quietPollMs = 10;
const quietMsMax = 60_000;

/** One load test of a cluster. Throws AssertionError when an invariant is broken at the end. */
export async function simulate(
  options: SimulationOptions,
  plan: Iterable<PlannedRequest>,
  load: SimulatedLoad,
): Promise<SimulationResult> {
  const [result] = await simulateRuns(options, [{ plan, load }]);
  assert(result !== undefined, 'one run, one result');
  return result;
}

/** Load tests one after the other of the same cluster, which remembers what it has learned, as a server does.
 *  The invariants are checked after each. */
export function simulateRuns(
  options: SimulationOptions,
  runs: Iterable<SimulatedRun>,
): Promise<readonly SimulationResult[]> {
  const clock = new VirtualClock();
  return clock.drive(runAll(clock, options, runs));
}

async function runAll(
  clock: Clock,
  options: SimulationOptions,
  runs: Iterable<SimulatedRun>,
): Promise<readonly SimulationResult[]> {
  const host = new Host(clock, options.host ?? spareHost);
  const workers = workersOf(clock, host, options);
  const { coreCount } = host.costs;
  const gateway = await Gateway.start({
    workers: options.workers,
    strategy: options.strategy,
    clock,
    logger: silentLogger,
    ...(options.split === undefined ? {} : { split: options.split }),
    ...(options.onOverload === undefined ? {} : { onOverload: options.onOverload }),
    ...(options.slo === undefined ? {} : { slo: options.slo }),
    limits: { ...unfrozen, ...options.limits },
    costs: costsOf(options),
    settings: settingsOf(options.settings),
    workerEntry: '',
    processes: workers,
    // not of the machine that simulates
    coreCount,
    threads: Number.isFinite(coreCount) ? coreCount : options.workers.length,
  });
  await gateway.ready;
  await clock.sleep(settleMs);
  const routed = new Map<string, RoutedFacts>();
  gateway.onRequestDone((record) => routed.set(record.id, routedFactsOf(record)));
  if (options.onRequestDone !== undefined) gateway.onRequestDone(options.onRequestDone);
  for (const { atMs, strike } of options.faults ?? []) clock.after(atMs, () => strike(workers));
  const results: SimulationResult[] = [];
  for (const { plan, load, idleMs = 0 } of runs) {
    await clock.sleep(idleMs);
    routed.clear();
    const records = await runLoad(plan, new GatewayClient(gateway, clock, host, options), {
      ...load,
      clock,
    });
    await checkQuiet(clock, gateway, workers);
    const engines = workers.engines.map(({ id, engine }) => ({ id, ...engine.snapshot() }));
    results.push({ records: withRouted(records, routed), engines, simulatedMs: clock.nowMs() });
  }
  await gateway.stop();
  return results;
}

function workersOf(
  clock: Clock,
  host: Host,
  { timesOf, settings, onLogLine }: SimulationOptions,
): SimulatedWorkers {
  const { vocabCount } = settings;
  return new SimulatedWorkers({
    clock,
    host,
    logger: silentLogger,
    timesOf,
    vocabCount,
    ...(onLogLine === undefined
      ? {}
      : {
          onMessage: (id, message, body) => {
            if (message.kind !== 'snapshot') onLogLine(messageLine(clock.nowMs(), id, message, body));
          },
          onStep: (id, work, ms) => onLogLine(stepLine(clock.nowMs(), id, work, ms)),
        }),
  });
}

function costsOf({ workers, profileOf }: SimulationOptions): WorkerCosts {
  const costs = new WorkerCosts();
  for (const index of workers.keys()) costs.use(workerId(`w${index}`), profileOf?.(index) ?? null);
  return costs;
}

/** Of a real worker's settings those that mean something here; KV goes by the peer connector, whose copies
 *  the timed device times. */
function settingsOf({ vocabCount: _, ...settings }: SimulatedSettings): WorkerSettings {
  return {
    ...settings,
    modelFolder: '',
    loadFormat: 'dummy',
    dtype: 'auto',
    kvDtype: 'auto',
    quantize: 'none',
    gpuMemoryShare: 1,
    connector: 'peer',
  };
}

/** Every request has ended, every worker has let go of everything, and every block is accounted for. */
async function checkQuiet(clock: Clock, gateway: Gateway, workers: SimulatedWorkers): Promise<void> {
  const endMs = clock.nowMs() + quietMsMax;
  const isQuiet = () =>
    gateway.requestCount === 0 &&
    workers.engines.every(({ engine }) => !engine.hasWork && holdsNothing(engine.snapshot()));
  while (!isQuiet() && clock.nowMs() < endMs) await clock.sleep(quietPollMs);
  assert(gateway.requestCount === 0, `${gateway.requestCount} requests never ended`);
  for (const { id, engine } of workers.engines) {
    const { ownedBlockCount, heldCount, reservedCount } = engine.snapshot();
    assert(
      holdsNothing(engine.snapshot()),
      `${id} keeps ${ownedBlockCount} blocks, ${heldCount} prompts, ${reservedCount} reservations`,
    );
  }
  await gateway.checkIntegrity().catch((error) => assert(false, messageOf(error)));
}

function holdsNothing({ ownedBlockCount, heldCount, reservedCount }: EngineSnapshot): boolean {
  return ownedBlockCount === 0 && heldCount === 0 && reservedCount === 0;
}
