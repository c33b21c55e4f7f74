/** The ops of a stream, over a native library. Made by native-stream.ts.
 *  Invariant: shapes and dtypes are checked here, once, before the call; native code trusts them. */
import { assert } from '../base/assert.js';
import { DeviceError } from '../base/errors.js';
import type { NativeLibrary } from './abi.js';
import type { BatchView, KvLayerView, Ops, RopeStoreOptions, SampleArguments, Weight } from './device.js';
import type { Dtype } from './dtype.js';
import { dtypeCodes } from './dtype.js';
import { batchOffset, layerOffset, structBytes, writeBatch, writeLayer } from './native-structs.js';
import type { Pointer, Tensor } from './tensor.js';
import { columns, elementCount, rowsOf } from './tensor.js';

const pdInvalid = 2;
const activationCodes = { silu: 0, gelu_tanh: 1 } as const;

export class NativeOps implements Ops {
  readonly #library: NativeLibrary;
  readonly #device: number;
  readonly #stream: number;
  readonly #structs: Pointer;
  readonly #structView: DataView;
  #isOpen = true;

  constructor(library: NativeLibrary, device: number, stream: number) {
    const out = new BigUint64Array(1);
    library.check(library.call.pd_host_alloc(device, structBytes, out), 'allocate structs');
    this.#library = library;
    this.#device = device;
    this.#stream = stream;
    this.#structs = Number(out[0]) as Pointer;
    this.#structView = new DataView(library.view(this.#structs, structBytes));
  }

  /** Ends with its stream. */
  close(): void {
    this.#isOpen = false;
    this.#library.check(this.#library.call.pd_host_free(this.#device, this.#structs), 'free structs');
  }

  embedding(
    out: Tensor,
    table: Tensor,
    ids: Pointer,
    lastTokens: Pointer,
    rows: number,
    scale: number,
  ): void {
    const hidden = columns(out);
    if (columns(table) !== hidden || rowsOf(out) < rows)
      throw mismatch('embedding', { out, table }, `${rows} rows`);
    const status = this.#library.call.pd_embedding(
      this.#live,
      dtypeCodes[out.dtype],
      out.pointer,
      table.pointer,
      dtypeCodes[table.dtype],
      ids,
      lastTokens,
      rows,
      hidden,
      rowsOf(table),
      scale,
    );
    this.#check(status, 'embedding', { out, table });
  }

  rmsnorm(out: Tensor, x: Tensor, weight: Tensor, rows: number, eps: number): void {
    this.#rmsnorm(out, x, null, weight, rows, eps);
  }

  addRmsnorm(out: Tensor, residual: Tensor, x: Tensor, weight: Tensor, rows: number, eps: number): void {
    this.#rmsnorm(out, x, residual, weight, rows, eps);
  }

  add(residual: Tensor, x: Tensor, rows: number): void {
    const cols = columns(residual);
    if (columns(x) !== cols || x.dtype !== residual.dtype || Math.min(rowsOf(x), rowsOf(residual)) < rows) {
      throw mismatch('add', { residual, x }, `${rows} rows`);
    }
    const status = this.#library.call.pd_add(
      this.#live,
      dtypeCodes[x.dtype],
      residual.pointer,
      x.pointer,
      rows * cols,
    );
    this.#check(status, 'add', { residual, x });
  }

  linear(out: Tensor, x: Tensor, weight: Weight, bias: Tensor | null, rows: number): void {
    const fits =
      columns(out) === weight.n && columns(x) === weight.k && Math.min(rowsOf(out), rowsOf(x)) >= rows;
    if (!fits || (bias !== null && (elementCount(bias.shape) !== weight.n || bias.dtype !== 'f32'))) {
      throw mismatch(
        'linear',
        { out, x, ...(bias === null ? {} : { bias }) },
        `${rows} rows, weight ${shapeOf(weight)}`,
      );
    }
    const [type, outType, biasPointer] = [dtypeCodes[x.dtype], dtypeCodes[out.dtype], bias?.pointer ?? 0];
    const { call } = this.#library;
    this.#check(
      call.pd_linear(this.#live, type, out.pointer, outType, x.pointer, weight.handle, biasPointer, rows),
      `linear with weight ${shapeOf(weight)}`,
      { out, x },
    );
  }

  ropeStore(qkv: Tensor, layer: KvLayerView, batch: BatchView, options: RopeStoreOptions): void {
    const { headCount, queryNorm, keyNorm, eps, rope } = options;
    const { headDim } = layer;
    const fits =
      columns(qkv) === (headCount + 2 * layer.kvHeadCount) * headDim && rowsOf(qkv) >= batch.rowCount;
    const normsFit = [queryNorm, keyNorm].every(
      (norm) => norm === null || (columns(norm) === headDim && norm.dtype === 'f32'),
    );
    if (!fits || !normsFit || columns(rope) > headDim || rope.dtype !== 'f32') {
      throw mismatch(
        'rope_store',
        { qkv, rope },
        `${headCount} heads, ${describeLayer(layer)}, ${batch.rowCount} rows`,
      );
    }
    writeLayer(this.#structView, layer);
    writeBatch(this.#structView, batch);
    const status = this.#library.call.pd_rope_store(
      this.#live,
      dtypeCodes[qkv.dtype],
      qkv.pointer,
      this.#structs + layerOffset,
      this.#structs + batchOffset,
      headCount,
      queryNorm?.pointer ?? 0,
      keyNorm?.pointer ?? 0,
      eps,
      rope.pointer,
      rowsOf(rope),
      columns(rope),
    );
    this.#check(status, 'rope_store', { qkv, rope });
  }

  pagedAttention(
    out: Tensor,
    qkv: Tensor,
    layer: KvLayerView,
    batch: BatchView,
    options: { headCount: number; scale: number; window: number; softcap: number },
  ): void {
    const { headCount, scale, window, softcap } = options;
    const fits =
      columns(out) === headCount * layer.headDim &&
      columns(qkv) >= columns(out) &&
      headCount % layer.kvHeadCount === 0;
    if (!fits || Math.min(rowsOf(out), rowsOf(qkv)) < batch.rowCount) {
      throw mismatch(
        'paged_attention',
        { out, qkv },
        `${headCount} heads, ${describeLayer(layer)}, ${batch.rowCount} rows`,
      );
    }
    writeLayer(this.#structView, layer);
    writeBatch(this.#structView, batch);
    const status = this.#library.call.pd_paged_attention(
      this.#live,
      dtypeCodes[qkv.dtype],
      out.pointer,
      qkv.pointer,
      columns(qkv),
      this.#structs + layerOffset,
      this.#structs + batchOffset,
      headCount,
      scale,
      window,
      softcap,
    );
    this.#check(status, 'paged_attention', { out, qkv });
  }

  actMul(out: Tensor, gateUp: Tensor, rows: number, activation: 'silu' | 'gelu_tanh'): void {
    const inter = columns(out);
    if (
      columns(gateUp) !== 2 * inter ||
      Math.min(rowsOf(out), rowsOf(gateUp)) < rows ||
      out.dtype !== gateUp.dtype
    ) {
      throw mismatch('act_mul', { out, gateUp }, `${rows} rows`);
    }
    const { call } = this.#library;
    const code = activationCodes[activation];
    const status = call.pd_act_mul(
      this.#live,
      dtypeCodes[out.dtype],
      out.pointer,
      gateUp.pointer,
      rows,
      inter,
      code,
    );
    this.#check(status, 'act_mul', { out, gateUp });
  }

  moeRoute(
    expertIds: Tensor,
    expertWeights: Tensor,
    logits: Tensor,
    rows: number,
    normalise: 'topk' | 'none',
  ): void {
    const topK = columns(expertIds);
    const fits = columns(expertWeights) === topK && expertIds.dtype === 'i32' && logits.dtype === 'f32';
    if (!fits || Math.min(rowsOf(expertIds), rowsOf(expertWeights), rowsOf(logits)) < rows) {
      throw mismatch('moe_route', { expertIds, expertWeights, logits }, `${rows} rows`);
    }
    const [ids, weights, flag] = [expertIds.pointer, expertWeights.pointer, normalise === 'topk' ? 1 : 0];
    const status = this.#library.call.pd_moe_route(
      this.#live,
      ids,
      weights,
      logits.pointer,
      rows,
      columns(logits),
      topK,
      flag,
    );
    this.#check(status, 'moe_route', { expertIds, expertWeights, logits });
  }

  moeLinear(out: Tensor, x: Tensor, weight: Weight, expertIds: Tensor, pairs: number, divisor: number): void {
    const fits =
      columns(out) === weight.n &&
      columns(x) === weight.k &&
      rowsOf(out) >= pairs &&
      rowsOf(x) * divisor >= pairs;
    if (!fits || elementCount(expertIds.shape) < pairs || expertIds.dtype !== 'i32' || divisor < 1) {
      throw mismatch(
        'moe_linear',
        { out, x, expertIds },
        `${pairs} pairs, divisor ${divisor}, weight ${shapeOf(weight)}`,
      );
    }
    const { call } = this.#library;
    const type = dtypeCodes[x.dtype];
    this.#check(
      call.pd_moe_linear(
        this.#live,
        type,
        out.pointer,
        x.pointer,
        weight.handle,
        expertIds.pointer,
        pairs,
        divisor,
      ),
      `moe_linear with weight ${shapeOf(weight)}`,
      { out, x },
    );
  }

  moeCombine(out: Tensor, x: Tensor, expertWeights: Tensor, rows: number): void {
    const [hidden, topK] = [columns(out), columns(expertWeights)];
    const fits =
      columns(x) === hidden &&
      rowsOf(x) >= rows * topK &&
      x.dtype === out.dtype &&
      expertWeights.dtype === 'f32';
    if (!fits || Math.min(rowsOf(out), rowsOf(expertWeights)) < rows) {
      throw mismatch('moe_combine', { out, x, expertWeights }, `${rows} rows`);
    }
    const { call } = this.#library;
    const type = dtypeCodes[out.dtype];
    const status = call.pd_moe_combine(
      this.#live,
      type,
      out.pointer,
      x.pointer,
      expertWeights.pointer,
      rows,
      topK,
      hidden,
    );
    this.#check(status, 'moe_combine', { out, x });
  }

  softcap(x: Tensor, rows: number, cap: number): void {
    if (x.dtype !== 'f32' || rowsOf(x) < rows) throw mismatch('softcap', { x }, `${rows} rows`);
    this.#check(this.#library.call.pd_softcap(this.#live, x.pointer, rows * columns(x), cap), 'softcap', {
      x,
    });
  }

  gatherRows(out: Tensor, x: Tensor, indices: Pointer, count: number): void {
    const cols = columns(out);
    if (columns(x) !== cols || x.dtype !== out.dtype || rowsOf(out) < count)
      throw mismatch('gather_rows', { out, x }, `${count} rows`);
    const status = this.#library.call.pd_gather_rows(
      this.#live,
      dtypeCodes[x.dtype],
      out.pointer,
      x.pointer,
      indices,
      count,
      rowsOf(x),
      cols,
    );
    this.#check(status, 'gather_rows', { out, x });
  }

  sample(args: SampleArguments): void {
    const { logits, rowCount } = args;
    if (logits.dtype !== 'f32' || rowsOf(logits) < rowCount)
      throw mismatch('sample', { logits }, `${rowCount} rows`);
    const status = this.#library.call.pd_sample(
      this.#live,
      logits.pointer,
      rowCount,
      columns(logits),
      args.rows,
      args.history,
      args.biasIds,
      args.biasValues,
      args.masks,
      args.lastTokens,
      args.tokens,
      args.logprobs,
      args.topIds,
      args.topLogprobs,
    );
    this.#check(status, 'sample', { logits });
  }

  #rmsnorm(out: Tensor, x: Tensor, residual: Tensor | null, weight: Tensor, rows: number, eps: number): void {
    const cols = columns(x);
    const tensors = residual === null ? [out, x] : [out, x, residual];
    const fits = tensors.every(
      (tensor) => columns(tensor) === cols && rowsOf(tensor) >= rows && tensor.dtype === x.dtype,
    );
    if (!fits || columns(weight) !== cols || weight.dtype !== 'f32')
      throw mismatch('rmsnorm', { out, x, weight }, `${rows} rows`);
    const [type, residualPointer] = [dtypeCodes[x.dtype], residual?.pointer ?? 0];
    const { call } = this.#library;
    const status = call.pd_rmsnorm(
      this.#live,
      type,
      out.pointer,
      x.pointer,
      residualPointer,
      weight.pointer,
      rows,
      cols,
      eps,
    );
    this.#check(status, 'rmsnorm', { out, x, weight });
  }

  get #live(): number {
    assert(this.#isOpen, 'a closed stream is not used');
    return this.#stream;
  }

  #check(status: number, op: string, tensors: Record<string, Tensor>): void {
    if (status !== 0)
      throw new DeviceError(`${op} (${describe(tensors)}): ${this.#library.lastError()}`, status);
  }
}

function describe(tensors: Record<string, Pick<Tensor, 'shape'> & { dtype: Dtype }>): string {
  return Object.entries(tensors)
    .map(([name, { shape, dtype }]) => `${name}: [${shape.join(', ')}] ${dtype}`)
    .join('; ');
}

function describeLayer(layer: KvLayerView): string {
  return `${layer.kvHeadCount} kv heads of ${layer.headDim}`;
}

function shapeOf(weight: Weight): string {
  return `[${weight.count}, ${weight.n}, ${weight.k}] ${weight.format}`;
}

function mismatch(op: string, tensors: Record<string, Tensor>, rest: string): DeviceError {
  return new DeviceError(`${op}: shapes do not fit: ${describe(tensors)}; ${rest}`, pdInvalid);
}
