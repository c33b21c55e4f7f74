/** The parts of a worker, each on its own: what is pushed and when, what is taken over and what refused, how
 *  the loop rests. */
import { describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { type BlockId, blockId, requestId, workerId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import type { Device, EventHandle, Stream } from '../../src/device/device.js';
import type { PrefillChunk } from '../../src/engine/engine-options.js';
import type { GenerationRequest } from '../../src/engine/generation-request.js';
import { greedy } from '../../src/engine/sampling-params.js';
import type { TokenEvent } from '../../src/engine/token-event.js';
import type { KvHandle } from '../../src/kv/kv-handle.js';
import { KvLayout } from '../../src/kv/kv-layout.js';
import type { KvChannel, KvConnector, KvPiece, KvTarget, KvTransfer } from '../../src/transfer/connector.js';
import { EngineLoop } from '../../src/worker/engine-loop.js';
import { HandOverSource } from '../../src/worker/hand-over-source.js';
import { HandOverTarget } from '../../src/worker/hand-over-target.js';
import type { LandedBody, RequestBody } from '../../src/worker/messages.js';
import { packTokens, unpackTokens } from '../../src/worker/token-list.js';

const layerCount = 3;
const blockTokenCount = 8;
const layout = new KvLayout({
  modelName: 'm',
  layerCount,
  kvHeadCount: 1,
  headDim: 4,
  blockTokenCount,
  dtype: 'f32',
});

const bodyOf = (id: string, promptTokenCount: number, choiceCount = 1): RequestBody => ({
  id: requestId(id),
  promptIds: packTokens(Array.from({ length: promptTokenCount }, (_, i) => i)),
  sampling: { ...greedy, choiceCount },
  outputs: [],
  priority: 0,
  endedChoices: [],
});

describe('token lists', () => {
  it('survive the bus', () => {
    const prng = new Prng(5);
    for (const count of [0, 1, 2, 3, 1000]) {
      const tokens = Array.from({ length: count }, () => prng.integer(0, 2 ** 31 - 1));
      expect(unpackTokens(packTokens(tokens))).toEqual(tokens);
    }
  });
});

/** A stream of positions: an event remembers what had been computed when it was recorded; a push copies what
 *  it finds behind its event. */
class FakeGpu {
  /** [layer] positions whose K and V are in the source cache. */
  readonly computed = new Array<number>(layerCount).fill(0);
  readonly recorded = new Map<EventHandle, number[]>();
  #lastEvent = 0;

  readonly stream = {
    record: (event: EventHandle) => void this.recorded.set(event, [...this.computed]),
  } as unknown as Stream;
  readonly device = {
    createEvent: () => ++this.#lastEvent as EventHandle,
    destroyEvent: () => {},
  } as unknown as Device;
}

/** Target blocks as [layer][block] → the source position up to which the copy was good. */
class FakeConnector implements KvConnector, KvChannel, KvTransfer {
  readonly name = 'fake';
  readonly pushed = new Map<string, number>();
  readonly opened: KvTarget[] = [];
  pushedBytes = 0;
  transferCount = 0;
  finished: KvHandle[] = [];
  abortCount = 0;
  closeCount = 0;
  readonly isBroken: boolean = false;
  failOpen: Error | null = null;
  readonly #gpu: FakeGpu;
  constructor(gpu: FakeGpu) {
    this.#gpu = gpu;
  }
  async open(target: KvTarget): Promise<KvChannel> {
    this.opened.push(target);
    if (this.failOpen !== null) throw this.failOpen;
    return this;
  }
  async probe(): Promise<number> {
    return 1;
  }
  begin(): KvTransfer {
    this.transferCount++;
    return this;
  }
  pull(): void {
    throw new Error('nothing is pulled here');
  }

  push(pieces: readonly KvPiece[], after: EventHandle): void {
    const computed = this.#gpu.recorded.get(after)!;
    for (const { sourceBlocks, targetBlocks, firstLayer, layerEnd } of pieces) {
      for (let layer = firstLayer; layer < layerEnd; layer++) {
        for (const [i, source] of sourceBlocks.entries()) {
          const firstPosition = (source - 100) * blockTokenCount; // the source table is 100, 101, …
          this.pushed.set(
            `${layer}/${targetBlocks[i]}`,
            Math.min(computed[layer]!, firstPosition + blockTokenCount),
          );
          this.pushedBytes++;
        }
      }
    }
  }
  async finish(handle: KvHandle): Promise<void> {
    this.finished.push(handle);
  }
  async abort(): Promise<void> {
    this.abortCount++;
  }
  async close(): Promise<void> {
    this.closeCount++;
  }
}

const target = (name: string, incarnation = 1): KvTarget => ({
  workerId: workerId(name),
  incarnation,
  cache: { processId: 1, fileDescriptor: 1, deviceIndex: 0, bytes: 0, ipcHandle: '' },
  blockCount: 100,
  receiver: null,
  kv: { protocolVersion: 1, modelName: 'm', dtype: 'f32', layoutHash: layout.hash },
});

function makeSource() {
  const gpu = new FakeGpu();
  const connector = new FakeConnector(gpu);
  const landed: LandedBody[] = [];
  const failed: unknown[] = [];
  const started: unknown[] = [];
  const events = {
    prefillStarted: (body: unknown) => void started.push(body),
    landed: (body: LandedBody) => void landed.push(body),
    handOverFailed: (body: unknown) => void failed.push(body),
  };
  const source = new HandOverSource({ connector, layout, device: gpu.device, clock: systemClock, events });
  return { gpu, connector, source, landed, failed, started };
}

const firstToken = (id: string, tokenId: number, choiceIndex = 0): TokenEvent => ({
  kind: 'tokens',
  requestId: requestId(id),
  choiceIndex,
  tokens: [{ tokenId }],
});

describe('outgoing hand-over', () => {
  /** One prompt in seeded chunks; the reservation comes before moment `reserveAt`, of chunks × layers + 2. */
  async function run(
    seed: number,
    promptTokenCount: number,
    cachedAtSource: number,
    cachedAtTarget: number,
    reserveAt: number,
  ) {
    const prng = new Prng(seed);
    const all = makeSource();
    const { gpu, source } = all;
    const id = requestId('r');
    source.add(bodyOf('r', promptTokenCount));
    const blockIds: BlockId[] = Array.from(
      { length: Math.ceil(promptTokenCount / blockTokenCount) },
      (_, i) => blockId(100 + i),
    );
    const targetBlocks = blockIds.map((block) => blockId(block - 60)).reverse();
    let moment = 0;
    const step = async () => {
      if (moment++ === reserveAt) {
        await source.pushTo({
          id,
          target: target('w1'),
          reservation: { blockIds: targetBlocks, cachedTokenCount: cachedAtTarget, epoch: 9 },
        });
      }
    };
    gpu.computed.fill(cachedAtSource);
    const spans: [number, number][] = cachedAtSource > 0 ? [[0, cachedAtSource]] : [];
    for (let first = cachedAtSource; first < promptTokenCount; ) {
      const end = Math.min(promptTokenCount, first + prng.integer(1, 12));
      spans.push([first, end]);
      first = end;
    }
    for (const [firstTokenIndex, endToken] of spans) {
      for (let layer = 0; layer < layerCount; layer++) {
        await step();
        gpu.computed[layer] = Math.max(gpu.computed[layer]!, endToken);
        const chunk: PrefillChunk = {
          requestId: id,
          firstToken: firstTokenIndex,
          endToken,
          blockIds,
          isLast: endToken === promptTokenCount,
        };
        source.onLayer(layer, [chunk], gpu.stream);
      }
    }
    await step();
    source.onTokens([firstToken('r', 77)]);
    while (moment <= reserveAt) await step();
    await systemClock.yield();
    return { ...all, targetBlocks, moments: moment };
  }

  it('pushes every position behind its event, whenever the reservation comes, and nothing that the target holds', async () => {
    for (let seed = 1; seed <= 30; seed++) {
      const prng = new Prng(seed);
      const promptTokenCount = prng.integer(1, 50);
      const blockCount = Math.ceil(promptTokenCount / blockTokenCount);
      const cachedAtSource = prng.integer(0, Math.max(0, blockCount - 1)) * blockTokenCount;
      const cachedAtTarget = prng.integer(0, Math.max(0, blockCount - 1)) * blockTokenCount;
      const { moments } = await run(seed, promptTokenCount, cachedAtSource, cachedAtTarget, 0);
      for (let reserveAt = 0; reserveAt <= moments; reserveAt++) {
        const { connector, targetBlocks, landed } = await run(
          seed,
          promptTokenCount,
          cachedAtSource,
          cachedAtTarget,
          reserveAt,
        );
        for (let layer = 0; layer < layerCount; layer++) {
          for (const [i, block] of targetBlocks.entries()) {
            const end = Math.min(promptTokenCount, (i + 1) * blockTokenCount);
            const isHeld = i < cachedAtTarget / blockTokenCount;
            expect(connector.pushed.get(`${layer}/${block}`), `seed ${seed}, at ${reserveAt}`).toBe(
              isHeld ? undefined : end,
            );
          }
        }
        expect(landed).toHaveLength(1);
        expect(landed[0]?.handle).toEqual({
          requestId: 'r',
          epoch: 9,
          layoutHash: layout.hash,
          tokenCount: promptTokenCount,
          firstTokens: [77],
        });
      }
    }
  });

  it('waits for the first token of every choice', async () => {
    const { gpu, source, landed, started } = makeSource();
    source.add(bodyOf('r', 4, 2));
    source.onPrefillStart(requestId('r'), 0);
    expect(started).toEqual([{ id: 'r', cachedTokenCount: 0 }]);
    const reservation = { blockIds: [blockId(0)], cachedTokenCount: 0, epoch: 1 };
    await source.pushTo({ id: requestId('r'), target: target('w1'), reservation });
    const chunk = {
      requestId: requestId('r'),
      firstToken: 0,
      endToken: 4,
      blockIds: [blockId(100)],
      isLast: true,
    };
    for (let layer = 0; layer < layerCount; layer++) source.onLayer(layer, [chunk], gpu.stream);
    source.onTokens([firstToken('r', 5, 1)]);
    await systemClock.yield();
    expect(landed).toEqual([]);
    source.onTokens([firstToken('r', 6, 0)]);
    await systemClock.yield();
    expect(landed[0]?.handle.firstTokens).toEqual([6, 5]);
  });

  it('a release aborts the transfer and silences what comes later', async () => {
    const { gpu, source, connector, landed, failed } = makeSource();
    source.add(bodyOf('r', 4));
    await source.pushTo({
      id: requestId('r'),
      target: target('w1'),
      reservation: { blockIds: [blockId(0)], cachedTokenCount: 0, epoch: 1 },
    });
    await source.release(requestId('r'));
    expect(connector.abortCount).toBe(1);
    const chunk = {
      requestId: requestId('r'),
      firstToken: 0,
      endToken: 4,
      blockIds: [blockId(100)],
      isLast: true,
    };
    for (let layer = 0; layer < layerCount; layer++) source.onLayer(layer, [chunk], gpu.stream);
    source.onTokens([firstToken('r', 6)]);
    await source.pushTo({
      id: requestId('r'),
      target: target('w1'),
      reservation: { blockIds: [blockId(0)], cachedTokenCount: 0, epoch: 2 },
    });
    await systemClock.yield();
    expect([connector.pushed.size, landed.length, failed.length, connector.transferCount]).toEqual([
      0, 0, 0, 1,
    ]);
  });

  it('a peer that dies while its channel opens is a transfer error', async () => {
    const { source } = makeSource();
    source.add(bodyOf('r', 4));
    const reservation = { blockIds: [blockId(0)], cachedTokenCount: 0, epoch: 1 };
    const pushing = source.pushTo({ id: requestId('r'), target: target('w1'), reservation });
    const forgetting = source.forgetPeer(workerId('w1'), 1);
    await expect(pushing).rejects.toMatchObject({ code: 'transfer_error' });
    await forgetting;
  });

  it('opens one channel per peer and incarnation, and lets go of one that died', async () => {
    const { source, connector } = makeSource();
    const reservation = { blockIds: [], cachedTokenCount: 0, epoch: 1 };
    const push = async (id: string, to: KvTarget) => {
      source.add(bodyOf(id, 4));
      await source.pushTo({ id: requestId(id), target: to, reservation });
    };
    await Promise.all([push('a', target('w1')), push('b', target('w1'))]);
    expect(connector.opened).toHaveLength(1);
    expect(source.status()).toMatchObject([{ peer: 'w1', name: 'fake', pushedBytes: 0, transferCount: 2 }]);
    await push('c', target('w1', 2));
    expect([connector.opened.length, connector.closeCount]).toEqual([2, 1]);
    await expect(push('late', target('w1', 1))).rejects.toThrow(/has been restarted/);
    await Promise.all([
      push('x', target('w3')),
      source.openPeer(target('w3', 2)),
      push('y', target('w3', 2)),
    ]);
    expect(
      connector.opened.filter(({ workerId: id, incarnation }) => id === 'w3' && incarnation === 2),
    ).toHaveLength(1);
    await source.forgetPeer(workerId('w3'), 2);
    expect(connector.closeCount).toBe(3);
    connector.closeCount = 1;
    await source.forgetPeer(workerId('w1'), 1); // old news
    expect(connector.closeCount).toBe(1);
    await source.forgetPeer(workerId('w1'), 2);
    expect(connector.closeCount).toBe(2);
    connector.failOpen = new Error('no way');
    await expect(push('d', target('w2'))).rejects.toThrow('no way');
    connector.failOpen = null;
    await push('e', target('w2')); // a failed channel is not kept
    expect(source.status().map(({ peer }) => peer)).toEqual(['w2']);
  });
});

describe('incoming hand-over', () => {
  function make(room = 1) {
    const log: string[] = [];
    const engine = {
      reserve: (request: GenerationRequest, growth: number) => {
        log.push(`reserve ${request.id} ${request.promptIds.length}+${growth}`);
        return room > 0 ? { blockIds: [blockId(3)], cachedTokenCount: 0 } : null;
      },
      resume: (id: string, outputs: readonly (readonly number[])[], count: number) =>
        void log.push(`resume ${id} ${JSON.stringify(outputs)} ${count}`),
      stopChoice: (id: string, index: number) => void log.push(`stop ${id} ${index}`),
    };
    return { log, engine, incoming: new HandOverTarget(engine, layout.hash) };
  }
  const handleOf = (more: Partial<KvHandle> = {}): KvHandle => ({
    requestId: requestId('r'),
    epoch: 1,
    layoutHash: layout.hash,
    tokenCount: 20,
    firstTokens: [7, 8],
    ...more,
  });
  const resumeBody = (more: Partial<KvHandle> = {}) => ({
    handle: handleOf(more),
    outputs: [[7], [8]].map(packTokens),
    endedChoices: [1],
  });

  it('takes over what was reserved, once', () => {
    const { incoming, log } = make();
    expect(incoming.reserve({ request: bodyOf('r', 20, 2), growthTokenCount: 32 })).toMatchObject({
      epoch: 1,
      blockIds: [3],
    });
    incoming.resume(resumeBody());
    expect(log).toEqual(['reserve r 20+32', 'resume r [[7],[8]] 20', 'stop r 1']);
    expect(() => incoming.resume(resumeBody())).toThrow(/nothing is reserved/);
  });

  it('says null when there is no room, and then has reserved nothing', () => {
    const { incoming } = make(0);
    expect(incoming.reserve({ request: bodyOf('r', 20, 2), growthTokenCount: 0 })).toBeNull();
    expect(() => incoming.resume(resumeBody())).toThrow(/nothing is reserved/);
  });

  it.each([
    ['epoch', { epoch: 2 }, 'transfer_error', /epoch 2, reserved was 1/],
    ['layout', { layoutHash: 'x' }, 'layout_mismatch', /layout x, here/],
    ['token count', { tokenCount: 19 }, 'transfer_error', /19 positions for a prompt of 20/],
    ['first tokens', { firstTokens: [7] }, 'transfer_error', /1 first tokens for 2 choices/],
  ] as const)('refuses another %s by name', (_what, more, code, message) => {
    const { incoming, log } = make();
    incoming.reserve({ request: bodyOf('r', 20, 2), growthTokenCount: 0 });
    expect(() => incoming.resume(resumeBody(more))).toThrow(expect.objectContaining({ code }));
    expect(() => incoming.resume(resumeBody(more))).toThrow(message);
    expect(log).toHaveLength(1);
    incoming.resume(resumeBody()); // the right one still fits
  });

  it('compares checksums before it takes over; a choice that is stopped meanwhile ends', async () => {
    const { log, engine } = make();
    const asked: number[][] = [];
    const checksums = {
      of: async (blocks: readonly BlockId[]) => {
        asked.push([...blocks]);
        return blocks.map((block) => block * 11);
      },
    };
    const incoming = new HandOverTarget(engine, layout.hash, checksums);
    incoming.reserve({ request: bodyOf('r', 20, 2), growthTokenCount: 0 });
    const damaged = incoming.resume(resumeBody({ checksums: { firstBlock: 0, values: [34] } }));
    await expect(damaged).rejects.toThrow(/checksum of block 0 of 1 differs/);
    await expect(damaged).rejects.toMatchObject({ code: 'transfer_error' });
    expect(log).toHaveLength(1);
    const whole = incoming.resume(resumeBody({ checksums: { firstBlock: 0, values: [33] } }));
    expect(incoming.defersStop(requestId('r'), 0)).toBe(true);
    await whole;
    expect(log.slice(1)).toEqual(['resume r [[7],[8]] 20', 'stop r 1', 'stop r 0']);
    expect(incoming.defersStop(requestId('r'), 0)).toBe(false);
    expect(asked).toEqual([[3], [3]]);
    incoming.reserve({ request: bodyOf('r', 20, 2), growthTokenCount: 0 });
    const late = incoming.resume(resumeBody({ epoch: 2, checksums: { firstBlock: 0, values: [33] } }));
    incoming.release(requestId('r'));
    await expect(late).rejects.toThrow(/nothing is reserved/);
    expect(log.filter((line) => line.startsWith('resume'))).toHaveLength(1);
  });

  it('takes writes for what is reserved, until it has landed or is released', () => {
    const { incoming } = make();
    const write = (block: number, epoch: number) => ({
      requestId: requestId('r'),
      epoch,
      blocks: [blockId(block)],
    });
    expect(incoming.accepts(write(3, 1))).toBe(false);
    incoming.reserve({ request: bodyOf('r', 20, 2), growthTokenCount: 0 });
    expect([
      incoming.accepts(write(3, 1)),
      incoming.accepts(write(4, 1)),
      incoming.accepts(write(3, 2)),
    ]).toEqual([true, false, false]);
    expect(incoming.quarantinedBlockCount).toBe(1);
    incoming.resume(resumeBody());
    expect([incoming.accepts(write(3, 1)), incoming.quarantinedBlockCount]).toEqual([false, 0]);
    incoming.reserve({ request: bodyOf('r', 20, 2), growthTokenCount: 0 });
    incoming.release(requestId('r'));
    expect([incoming.accepts(write(3, 2)), incoming.quarantinedBlockCount]).toEqual([false, 0]);
  });

  it('an earlier attempt’s handle does not fit a later reservation', () => {
    const { incoming } = make();
    incoming.reserve({ request: bodyOf('r', 20, 2), growthTokenCount: 0 });
    incoming.release(requestId('r'));
    expect(() => incoming.resume(resumeBody())).toThrow(/nothing is reserved/);
    incoming.reserve({ request: bodyOf('r', 20, 2), growthTokenCount: 0 });
    expect(() => incoming.resume(resumeBody())).toThrow(/epoch 1, reserved was 2/);
  });
});

describe('engine loop', () => {
  class FakeEngine {
    work = 0;
    stepCount = 0;
    get hasWork(): boolean {
      return this.work > 0;
    }
    async step(): Promise<readonly TokenEvent[]> {
      this.stepCount++;
      this.work--;
      if (this.work < 0) throw new Error('stepped without work');
      return [firstToken('r', this.stepCount)];
    }
  }

  it('steps while there is work, sleeps while there is none, lets messages in between', async () => {
    const engine = new FakeEngine();
    const seen: number[] = [];
    const loop = new EngineLoop(engine, systemClock, (events) => void seen.push(events.length));
    const running = loop.run();
    loop.wake(); // nothing to do: sleeps on
    await systemClock.sleep(5);
    expect(engine.stepCount).toBe(0);
    engine.work = 1000;
    loop.wake();
    await systemClock.yield();
    await systemClock.yield();
    expect(engine.stepCount).toBeGreaterThan(0);
    expect(engine.stepCount).toBeLessThan(1000); // this test got its turn
    while (engine.hasWork) await systemClock.yield();
    engine.work = 3;
    loop.wake();
    while (engine.hasWork) await systemClock.yield();
    loop.stop();
    await running;
    expect([engine.stepCount, seen.length]).toEqual([1003, 1003]);
  });

  it('waits for a congested reader', async () => {
    const engine = new FakeEngine();
    engine.work = 2;
    let drain: () => void = () => {};
    const loop = new EngineLoop(
      engine,
      systemClock,
      () =>
        new Promise<void>((resolve) => {
          drain = resolve;
        }),
    );
    const running = loop.run();
    await systemClock.sleep(5);
    expect(engine.stepCount).toBe(1);
    drain();
    await systemClock.sleep(5);
    expect(engine.stepCount).toBe(2);
    loop.stop();
    drain();
    await running;
  });

  it('ends with what a step threw', async () => {
    const loop = new EngineLoop(
      { hasWork: true, step: () => Promise.reject(new Error('device lost')) },
      systemClock,
      () => undefined,
    );
    await expect(loop.run()).rejects.toThrow('device lost');
  });
});
