/** The C ABI of native/pd.h as data: which symbols there are and what they take. Used by native.ts, which
 *  binds them. Pointers and handles are plain numbers; a `Buffer` parameter is a typed array the callee fills
 *  or reads during the call. */
import type { Pointer } from './tensor.js';

const parameterTypes = {
  pointer: 'uintptr_t',
  i32: 'int32',
  u64: 'uint64',
  f32: 'float',
  buffer: 'void *',
  text: 'str',
} as const;

type ParameterKind = keyof typeof parameterTypes;
type ParameterValue<Kind extends ParameterKind> = Kind extends 'buffer'
  ? NodeJS.TypedArray | DataView
  : Kind extends 'text'
    ? string
    : number;
type Parameters<Kinds extends readonly ParameterKind[]> = {
  [Index in keyof Kinds]: ParameterValue<Kinds[Index]>;
};

const [P, I, U, F, B, T] = ['pointer', 'i32', 'u64', 'f32', 'buffer', 'text'] as const;

/** Every function returns an int: a status, or what its comment in pd.h says. */
export const symbols = {
  pd_abi_version: [],
  pd_device_count: [B],
  pd_device_open: [I, I, I, B],
  pd_device_info: [P, B],
  pd_device_close: [P],
  pd_set_batch_invariant: [P, I],
  pd_supports: [P, I, I],
  pd_measure_read: [P, U, I, P],
  pd_alloc: [P, U, B],
  pd_free: [P, P],
  pd_host_alloc: [P, U, B],
  pd_host_free: [P, P],
  pd_copy: [P, P, P, U],
  pd_zero: [P, P, U],
  pd_convert: [P, P, I, P, I, U],
  pd_map_file: [T, B, B],
  pd_unmap_file: [P, U],
  pd_stream_create: [P, B],
  pd_stream_destroy: [P],
  pd_stream_wait: [P],
  pd_stream_wait_event: [P, P],
  pd_event_create: [P, B],
  pd_event_destroy: [P],
  pd_event_record: [P, P],
  pd_event_wait: [P],
  pd_event_query: [P],
  pd_event_elapsed: [P, P, B],
  pd_graph_begin: [P],
  pd_graph_end: [P, B],
  pd_graph_launch: [P, P],
  pd_graph_destroy: [P],
  pd_cache_create: [P, U, B],
  pd_cache_create_host: [P, U, B],
  pd_cache_export: [P, B],
  pd_cache_import: [P, B, B],
  pd_cache_pointer: [P, B],
  pd_cache_close: [P],
  pd_copy_slices: [P, P, P, U, U, B, I, B, I],
  pd_move_kv: [P, B, B, B, B, B],
  pd_checksum_blocks: [P, P, P, U, B, I],
  pd_weight_create: [P, I, I, B, I, B],
  pd_read_matrix: [P, P, I, B, I, I],
  pd_weight_fill: [P, P, I, I, I, B],
  pd_weight_fill_random: [P, P, U, F],
  pd_random: [P, P, I, U, U, F, F],
  pd_weight_bytes: [P, B],
  pd_weight_destroy: [P],
  pd_embedding: [P, I, P, P, I, P, P, I, I, I, F],
  pd_rmsnorm: [P, I, P, P, P, P, I, I, F],
  pd_add: [P, I, P, P, U],
  pd_linear: [P, I, P, I, P, P, P, I],
  pd_rope_store: [P, I, P, P, P, I, P, P, F, P, I, I],
  pd_paged_attention: [P, I, P, P, I, P, P, I, F, I, F],
  pd_act_mul: [P, I, P, P, I, I, I],
  pd_moe_route: [P, P, P, P, I, I, I, I],
  pd_moe_linear: [P, I, P, P, P, P, I, I],
  pd_moe_combine: [P, I, P, P, P, I, I, I],
  pd_softcap: [P, P, U, F],
  pd_gather_rows: [P, I, P, P, P, I, I, I],
  pd_sample: [P, P, I, I, P, P, P, P, P, P, P, P, P, P],
} as const satisfies Record<string, readonly ParameterKind[]>;

export type SymbolName = keyof typeof symbols;
export type NativeFunctions = {
  readonly [Name in SymbolName]: (...values: Parameters<(typeof symbols)[Name]>) => number;
};
/** Those that may block for long, called on the libuv pool. */
export type BlockingName = 'pd_stream_wait' | 'pd_event_wait' | 'pd_measure_read';
export type BlockingFunctions = {
  readonly [Name in BlockingName]: (...values: Parameters<(typeof symbols)[Name]>) => Promise<number>;
};

export const abiVersion = 4;

/** The koffi types of a symbol's parameters. */
export function parametersOf(name: SymbolName): string[] {
  return symbols[name].map((kind: ParameterKind) => parameterTypes[kind]);
}

/** A loaded library. Functions are bound on their first call, so a missing symbol fails only where it is
 *  used. */
export interface NativeLibrary {
  readonly path: string;
  readonly call: NativeFunctions;
  /** The same functions on the libuv pool. */
  readonly blocking: BlockingFunctions;
  /** A view over native memory. Costs microseconds: make it once. The memory must outlive its uses. */
  view(pointer: Pointer, byteCount: number): ArrayBuffer;
  /** What went wrong in this thread's last failing call. */
  lastError(): string;
  /** Throws a DeviceError naming `what` (op and shapes) unless status is PD_OK. */
  check(status: number, what: string): void;
}
