/** What becomes of requests when the engine in this process fails: each hears of it once, and later ones at
 *  once. */
import { describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.js';
import { DeviceError, TwostrokeError } from '../../src/base/errors.js';
import { requestId } from '../../src/base/ids.js';
import type { Device } from '../../src/device/device.js';
import type { Engine } from '../../src/engine/engine.js';
import { greedy } from '../../src/engine/sampling-params.js';
import { LocalGateway } from '../../src/library/local-gateway.js';
import type { Model } from '../../src/model/model.js';

/** An engine whose first step fails, and what was closed of it. */
function failing(error: Error) {
  const closed: string[] = [];
  const added: string[] = [];
  const engine = {
    get hasWork() {
      return added.length > 0;
    },
    add: ({ id }: { id: string }) => void added.push(id),
    abort: () => undefined,
    step: () => Promise.reject(error),
    close: async () => void closed.push('engine'),
  };
  const parts = {
    model: { close: () => void closed.push('model') },
    device: { close: () => void closed.push('device') },
  };
  const loaded = {
    engine: engine as unknown as Engine,
    model: parts.model as Model,
    device: parts.device as Device,
    masks: null,
  };
  return { gateway: new LocalGateway(loaded, systemClock), closed };
}

const input = (id: string) => ({ id: requestId(id), promptIds: [1], sampling: greedy });

async function firstOf(stream: AsyncIterable<unknown>): Promise<unknown> {
  for await (const event of stream) return event;
  return 'nothing';
}

describe('an engine that fails', () => {
  it.each([
    {
      error: new DeviceError('pd_linear: out of memory', 3),
      code: 'device_error',
      message: 'pd_linear: out of memory',
    },
    {
      error: new TypeError('x is not a function'),
      code: 'internal',
      message: 'internal error: x is not a function',
    },
  ])('$message: all requests hear of it, and everything is given back', async ({ error, code, message }) => {
    const { gateway, closed } = failing(error);
    const streams = [gateway.submit(input('a')), gateway.submit(input('b'))];
    const ends = await Promise.allSettled(streams.map(firstOf));
    for (const end of ends) expect(end).toMatchObject({ status: 'rejected', reason: { code, message } });
    expect((ends[0] as PromiseRejectedResult).reason).toBeInstanceOf(TwostrokeError);
    expect(() => gateway.submit(input('c'))).toThrow(message);
    await gateway.close();
    expect(closed).toEqual(['engine', 'model', 'device']);
  });
});
