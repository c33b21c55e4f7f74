/** Streams, events, graphs and errors of the native runtime. */
import { afterEach, describe, expect, it } from 'vitest';
import { Bench } from './tensors.js';

const open: Bench[] = [];
const bench = (threadCount = 2): Bench => {
  const made = new Bench({ threadCount });
  open.push(made);
  return made;
};
afterEach(() => {
  for (const made of open.splice(0)) made.close();
});

describe('stream', () => {
  it('runs what is enqueued in order', async () => {
    const b = bench();
    const x = b.f32(new Float32Array(33).fill(1));
    for (let i = 0; i < 20; i++) b.stream.ops.add(x, x, 1);
    await b.stream.wait();
    expect([...b.floats(x)].slice(0, 33)).toEqual(new Array(33).fill(2 ** 20));
  });
});
