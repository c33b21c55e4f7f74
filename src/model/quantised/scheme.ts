/** What config.json's `quantization_config` promises, as far as the files do not say it themselves. Which
 *  modules are quantised, in how many bits and groups, is read from the tensors (module.ts): so lists of
 *  ignored modules and mixed precision need no rules here. Used by open-checkpoint.ts. A method that is
 *  not known is refused by name. */
import path from 'node:path';
import { ModelError } from '../../base/errors.js';
import { ConfigFields } from '../config-fields.js';
import { describeJson, readOptionalJsonObject } from '../json-file.js';

export type QuantisationScheme =
  /** `zeroOffset`: the first layout stores zero - 1. */
  | { readonly method: 'gptq'; readonly zeroOffset: 0 | 1 }
  | { readonly method: 'awq' }
  | { readonly method: 'compressed-tensors' }
  | { readonly method: 'fp8'; readonly block: readonly [rows: number, columns: number] | null }
  | { readonly method: 'mxfp4' };

/** `folder`/config.json's; null when it has none. @throws ModelError */
export function readQuantisation(folder: string): QuantisationScheme | null {
  const file = path.join(folder, 'config.json');
  const config = new ConfigFields(file, readOptionalJsonObject(file) ?? {});
  const fields = config.object('quantization_config') ?? config.object('compression_config');
  if (fields === null) return null;
  const method = fields.text('quant_method') ?? 'nothing';
  switch (method) {
    case 'gptq':
      return readGptq(fields);
    case 'awq':
      return readAwq(fields);
    case 'compressed-tensors':
      return readCompressed(fields);
    case 'fp8':
      return { method, block: readBlock(fields) };
    case 'mxfp4':
      return { method };
    default:
      throw new ModelError(
        `${file}: quantization_config: method ${describeJson(method)} is not supported (supported: gptq, awq, compressed-tensors, fp8, ` +
          'mxfp4): use such a checkpoint, one in bf16, or a GGUF file',
      );
  }
}

function readGptq(fields: ConfigFields): QuantisationScheme {
  const format = fields.text('checkpoint_format') ?? 'gptq';
  if (format !== 'gptq' && format !== 'gptq_v2') {
    throw new ModelError(
      `${fields.file}: quantization_config: GPTQ layout ${describeJson(format)} is not supported (supported: gptq, gptq_v2): ` +
        'use the checkpoint in its first layout',
    );
  }
  return { method: 'gptq', zeroOffset: format === 'gptq' ? 1 : 0 };
}

function readAwq(fields: ConfigFields): QuantisationScheme {
  const version = (fields.text('version') ?? 'gemm').toLowerCase();
  if (version === 'gemm') return { method: 'awq' };
  throw new ModelError(
    `${fields.file}: quantization_config: AWQ version ${describeJson(version)} is not supported: use one of version "gemm"`,
  );
}

const compressedFormats = [
  ...['pack-quantized', 'int-quantized', 'float-quantized', 'naive-quantized', 'mxfp4-pack-quantized'],
  ...['mixed-precision', 'dense'],
];

function readCompressed(fields: ConfigFields): QuantisationScheme {
  const groups = fields.object('config_groups');
  const names = Object.keys(
    fields.object('config_groups') === null ? {} : (fields.raw('config_groups') as object),
  );
  const formats = [
    fields.text('format'),
    ...names.map((name) => groups?.object(name)?.text('format') ?? null),
  ];
  const unknown = formats.find((format) => format !== null && !compressedFormats.includes(format));
  if (unknown !== undefined) {
    throw new ModelError(
      `${fields.file}: quantization_config: compressed-tensors format ${describeJson(unknown)} is not supported (supported: ` +
        `${compressedFormats.join(', ')}): use a checkpoint in one of them, or in bf16`,
    );
  }
  const sparsity = fields.object('sparsity_config')?.text('format') ?? 'dense';
  if (sparsity !== 'dense') {
    throw new ModelError(
      `${fields.file}: quantization_config: sparse weights (${describeJson(sparsity)}) are not supported`,
    );
  }
  return { method: 'compressed-tensors' };
}

function readBlock(fields: ConfigFields): readonly [number, number] | null {
  const block = fields.numbers('weight_block_size');
  if (block === null) return null;
  const [rows = 0, columns = 0] = block;
  if (
    block.length !== 2 ||
    !block.every((extent) => Number.isInteger(extent) && extent > 0 && extent <= 2 ** 20)
  ) {
    fields.fail('weight_block_size', 'two positive integers');
  }
  return [rows, columns];
}
