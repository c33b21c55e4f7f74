/** Workers without processes: they keep WorkerClient's promises on virtual time, watch the coordinator's own
 *  (nothing of a request is released while someone writes into it, nothing runs twice), and can be killed at
 *  any moment. Tokens are a hash of all that came before, so that a lost, doubled or swapped token shows. */
import { assert } from '../../src/base/assert.js';
import { type RequestId, requestId, type TokenId, type WorkerId, workerId } from '../../src/base/ids.js';
import { silentLogger } from '../../src/base/log.js';
import { type NextChange, Signal } from '../../src/base/signal.js';
import { Coordinator } from '../../src/control/coordinator.js';
import type { OverloadPolicy, RequestInput, TransferFailurePolicy } from '../../src/control/gateway-api.js';
import { defaultGatewayLimits, type GatewayLimits } from '../../src/control/gateway-options.js';
import { Lifeline } from '../../src/control/lifeline.js';
import type { Request } from '../../src/control/request.js';
import type { RequestRecord } from '../../src/control/request-record.js';
import type { Blame } from '../../src/control/suspicion.js';
import {
  type Emit,
  HandOverError,
  type Reserved,
  type WorkerClient,
  WorkerLostError,
} from '../../src/control/worker-client.js';
import type { WorkerDirectory, WorkerFacts } from '../../src/control/worker-directory.js';
import { greedy } from '../../src/engine/sampling-params.js';
import type { TokenEvent } from '../../src/engine/token-event.js';
import type { Strategy } from '../../src/router/route.js';
import type { WorkerRole } from '../../src/router/snapshot.js';
import { WorkerCosts } from '../../src/router/worker-costs.js';
import type { LandedBody } from '../../src/worker/messages.js';
import { VirtualClock } from './virtual-clock.js';

export const stepMs = 5;
const restartMs = 200;
const blockTokenCount = 16;

export function nextToken(
  promptIds: readonly TokenId[],
  output: readonly TokenId[],
  choiceIndex: number,
): TokenId {
  let hash = 17 + choiceIndex;
  for (const token of [...promptIds, ...output]) hash = (Math.imul(hash, 31) + token) | 0;
  return Math.abs(hash) % 1000;
}

export function idealOutput(promptIds: readonly TokenId[], choiceIndex: number, count: number): TokenId[] {
  const output: TokenId[] = [];
  while (output.length < count) output.push(nextToken(promptIds, output, choiceIndex));
  return output;
}

/** What a request holds on a worker, and who writes into it. */
interface Held {
  readonly blockCount: number;
  isRunning: boolean;
  writer: FakeWorker | null;
}

export class FakeWorker implements WorkerClient {
  readonly id: WorkerId;
  readonly held = new Map<RequestId, Held>();
  readonly life = new Lifeline();
  readonly #prefillings = new Map<RequestId, (error: Error) => void>();
  readonly room = new Signal();
  readonly #cluster: FakeCluster;
  #epoch = 0;

  constructor(id: WorkerId, cluster: FakeCluster) {
    this.id = id;
    this.#cluster = cluster;
  }

  get usedBlockCount(): number {
    return [...this.held.values()].reduce((sum, { blockCount }) => sum + blockCount, 0);
  }

  generate(request: Request, emit: Emit): Promise<void> {
    return this.orLost(this.#generate(request, emit));
  }

  async #generate(request: Request, emit: Emit): Promise<void> {
    await this.#stage('generate', request);
    const held = this.#hold(request, null);
    emit({ kind: 'cached', requestId: request.id, cachedTokenCount: 0 });
    await this.#stage('generating', request);
    void this.#decode(request, emit, held);
  }

  prefill(request: Request, emit: Emit, reserve: () => Promise<Reserved>): Promise<LandedBody> {
    const released = new Promise<never>((_, reject) => this.#prefillings.set(request.id, reject));
    return this.orLost(Promise.race([this.#prefill(request, emit, reserve), released]));
  }

  reserve(request: Request): Promise<Reserved | null> {
    return this.orLost(this.#reserve(request));
  }

  async #reserve(request: Request): Promise<Reserved | null> {
    await this.#stage('reserve', request);
    if (this.usedBlockCount + blocksOf(request) > this.#cluster.blockCount) return null;
    this.#hold(request, null);
    await this.#stage('reserved', request);
    const kv = { protocolVersion: 1, modelName: 'fake', dtype: 'f32' as const, layoutHash: 'fake' };
    const cache = { processId: 1, fileDescriptor: 1, deviceIndex: 0, bytes: 0, ipcHandle: '' };
    const target = {
      workerId: this.id,
      incarnation: 1,
      cache,
      blockCount: this.#cluster.blockCount,
      kv,
      receiver: null,
    };
    return { target, reservation: { blockIds: [], cachedTokenCount: 0, epoch: ++this.#epoch } };
  }

  resume(request: Request, landed: LandedBody, emit: Emit): Promise<void> {
    return this.orLost(this.#resume(request, landed, emit));
  }

  async #resume(request: Request, landed: LandedBody, emit: Emit): Promise<void> {
    const outputs = request.outputs.map((output) => [...output]);
    await this.#stage('resume', request);
    const held = this.held.get(request.id);
    assert(
      held !== undefined && held.writer === null,
      `${request.id} resumes on ${this.id} without its blocks, or while they are written`,
    );
    assert(landed.handle.tokenCount === request.input.promptIds.length, 'the whole prompt has landed');
    void this.#decode(request, emit, held, outputs);
    await this.#stage('resumed', request);
  }

  nextRoom(): NextChange {
    return this.room.next();
  }

  orLost<T>(work: Promise<T>): Promise<T> {
    return this.life.guard(work);
  }

  stopChoice(): void {}

  async release(id: RequestId): Promise<void> {
    if (this.life.isCut) return;
    this.#prefillings.get(id)?.(
      new HandOverError('unwanted', 'cancelled', `${id} was released on ${this.id}`),
    );
    this.#prefillings.delete(id);
    const held = this.held.get(id);
    assert(
      held?.writer == null || held.writer.life.isCut,
      `${id} is released on ${this.id} while ${held?.writer?.id} writes into it`,
    );
    if (held !== undefined) held.isRunning = false;
    await this.#cluster.clock.sleep(stepMs); // the step in flight
    this.#stopWriting(id);
    this.#forget(id);
  }

  /** kill -9, and reaped. */
  lose(blame: Blame = 'work'): void {
    for (const held of this.held.values()) held.isRunning = false;
    this.held.clear();
    for (const worker of this.#cluster.everyone)
      for (const held of worker.held.values()) if (held.writer === this) held.writer = null;
    this.life.cut(new WorkerLostError(this.id, 'killed by the test', blame));
    this.room.fire();
  }

  async #prefill(request: Request, emit: Emit, reserve: () => Promise<Reserved>): Promise<LandedBody> {
    await this.#stage('prefill', request);
    const held = this.#hold(request, null);
    request.stamp('prefillStartedMs');
    emit({ kind: 'cached', requestId: request.id, cachedTokenCount: 0 });
    const reserving = reserve();
    reserving.catch(() => {});
    void reserving.then(({ target }) => this.#startWriting(request, target.workerId)).catch(() => {});
    await this.#stage('prefilling', request);
    for (let i = 0; i < request.outputs.length && held.isRunning; i++) this.#emit(request, emit, i, [], held);
    await this.#stage('prefilled', request);
    const { reservation } = await reserving;
    if (this.#cluster.failTransfer?.(request) === true) throw this.#cluster.transferError();
    await this.#stage('landing', request);
    this.#stopWriting(request.id);
    const firstTokens = request.outputs.map((output) => output[0] ?? 0);
    const tokenCount = request.input.promptIds.length;
    const handle = {
      requestId: request.id,
      epoch: reservation.epoch,
      layoutHash: 'fake',
      tokenCount,
      firstTokens,
    };
    return { handle, pushedBytes: 1 };
  }

  async #decode(
    request: Request,
    emit: Emit,
    held: Held,
    start = request.outputs.map((output) => [...output]),
  ): Promise<void> {
    const outputs = start.map((output) => [...output]);
    while (held.isRunning && !this.life.isCut) {
      await this.#stage('step', request);
      outputs.forEach((output, i) => {
        const token = this.#emit(request, emit, i, output, held);
        if (token !== null) output.push(token);
      });
      if (outputs.every((output) => output.length >= request.input.sampling.maxTokenCount))
        held.isRunning = false;
    }
    if (request.isFinished) this.#forget(request.id); // an engine that has finished holds nothing
  }

  #emit(
    request: Request,
    emit: Emit,
    choiceIndex: number,
    output: readonly TokenId[],
    held: Held,
  ): TokenId | null {
    const { maxTokenCount } = request.input.sampling;
    if (!held.isRunning || this.life.isCut || output.length >= maxTokenCount) return null;
    const tokenId = nextToken(request.input.promptIds, output, choiceIndex);
    const event: TokenEvent = { kind: 'tokens', requestId: request.id, choiceIndex, tokens: [{ tokenId }] };
    emit(output.length + 1 === maxTokenCount ? { ...event, finishReason: 'length' } : event);
    return tokenId;
  }

  #hold(request: Request, writer: FakeWorker | null): Held {
    assert(!this.life.isCut, 'a dead worker takes nothing');
    assert(!this.held.has(request.id), `${request.id} is on ${this.id} already`);
    const held: Held = { blockCount: blocksOf(request), isRunning: true, writer };
    this.held.set(request.id, held);
    return held;
  }

  #forget(id: RequestId): void {
    this.held.delete(id);
    this.room.fire();
  }

  #startWriting(request: Request, targetId: WorkerId): void {
    if (!this.held.has(request.id) || this.life.isCut) return; // released meanwhile
    const held = this.#cluster.worker(targetId)?.held.get(request.id);
    if (held !== undefined) held.writer = this;
  }

  #stopWriting(id: RequestId): void {
    for (const worker of this.#cluster.everyone) {
      const held = worker.held.get(id);
      if (held?.writer === this) held.writer = null;
    }
  }

  /** A moment at which a test may interfere; takes a step of time. */
  async #stage(name: string, request: Request): Promise<void> {
    this.#cluster.reach(name, this, request);
    if (this.#cluster.hangs?.(name, request) === true) await new Promise<never>(() => {});
    await this.#cluster.clock.sleep(stepMs);
    if (this.life.isCut) await new Promise<never>(() => {}); // a dead process does nothing more
  }
}

const blocksOf = (request: Request) => Math.ceil(request.input.promptIds.length / blockTokenCount) + 1;

export interface ClusterOptions {
  readonly roles: readonly WorkerRole[];
  readonly strategy: Strategy;
  readonly blockCount?: number;
  /** What the workers say they have, where that is not true: admission then lets too many in. */
  readonly claimedBlockCount?: number;
  /** Batch slots that each worker has. Absent: no limit. */
  readonly slotCount?: number;
  readonly limits?: Partial<GatewayLimits>;
  readonly onTransferFailure?: TransferFailurePolicy;
  readonly onOverload?: OverloadPolicy;
  readonly ready?: Promise<void>;
  /** What the router knows beforehand. Absent: nothing. */
  readonly costs?: WorkerCosts;
}

export class FakeCluster implements WorkerDirectory {
  readonly clock = new VirtualClock();
  readonly blockCount: number;
  readonly #claimedBlockCount: number;
  readonly #slots: { readonly batchSlotCount?: number };
  readonly coordinator: Coordinator;
  readonly records: RequestRecord[] = [];
  readonly everyone: FakeWorker[] = [];
  /** Every request that has reached a worker. */
  readonly seen = new Set<Request>();
  /** Moments so far. */
  stageCount = 0;
  onStage: ((index: number, name: string, worker: FakeWorker, request: Request) => void) | null = null;
  /** Moments after which nothing comes any more, until the request is released. */
  hangs: ((name: string, request: Request) => boolean) | null = null;
  failTransfer: ((request: Request) => boolean) | null = null;
  transferError: () => Error = () => new Error('unset');
  restart: 'restart' | 'stay_dead' = 'restart';
  readonly #roles: readonly WorkerRole[];
  readonly #current: (FakeWorker | null)[] = [];
  readonly changed = new Signal();

  constructor({
    roles,
    strategy,
    blockCount = 1000,
    claimedBlockCount = blockCount,
    slotCount,
    limits = {},
    onTransferFailure = 'recompute',
    onOverload = 'late',
    ready = Promise.resolve(),
    costs = new WorkerCosts(),
  }: ClusterOptions) {
    this.#roles = roles;
    this.blockCount = blockCount;
    this.#claimedBlockCount = claimedBlockCount;
    this.#slots = slotCount === undefined ? {} : { batchSlotCount: slotCount };
    for (const index of roles.keys()) this.#spawn(index);
    this.coordinator = new Coordinator({
      directory: this,
      costs,
      strategy,
      onTransferFailure,
      onOverload,
      limits: { ...defaultGatewayLimits, ...limits },
      clock: this.clock,
      logger: silentLogger,
      onDone: (record) => this.records.push(record),
      ready,
    });
  }

  workers(): readonly WorkerFacts[] {
    return this.#roles.map((role, index) => {
      const worker = this.#current[index] ?? null;
      const facts = { blockTokenCount, blockCount: this.#claimedBlockCount, ...this.#slots };
      return { id: workerId(`w${index}`), role, isLive: worker !== null, ...facts };
    });
  }

  availableBlockCount(id: WorkerId): number {
    return this.blockCount - (this.worker(id)?.usedBlockCount ?? 0);
  }

  client(id: WorkerId): WorkerClient | null {
    return this.worker(id);
  }

  worker(id: WorkerId): FakeWorker | null {
    return this.#current.find((worker) => worker?.id === id) ?? null;
  }

  nextChange(): NextChange {
    return this.changed.next();
  }

  reach(name: string, worker: FakeWorker, request: Request): void {
    const index = this.stageCount++;
    this.seen.add(request);
    this.onStage?.(index, name, worker, request);
  }

  /** `outside`: as by kill -9; work: as by what it computes. */
  kill(id: WorkerId, blame: Blame = 'work'): void {
    const index = this.#current.findIndex((worker) => worker?.id === id);
    const worker = this.#current[index];
    if (worker === undefined || worker === null) return;
    this.#current[index] = null;
    worker.lose(blame);
    this.#wake();
    if (this.restart === 'restart') void this.clock.sleep(restartMs).then(() => this.#spawn(index));
  }

  /** Runs one request; its tokens, or its error's code. */
  async ask(
    id: string,
    promptTokenCount: number,
    maxTokenCount: number,
    choiceCount = 1,
    more: Partial<RequestInput> = {},
  ) {
    const promptIds = Array.from({ length: promptTokenCount }, (_, i) => (i * 7 + id.length) % 500);
    const sampling = { ...greedy, maxTokenCount, choiceCount };
    const input = { id: requestId(id), promptIds, sampling, ...more };
    const outputs: TokenId[][] = Array.from({ length: choiceCount }, () => []);
    try {
      for await (const event of this.coordinator.submit(input)) {
        if (event.kind === 'tokens')
          for (const { tokenId } of event.tokens) outputs[event.choiceIndex]?.push(tokenId);
      }
      return { outputs, promptIds, error: null };
    } catch (error) {
      return { outputs, promptIds, error: error as Error & { code?: string } };
    }
  }

  /** Requests still held anywhere, and waits that are not over: nothing may be, once all is done. */
  leaks(): string[] {
    const waits = this.everyone.flatMap(({ id, life }) =>
      life.waitCount === 0 ? [] : [`${life.waitCount} waits on ${id}`],
    );
    return [
      ...waits,
      ...this.everyone.flatMap((worker) => [...worker.held.keys()].map((id) => `${id} on ${worker.id}`)),
    ];
  }

  /** Everything that was started has ended. */
  async settle(): Promise<void> {
    while (this.coordinator.requestCount > 0 || this.leaks().length > 0) {
      const before = this.clock.nowMs();
      await this.clock.sleep(stepMs);
      assert(before < 3_600_000, `still there: ${this.leaks().join('; ')}`);
    }
  }

  #spawn(index: number): void {
    const worker = new FakeWorker(workerId(`w${index}`), this);
    this.#current[index] = worker;
    this.everyone.push(worker);
    this.#wake();
  }

  #wake(): void {
    this.changed.fire();
  }
}
