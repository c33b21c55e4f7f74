/** JSON answers of any length: the text of JSON.stringify, made no faster than the client takes it. */
import { EventEmitter } from 'node:events';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { jsonPieces, LongList, sendJson } from '../../src/server/json-answer.js';
import { type Outlet, ResponseWriter } from '../../src/server/response-writer.js';
import { VirtualClock as SimulatorClock } from '../../src/sim/virtual-clock.js';
import { VirtualClock } from '../control/virtual-clock.js';

const seed = 20_261_201;

/** A response whose client takes what it is told to. */
class Response extends EventEmitter {
  readonly written: string[] = [];
  headers: Record<string, unknown> | null = null;
  hasRoom = true;
  headersSent = false;
  writableEnded = false;
  destroyed = false;

  writeHead(_status: number, headers: Record<string, unknown>): void {
    this.headers = headers;
    this.headersSent = true;
  }
  write(text: string): boolean {
    this.written.push(text);
    return this.hasRoom;
  }
  end(text: string): void {
    this.written.push(text);
    this.writableEnded = true;
  }
  get writableNeedDrain(): boolean {
    return !this.hasRoom;
  }
}

function outlet() {
  const outgoing = new Response();
  const socket = { destroyed: false, destroy: () => undefined as unknown };
  const listeners = new Set<(error: never) => void>();
  socket.destroy = () => {
    socket.destroyed = true;
    for (const listen of [...listeners]) listen(undefined as never);
  };
  const onCut: Outlet['onCut'] = (listen) => {
    listeners.add(listen as never);
    return () => void listeners.delete(listen as never);
  };
  return { outgoing, socket, to: { incoming: { socket }, outgoing, onCut } as unknown as Outlet, listeners };
}

const clock = () => new VirtualClock();

it('is what JSON.stringify makes of the same value', () => {
  const plain = fc.jsonValue({ maxDepth: 3 });
  const answer = fc.dictionary(fc.string(), fc.oneof(plain, fc.constant(undefined)));
  fc.assert(
    fc.property(answer, fc.array(answer), fc.array(plain), (head, choices, items) => {
      const value = { ...head, choices, items, nothing: [], usage: { a: 1 } };
      const long = {
        ...value,
        items: new LongList(() => items),
        nothing: new LongList(() => []),
        choices: new LongList(
          () => choices.map((each) => ({ ...each, x: new LongList(() => items) })),
          'with lists',
        ),
      };
      const eager = { ...value, choices: choices.map((each) => ({ ...each, x: items })) };
      expect([...jsonPieces(long)].join('')).toBe(JSON.stringify(eager));
    }),
    { seed },
  );
});

describe('an answer', () => {
  it('that is short is written at once, with its length', async () => {
    const { to, outgoing } = outlet();
    await sendJson(to, { text: 'é', list: new LongList(() => [1, 2]) }, clock());
    expect(outgoing.written).toEqual(['{"text":"é","list":[1,2]}']);
    expect(outgoing.headers).toEqual({ 'content-type': 'application/json', 'content-length': 26 });
    expect(outgoing.listenerCount('drain')).toBe(0);
  });

  it('that is long is made as its client takes it', async () => {
    const { to, outgoing, listeners } = outlet();
    outgoing.hasRoom = false;
    let madeCount = 0;
    const list = new LongList(function* () {
      for (; madeCount < 100_000; madeCount++) yield 'a text of some thirty characters';
    });
    const sent = sendJson(to, { list }, clock());
    for (let takenCount = 1; takenCount <= 20; takenCount++) {
      await Promise.resolve();
      expect(outgoing.written).toHaveLength(takenCount);
      expect(madeCount).toBeLessThan(takenCount * 2000);
      outgoing.emit('drain');
      await new Promise(setImmediate);
      await new Promise(setImmediate);
    }
    to.incoming.socket.destroy();
    await sent;
    expect(madeCount).toBeLessThan(50_000);
    expect([outgoing.listenerCount('drain'), listeners.size]).toEqual([0, 0]);
  });

  it('that is long lets others in between, however fast its client reads', async () => {
    const { to, outgoing } = outlet();
    const virtual = clock();
    let turnCount = 0;
    const counting = Object.assign(Object.create(virtual) as VirtualClock, {
      yield: async () => void turnCount++,
    });
    await sendJson(to, { list: new LongList(() => Array(10_000).fill('x'.repeat(100))) }, counting);
    const length = outgoing.written.join('').length;
    expect(length).toBe(10_000 * 103 + 10);
    expect(turnCount).toBe(Math.floor(length / 65_536 / 1.01));
  });

  it('that is long lets others in between also when its socket takes each piece at once', async () => {
    const { to, outgoing } = outlet();
    outgoing.hasRoom = false;
    const write = outgoing.write.bind(outgoing);
    outgoing.write = (text) => {
      process.nextTick(() => outgoing.emit('drain'));
      return write(text);
    };
    let turnCount = 0;
    let isDone = false;
    const counting = (async () => {
      for (; !isDone; turnCount++) await new Promise(setImmediate);
    })();
    await sendJson(to, { list: new LongList(() => Array(10_000).fill('x'.repeat(100))) }, clock());
    isDone = true;
    await counting;
    expect(turnCount).toBeGreaterThanOrEqual(outgoing.written.length - 1);
  });

  it('whose client takes nothing for ten minutes is cut', async () => {
    const { to, outgoing, socket } = outlet();
    outgoing.hasRoom = false;
    const virtual = new SimulatorClock(); // its turns too are virtual
    const sent = sendJson(to, { list: new LongList(() => Array(10_000).fill('x'.repeat(100))) }, virtual);
    const startMs = virtual.nowMs();
    await virtual.drive(sent);
    expect(Math.floor(virtual.nowMs() - startMs)).toBe(600_000); // and its turns
    expect(socket.destroyed).toBe(true);
  });

  it('that breaks off ends the connection, and not before it has begun', async () => {
    const broken = (length: number) =>
      new LongList(function* () {
        yield 'x'.repeat(length);
        throw new Error('broken');
      });
    for (const [length, isCut] of [
      [10, false],
      [100_000, true],
    ] as const) {
      const { to, socket } = outlet();
      await expect(sendJson(to, { list: broken(length) }, clock())).rejects.toThrow('broken');
      expect(socket.destroyed).toBe(isCut);
    }
  });
});

it('a client is cut when its answer has to go, unless it takes what it is sent', () => {
  for (const hasRoom of [true, false]) {
    const { to, outgoing, socket } = outlet();
    outgoing.hasRoom = hasRoom;
    new ResponseWriter(to, clock()).cutIfStalled();
    expect(socket.destroyed).toBe(!hasRoom);
  }
});
