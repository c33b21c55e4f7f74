/** A request that the router refuses, since its first token cannot be in time, is refused over HTTP before
 *  any header is sent. */
import { afterEach, beforeEach, expect, it } from 'vitest';
import { OverloadedError } from '../../src/control/admission.js';
import type { RequestInput } from '../../src/control/gateway-api.js';
import type { GenerationStream } from '../../src/control/generation-stream.js';
import { say, startTestServer, type TestServer } from './demo-server.js';

let test: TestServer;
beforeEach(async () => {
  test = await startTestServer(say('hello there'));
});
afterEach(() => test.close());

/** As a coordinator's: it fails when it is routed, which is after it was submitted. */
function refused(_input: RequestInput): GenerationStream {
  const error = new OverloadedError('the first token would take 2300 ms', 2300);
  const route = Promise.reject(error);
  route.catch(() => {});
  const fail = async () => {
    throw error;
  };
  return { [Symbol.asyncIterator]: () => ({ next: fail }), cancel: () => {}, stopChoice: () => {}, route };
}

it.each([
  ['/v1/chat/completions', true],
  ['/v1/chat/completions', false],
  ['/v1/completions', true],
  ['/v1/completions', false],
])('%s, stream %s: 429 with when to come again, and no place is kept', async (path, stream) => {
  test.gateway.submit = refused;
  const what = path.includes('chat') ? { messages: [{ role: 'user', content: 'Hi' }] } : { prompt: 'Hi' };
  const response = await test.post(path, { ...what, stream });
  expect(response.status).toBe(429);
  expect(response.headers.get('retry-after')).toBe('3');
  expect(response.headers.get('content-type')).toMatch(/json/);
  expect(await response.json()).toMatchObject({
    error: {
      message: 'the first token would take 2300 ms; retry in 3 s',
      type: 'rate_limit_error',
      code: 'rate_limit_exceeded',
    },
  });
  expect(test.gateway.placeCount).toBe(0);
});
