/** The typed edge over both buses: what has the shape goes through, anything else is refused with its place
 *  named. */
import { afterEach, describe, expect, expectTypeOf, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { InvalidRequestError } from '../../src/base/errors.js';
import { silentLogger } from '../../src/base/log.js';
import type { BusConnection, BusHandlers, BusServer } from '../../src/bus/bus.js';
import * as is from '../../src/bus/check.js';
import {
  type AnswerChecks,
  answering,
  CheckedConnection,
  type EventHandlers,
  hearing,
  type RequestHandlers,
} from '../../src/bus/protocol.js';
import { connectUnix, listenUnix } from '../../src/bus/unix-socket.js';
import { InProcessBus } from '../../src/sim/in-process-bus.js';

interface Sum {
  readonly numbers: readonly number[];
  readonly label?: string;
}
interface Total {
  readonly total: number;
}
interface Calculator {
  readonly requests: { readonly sum: readonly [Sum, Total | null] };
  readonly events: { readonly note: { readonly line: string } };
}
const answers: AnswerChecks<Calculator['requests']> = {
  sum: is.nullable(is.shape<Total>({ total: is.number })),
};
const sumCheck = is.shape<Sum>({ numbers: is.list(is.number, 3), label: is.optional(is.text) });

const closers: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0)) await close();
});

const buses: Record<string, (handlers: BusHandlers) => Promise<BusConnection>> = {
  'unix sockets': async (handlers) => {
    const options = { clock: systemClock, logger: silentLogger };
    const server: BusServer = await listenUnix(options, () => handlers);
    closers.push(() => server.close());
    return connectUnix(server.address, options, { onRequest: async () => null, onEvent: () => {} });
  },
  'the in-process bus': async (handlers) => {
    const bus = new InProcessBus();
    await bus.listen({}, () => handlers);
    const quiet: BusHandlers = { onRequest: async () => null, onEvent: () => {} };
    return bus.connect({ clock: systemClock, delayMs: () => 0 }, quiet);
  },
};

describe.each(Object.entries(buses))('a protocol over %s', (_name, connect) => {
  async function make(sum: RequestHandlers<Calculator['requests']>['sum']) {
    const heard: string[] = [];
    const refused: string[] = [];
    const raw = await connect({
      onRequest: answering<Calculator['requests']>({ sum: sumCheck }, { sum }),
      onEvent: hearing<Calculator['events']>(
        { note: is.shape<{ line: string }>({ line: is.text }) },
        { note: ({ line }) => void heard.push(line) },
        ({ message }) => refused.push(message),
      ),
    });
    return { raw, connection: new CheckedConnection<Calculator>(raw, answers), heard, refused };
  }
  const add = ({ numbers }: Sum) => ({ total: numbers.reduce((a, b) => a + b, 0) });

  it('carries what has its shape, and errors as they are', async () => {
    const { connection, heard, refused } = await make((body) => {
      if (body.label === 'no') throw new InvalidRequestError('not this one', 'label');
      return body.numbers.length === 0 ? null : add(body);
    });
    expect(await connection.request('sum', { numbers: [1, 2] }, 1000)).toEqual({ total: 3 });
    expect(await connection.request('sum', { numbers: [] }, 1000)).toBeNull();
    const wrong = connection.request('sum', { numbers: [], label: 'no' }, 1000);
    await expect(wrong).rejects.toMatchObject({ code: 'invalid_request', param: 'label' });
    connection.send('note', { line: 'one' });
    await connection.request('sum', { numbers: [] }, 1000);
    expect([heard, refused]).toEqual([['one'], []]);
  });

  it.each([
    ['minus', null, "an unknown message 'minus'"],
    ['toString', null, "an unknown message 'toString'"],
    ['sum', null, "a bad 'sum' message: body is null, not an object"],
    ['sum', {}, "a bad 'sum' message: body.numbers is missing"],
    ['sum', { numbers: [1, '2'] }, 'body.numbers[1] is a string, not a finite number'],
    ['sum', { numbers: [1, 2, 3, 4] }, 'body.numbers is a list of 4, not of at most 3'],
    ['sum', { numbers: [], label: 7 }, 'body.label is a number, not a string'],
  ])('refuses the request %s %j', async (kind, body, reason) => {
    const asked: Sum[] = [];
    const { raw } = await make((sum) => {
      asked.push(sum);
      return null;
    });
    await expect(raw.request(kind, body, 1000)).rejects.toThrow(reason);
    expect(asked).toEqual([]);
  });

  it('refuses events, one by one, and their handlers never see them', async () => {
    const { raw, heard, refused } = await make(add);
    raw.send('shout', { line: 'a' });
    raw.send('note', { line: 1 });
    raw.send('note', { line: 'good' });
    await raw.request('sum', { numbers: [] }, 1000);
    expect(heard).toEqual(['good']);
    expect(refused).toEqual([
      "an unknown message 'shout'",
      "a bad 'note' message: body.line is a number, not a string",
    ]);
  });

  it('refuses an answer', async () => {
    const { connection } = await make(() => ({ total: '3' }) as unknown as Total);
    await expect(connection.request('sum', { numbers: [] }, 1000)).rejects.toThrow(
      "a bad answer to 'sum': body.total is a string, not a finite number",
    );
  });
});

it('what is not complete does not compile', () => {
  type Handlers = RequestHandlers<Calculator['requests']>;
  expectTypeOf<object>().not.toExtend<Handlers>();
  expectTypeOf<object>().not.toExtend<EventHandlers<Calculator['events']>>();
  expectTypeOf<{ sum: (body: Sum) => string }>().not.toExtend<Handlers>();
  const connection = null as unknown as CheckedConnection<Calculator>;
  const never = () => {
    // @ts-expect-error: an unknown kind
    void connection.request('minus', null, 1);
    // @ts-expect-error: another body
    void connection.request('sum', { line: 'x' }, 1);
    // @ts-expect-error: a request is no event
    connection.send('sum', { numbers: [] });
    // @ts-expect-error: a field without a check
    is.shape<Sum>({ numbers: is.list(is.number) });
    // @ts-expect-error: a field that may be absent, checked as if it were always there
    is.shape<Sum>({ numbers: is.list(is.number), label: is.text });
    // @ts-expect-error: a field that must be there, checked as if it might be absent
    is.shape<Total>({ total: is.optional(is.text) });
  };
  expect(never).toBeTypeOf('function');
});
