/** Whole bodies of what a worker says, for tests whose workers are scripts. */
import { requestId, workerId } from '../../src/base/ids.js';
import type { EngineSnapshot } from '../../src/engine/engine-options.js';
import { greedy } from '../../src/engine/sampling-params.js';
import type { KvHandle } from '../../src/kv/kv-handle.js';
import type { KvTarget } from '../../src/transfer/connector.js';
import {
  type HelloBody,
  protocolVersion,
  type ReadyBody,
  type RequestBody,
  type SnapshotBody,
} from '../../src/worker/messages.js';
import { packTokens } from '../../src/worker/token-list.js';

export const helloOf = (id: string, pid: number): HelloBody => ({
  protocolVersion,
  workerId: workerId(id),
  pid,
});

const kv = { protocolVersion, modelName: 'm', dtype: 'f32' as const, layoutHash: 'x' };
const cache = { processId: 1, fileDescriptor: 1, deviceIndex: -1, bytes: 160, ipcHandle: '' };

export const readyBody: ReadyBody = {
  device: { name: 'puppet', isa: 'none', kind: 'cpu', index: 0, threadCount: 1, totalBytes: 0, freeBytes: 0 },
  kv,
  cache,
  receiver: null,
  blockTokenCount: 16,
  blockCount: 10,
  blockBytes: 16,
  weightBytes: 0,
  weightFormat: 'f32',
  batchInvariant: 'off',
  maxModelTokenCount: 4096,
  loadMs: 1,
};

export const kvTarget: KvTarget = {
  workerId: workerId('w1'),
  incarnation: 1,
  cache,
  blockCount: 10,
  kv,
  receiver: null,
};

export const engineSnapshot: EngineSnapshot = {
  runningCount: 0,
  decodingCount: 0,
  waitingCount: 0,
  heldCount: 0,
  reservedCount: 0,
  queuedTokenCount: 0,
  runningTokenCount: 0,
  sequenceCountMax: 8,
  blockTokenCount: 16,
  blockCount: 10,
  freeBlockCount: 3,
  ownedBlockCount: 3,
  cachedBlockCount: 4,
  stepsInFlightCount: 0,
  stepCount: 0,
  lastStepMs: 0,
  preemptionCount: 0,
  promptTokenCount: 0,
  generatedTokenCount: 0,
  prefixHitTokenCount: 0,
  prefixQueryTokenCount: 0,
};

export const snapshotOf = (stepCount: number, hasWork: boolean): SnapshotBody => ({
  engine: { ...engineSnapshot, stepCount },
  hasWork,
  steps: [],
  connectors: [],
  quarantinedBlockCount: 0,
  stepBoundaryWaits: { count: 0, totalMs: 0 },
  residentBytes: 1,
});

export const handleOf = (id: string): KvHandle => ({
  requestId: requestId(id),
  epoch: 1,
  layoutHash: 'x',
  tokenCount: 2,
  firstTokens: [1],
});

export const requestBodyOf = (id: string): RequestBody => ({
  id: requestId(id),
  promptIds: packTokens([1, 2]),
  sampling: greedy,
  outputs: [],
  priority: 0,
  endedChoices: [],
});
