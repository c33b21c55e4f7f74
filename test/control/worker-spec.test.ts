/** `--workers` is parsed to what was meant, or refused with the item and the reason. */
import { describe, expect, it } from 'vitest';
import { formatDevice, parseWorkerSpecs } from '../../src/control/worker-spec.js';

describe('worker spec', () => {
  it('expands counts and keeps order', () => {
    expect(parseWorkerSpecs('prefill:cpu*2?threads=1,decode:cpu')).toEqual([
      { role: 'prefill', device: { kind: 'cpu', index: 0 }, threadCount: 1 },
      { role: 'prefill', device: { kind: 'cpu', index: 0 }, threadCount: 1 },
      { role: 'decode', device: { kind: 'cpu', index: 0 } },
    ]);
    expect(parseWorkerSpecs(' any:cuda:0 , any:cuda:1?quantize=fp8&blocks=512 ')).toEqual([
      { role: 'any', device: { kind: 'cuda', index: 0 } },
      { role: 'any', device: { kind: 'cuda', index: 1 }, quantize: 'fp8', blockCount: 512 },
    ]);
    expect(parseWorkerSpecs('any:cuda').map((spec) => formatDevice(spec.device))).toEqual(['cuda:0']);
    expect(formatDevice({ kind: 'cpu', index: 0 })).toBe('cpu');
  });

  it.each([
    ['', /empty/],
    ['cpu', /'cpu': expected role:device/],
    ['any:cpu,', /'': expected role:device/],
    ['both:cpu', /role 'both' is not one of any, prefill, decode/],
    ['any:tpu', /device 'tpu' is not cpu or cuda:N/],
    ['any:cpu:1', /one device/],
    ['any:cpu*0', /count 0/],
    ['any:cpu*65', /count 65/],
    ['any:cpu*40,any:cpu*40', /80 workers/],
    ['decode:cuda:1+cuda:2', /tensor parallel/],
    ['any:cpu?threads=0', /threads must be a whole number from 1/],
    ['any:cpu?threads=two', /not 'two'/],
    ['any:cpu?thread=2', /setting 'thread' is not one of/],
    ['any:cpu?quantize=int3', /not 'int3'/],
    ['any:CPU', /expected role:device/],
    ['any:cpu;any:cpu', /expected role:device/],
  ])('%s is refused', (text, message) => {
    expect(() => parseWorkerSpecs(text)).toThrow(message);
    try {
      parseWorkerSpecs(text);
    } catch (error) {
      expect(error).toMatchObject({ code: 'invalid_request', param: 'workers' });
    }
  });
});
