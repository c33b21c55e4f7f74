/** Puts a model folder on a device. Used by worker/ and tests; the one place that knows which formats
 *  follow from the files, `dtype` and `quantize`. */
import { ModelError } from '../base/errors.js';
import type { Device } from '../device/device.js';
import { type Dtype, dtypeByteCounts } from '../device/dtype.js';
import type { PlainDtype } from '../device/stored-matrix.js';
import { isPlainDtype } from '../device/stored-matrix.js';
import type { WeightFormat } from '../device/weight-format.js';
import type { Checkpoint } from './checkpoint.js';
import { type ModelConfig, readModelConfig } from './config.js';
import { allocateActivations } from './families/activations.js';
import { Decoder } from './families/decoder.js';
import { declareDecoder } from './families/parameters.js';
import { roundToBf16 } from './half-floats.js';
import { requireMemory, requireMemoryFor } from './memory-needs.js';
import type { LoadOptions, Model } from './model.js';
import { openCheckpoint } from './open-checkpoint.js';
import { type LinearFormat, ParameterStore } from './weights.js';

/** Resolves when every weight is on the device. On failure nothing stays allocated.
 *  @throws ModelError what is wrong with the folder; DeviceError when the device refuses, for instance for
 *  lack of memory. */
export function loadModel(folder: string, options: LoadOptions): Promise<Model> {
  return loadConfiguredModel(folder, readModelConfig(folder), options);
}

/** As loadModel, with a config from elsewhere (tests: config.v5.json). */
export async function loadConfiguredModel(
  folder: string,
  config: ModelConfig,
  options: LoadOptions,
): Promise<Decoder> {
  const checkpoint = options.loadFormat === 'dummy' ? null : openCheckpoint(folder);
  const dtypes = chooseDtypes(config, checkpoint, options);
  const freeBytes = options.device.readFreeBytes();
  requireMemoryFor(config, {
    bytesPerParameter: dtypes.bytesPerParameter,
    positionCount: options.maxModelTokenCount,
    freeBytes,
  });
  const store = new ParameterStore(options.device, checkpoint, dtypes.linear);
  let releaseActivations = () => {};
  const release = () => {
    releaseActivations();
    store.close();
  };
  try {
    const parameters = declareDecoder(config, store, {
      embeddingDtype: dtypes.embedding,
      routerFormat: dtypes.router,
      positionCount: options.maxModelTokenCount,
    });
    const buffers = allocateActivations(options.device, config, options.limits, dtypes.activation);
    releaseActivations = buffers.release;
    // a CPU gives out more than it has until it is written to
    requireMemory(store.bytes + buffers.bytes, freeBytes);
    const stage = checkpoint === null ? 'dummy' : 'weights';
    await store.fill((doneBytes, totalBytes) => options.onProgress?.({ stage, doneBytes, totalBytes }));
    return new Decoder({
      config,
      parameters,
      activations: buffers.activations,
      weightBytes: store.bytes,
      activationBytes: buffers.bytes,
      weightFormat: store.mainFormat,
      embeddingScale: dtypes.embeddingScale,
      release,
    });
  } catch (error) {
    release();
    throw error;
  }
}

interface ModelDtypes {
  readonly activation: Dtype;
  readonly linear: LinearFormat;
  /** At least. */
  readonly bytesPerParameter: number;
  readonly router: Dtype;
  readonly embedding: PlainDtype;
  readonly embeddingScale: number;
}

/** auto: what the files have, where the device has it; f16 files become bf16 on the CPU. Quantised files
 *  are multiplied as they are there. */
function chooseDtypes(config: ModelConfig, checkpoint: Checkpoint | null, options: LoadOptions): ModelDtypes {
  const fileDtype = checkpoint === null ? dummyDtype(config) : embeddingDtype(config, checkpoint);
  const plain = options.dtype === 'auto' ? plainDtype(fileDtype, options.device) : options.dtype;
  const linear = ({ none: plain, int8: 'i8', int4: 'q4', fp8: 'fp8' } as const)[options.quantize];
  requireSupport(options.device, config, linear, options.quantize);
  const asStored =
    options.dtype === 'auto' && options.quantize === 'none' && options.device.supports('linear', 'q4');
  // A bf16 table is exact for f32 arithmetic; an f32 one is rounded when a shorter dtype was asked for.
  const embedding = options.dtype === 'auto' || options.dtype === 'f32' ? fileDtype : options.dtype;
  return {
    activation: options.device.info.kind === 'cpu' ? 'f32' : plain,
    linear: { asStored, other: linear },
    bytesPerParameter: asStored || linear === 'q4' ? 0.5 : dtypeByteCounts[linear],
    // Whatever the model's format: it is tiny, and a rounding that flips a choice of expert changes the text.
    router: options.device.supports('linear', 'f32') ? 'f32' : plain,
    embedding,
    // transformers multiplies by the scale rounded to the model's dtype; f16 holds sqrt(hidden) well enough.
    embeddingScale:
      plain === 'bf16' ? roundToBf16(config.embeddingScale) : Math.fround(config.embeddingScale),
  };
}

function plainDtype(fileDtype: Dtype, device: Device): PlainDtype {
  if (fileDtype === 'f32') return 'f32';
  return fileDtype === 'f16' && device.supports('linear', 'f16') ? 'f16' : 'bf16';
}

/** A quantised table is read into f16: its scales have as many digits. */
function embeddingDtype(config: ModelConfig, checkpoint: Checkpoint): PlainDtype {
  const { encoding } = checkpoint.matrix('model.embed_tokens.weight', [
    config.vocabCount,
    config.hiddenCount,
  ]).layout;
  return isPlainDtype(encoding) ? encoding : 'f16';
}

function dummyDtype(config: ModelConfig): PlainDtype {
  return config.dtype === 'f32' ? 'f32' : 'bf16';
}

function requireSupport(
  device: Device,
  config: ModelConfig,
  format: WeightFormat,
  quantize: LoadOptions['quantize'],
): void {
  const needed = config.moe === null ? (['linear'] as const) : (['linear', 'moe_linear'] as const);
  for (const op of needed) {
    if (device.supports(op, format)) continue;
    const asked = quantize === 'none' ? `${format} weights` : `--quantize ${quantize}`;
    throw new ModelError(
      `${asked}: the ${device.info.kind} device (${device.info.isa}) has no ${op} for this format; choose another`,
    );
  }
}
