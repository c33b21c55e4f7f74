import { expect, it } from 'vitest';
import { DeviceError } from '../../src/base/errors.js';
import { requireGpu, requireLinux } from '../../src/device/native-library.js';

it('kernels are compiled only where there is a GPU to run them', () => {
  expect(() => requireGpu(['null', 'nvidia0', 'nvidiactl'])).not.toThrow();
  expect(() => requireGpu(['null', 'dxg'])).not.toThrow();
  expect(() => requireGpu(['null', 'nvidiactl', 'nvidia-uvm'])).toThrow(DeviceError);
  expect(() => requireGpu([])).toThrow(/no NVIDIA GPU here.*--workers any:cpu/);
});

it('other systems get one sentence', () => {
  expect(() => requireLinux('linux')).not.toThrow();
  expect(() => requireLinux('darwin')).toThrow(/run on Linux .* not on macOS: use a Linux container/);
  expect(() => requireLinux('win32')).toThrow(/not on Windows: .*WSL 2/);
});
