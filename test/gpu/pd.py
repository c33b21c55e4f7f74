"""ctypes binding of native/pd.h for the GPU drivers in test/gpu and bench/gpu. Tensors are torch's; the libraries only see pointers."""
import ctypes as c
import os

import torch

F32, BF16, F16, I8, FP8 = 0, 1, 2, 3, 4
TORCH = {F32: torch.float32, BF16: torch.bfloat16, F16: torch.float16, FP8: torch.float8_e4m3fn}
NAME = {F32: "f32", BF16: "bf16", F16: "f16", I8: "i8", FP8: "fp8"}
TOP_MAX = 20
FORBIDDEN, NOT_FINITE = -1, -2
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Info(c.Structure):
    _fields_ = [("name", c.c_char * 96), ("isa", c.c_char * 32), ("thread_count", c.c_int32), ("index", c.c_int32),
                ("total_bytes", c.c_uint64), ("free_bytes", c.c_uint64)]


class KvLayer(c.Structure):
    _fields_ = [("base", c.c_void_p), ("block_bytes", c.c_uint64), ("key_offset", c.c_uint64), ("value_offset", c.c_uint64),
                ("dtype", c.c_int32), ("block_token_count", c.c_int32), ("kv_head_count", c.c_int32), ("head_dim", c.c_int32),
                ("block_count", c.c_int32), ("reserved", c.c_int32)]


class Batch(c.Structure):
    _fields_ = [("row_count", c.c_int32), ("sequence_count", c.c_int32), ("block_table_stride", c.c_int32), ("query_count_max", c.c_int32),
                ("kv_count_max", c.c_int32), ("single_query_count", c.c_int32), ("positions", c.c_void_p), ("slots", c.c_void_p), ("query_start", c.c_void_p),
                ("kv_count", c.c_void_p), ("block_table", c.c_void_p)]


class Pair(c.Structure):
    _fields_ = [("target", c.c_int32), ("source", c.c_int32)]


class Slice(c.Structure):
    _fields_ = [("target_offset", c.c_uint64), ("source_offset", c.c_uint64), ("bytes", c.c_uint64)]


class KvPlace(c.Structure):
    _fields_ = [("base", c.c_void_p), ("block_bytes", c.c_uint64), ("layer_bytes", c.c_uint64), ("value_offset", c.c_uint64), ("scale_offset", c.c_uint64),
                ("dtype", c.c_int32), ("block_token_count", c.c_int32), ("head_count", c.c_int32), ("first_head", c.c_int32)]


class KvRange(c.Structure):
    _fields_ = [("target_start", c.c_int32), ("source_start", c.c_int32), ("token_count", c.c_int32), ("target_layer", c.c_int32), ("source_layer", c.c_int32),
                ("layer_count", c.c_int32), ("first_head", c.c_int32), ("head_count", c.c_int32), ("head_dim", c.c_int32), ("reserved", c.c_int32)]


class PdError(Exception):
    pass


def value(argument):
    if isinstance(argument, torch.Tensor):
        return c.c_void_p(argument.data_ptr())
    if isinstance(argument, c.Structure):
        return c.byref(argument)
    if isinstance(argument, float):
        return c.c_float(argument)
    if isinstance(argument, U64):
        return c.c_uint64(argument)
    if isinstance(argument, int):
        return c.c_int32(argument)
    return argument


class U64(int):
    """An int passed as uint64_t."""


class Pd:
    """One library, one device, one stream."""

    def __init__(self, kind, threads=0):
        self.lib = c.CDLL(os.path.join(ROOT, "build", kind, f"libpd_{kind}.so"))
        self.lib.pd_last_error.restype = c.c_char_p
        self.device, self.stream = c.c_void_p(), c.c_void_p()
        self.raw("device_open", 0, threads, 0, c.byref(self.device))
        self.raw("stream_create", self.device, c.byref(self.stream))
        self.place = "cuda" if kind == "cuda" else "cpu"

    def raw(self, name, *arguments):
        status = getattr(self.lib, "pd_" + name)(*[value(a) for a in arguments])
        if status != 0:
            raise PdError(f"pd_{name}: status {status}: {self.lib.pd_last_error().decode()}")

    def op(self, name, *arguments):
        self.raw(name, self.stream, *arguments)

    def wait(self):
        self.raw("stream_wait", self.stream)

    def run(self, name, *arguments):
        """Runs one op to its end, after what torch has enqueued."""
        torch.cuda.synchronize()
        self.op(name, *arguments)
        self.wait()

    def info(self):
        info = Info()
        self.raw("device_info", self.device, info)
        return info

    def weight(self, count, n, k, dtype):
        handle = c.c_void_p()
        self.raw("weight_create", self.device, count, n, k, dtype, c.byref(handle))
        return handle

    def weight_of(self, tensor, dtype):
        """tensor: [n, k] or [count, n, k] of any float dtype, on the host."""
        stack = tensor if tensor.dim() == 3 else tensor[None]
        source_dtype = {v: k for k, v in TORCH.items()}[tensor.dtype]
        handle = self.weight(stack.shape[0], stack.shape[1], stack.shape[2], dtype)
        stack = stack.contiguous()
        for i in range(stack.shape[0]):
            self.op("weight_fill", handle, i, 0, stack.shape[1], stack[i], source_dtype, U64(stack.shape[2]))
        self.wait()
        return handle

    def graph(self, record):
        self.raw("graph_begin", self.stream)
        record()
        handle = c.c_void_p()
        self.raw("graph_end", self.stream, c.byref(handle))
        return handle

    def events(self, count):
        made = [c.c_void_p() for _ in range(count)]
        for event in made:
            self.raw("event_create", self.device, c.byref(event))
        return made

    def time_ms(self, body, repeats=20, before=None):
        """Median, least and greatest of `repeats` runs of body, each after `before` (which is not timed)."""
        start, end = self.events(2)
        times = []
        for _ in range(repeats + 2):
            if before is not None:
                before()
            self.raw("event_record", self.stream, start)
            body()
            self.raw("event_record", self.stream, end)
            self.raw("event_wait", end)
            elapsed = c.c_double()
            self.raw("event_elapsed", start, end, c.byref(elapsed))
            times.append(elapsed.value)
        for event in (start, end):
            self.raw("event_destroy", event)
        times = sorted(times[2:])
        return times[len(times) // 2], times[0], times[-1]


def fp8_of(x):
    """x in e4m3 with one scale per row of the last dimension, the smallest power of two that fits: (values as stored, scales), both float64."""
    largest = x.double().abs().amax(-1, keepdim=True)
    scales = torch.where(largest > 0, torch.exp2(torch.ceil(torch.log2(torch.where(largest > 0, largest, torch.ones_like(largest)) / 448))), torch.ones_like(largest))
    return (x.double() / scales).float().to(torch.float8_e4m3fn).double(), scales


class Paged:
    """A paged cache of one layer pair in random block order, NaN wherever nothing valid lies, and the batch that uses it.

    lengths: per sequence (query_count, kv_count)."""

    def __init__(self, lengths, kv_heads, dim, block, dtype, generator, place="cuda", layers=2, layer=1, poison=True, padding_rows=0):
        self.lengths, self.kv_heads, self.dim, self.block, self.dtype = lengths, kv_heads, dim, block, dtype
        counts = [max(1, -(-kv // block)) for _, kv in lengths]
        total = sum(counts) + 3
        half = kv_heads * block * dim
        if dtype == FP8:  # bytes: data, then a scale per token and head; 255 is NaN in both
            self.cache = torch.full((total, layers, 2, half + kv_heads * block * 4), 255, dtype=torch.uint8, device=place)
            half = self.cache.shape[-1]
        else:
            self.cache = torch.full((total, layers, 2, kv_heads, block, dim), float("nan") if poison else 0.0, dtype=TORCH[dtype], device=place)
        order = torch.randperm(total, generator=generator).tolist()
        stride = max(counts) + 1
        table = torch.full((len(lengths), stride), -1, dtype=torch.int32)
        at = 0
        for s, count in enumerate(counts):
            table[s, :count] = torch.tensor(order[at:at + count], dtype=torch.int32)
            at += count
        starts, positions, slots = [0], [], []
        for s, (queries, kv) in enumerate(lengths):
            starts.append(starts[-1] + queries)
            for i in range(queries):
                position = max(kv - queries + i, 0)
                positions.append(position)
                slots.append(int(table[s, position // block]) * block + position % block if kv > 0 else -1)
        self.rows = starts[-1]
        positions += [0] * padding_rows
        slots += [-1] * padding_rows
        self.table, self.starts = table, starts
        i32 = lambda x: torch.as_tensor(x, dtype=torch.int32, device=place)
        self.held = [i32(positions), i32(slots), i32(starts), i32([kv for _, kv in lengths]), table.to(place)]
        self.positions, self.slots = positions, slots
        size = self.cache.element_size()
        self.kv_layer = KvLayer(self.cache.data_ptr(), layers * 2 * half * size, layer * 2 * half * size, (layer * 2 + 1) * half * size, dtype, block,
                                kv_heads, dim, total)
        self.batch = Batch(self.rows + padding_rows, len(lengths), stride, max(q for q, _ in lengths), max(kv for _, kv in lengths), sum(q == 1 for q, _ in lengths),
                           *[t.data_ptr() for t in self.held])
        self.layer = layer

    def batch_of(self, lengths):
        """Another batch over the first sequence's blocks: every one of `lengths` is a stretch of that sequence."""
        starts, positions, place = [0], [], self.cache.device
        for queries, kv in lengths:
            starts.append(starts[-1] + queries)
            positions += range(kv - queries, kv)
        i32 = lambda x: torch.as_tensor(x, dtype=torch.int32, device=place)
        table = self.table[:1].repeat(len(lengths), 1).to(place)
        held = [i32(positions), i32([-1] * len(positions)), i32(starts), i32([kv for _, kv in lengths]), table]
        made = Batch(starts[-1], len(lengths), table.shape[1], max(q for q, _ in lengths), max(kv for _, kv in lengths), sum(q == 1 for q, _ in lengths), *[t.data_ptr() for t in held])
        made.held = held
        return made

    def scaled(self):
        """What lies in an fp8 cache: (values without their scales, scales), [blocks, layers, 2, kvHead, slot (, dim)] float64."""
        count = self.kv_heads * self.block
        data = self.cache[..., :count * self.dim].contiguous().view(torch.float8_e4m3fn).double()
        scales = self.cache[..., count * self.dim:].contiguous().view(torch.float32).double()
        return data.view(*data.shape[:3], self.kv_heads, self.block, self.dim), scales.view(*scales.shape[:3], self.kv_heads, self.block)

    def fill(self, generator, scale=1.0):
        """Random keys and values at every valid position. Returns them per sequence as [kv, kv_heads, dim], as the cache holds them."""
        self.keys, self.values = [], []
        for s, (_, kv) in enumerate(self.lengths):
            for half, kept in enumerate((self.keys, self.values)):
                data = torch.randn((kv, self.kv_heads, self.dim), generator=generator) * scale
                if self.dtype == FP8:
                    data = data * torch.exp2(torch.randint(-3, 4, (kv, self.kv_heads, 1), generator=generator) * (1.0 if half else 0.3))
                    data, scales = fp8_of(data)
                    kept.append((data * scales).float())
                    data, scales = data.float().to(torch.float8_e4m3fn).view(torch.uint8), scales.float()
                else:
                    data, scales = data.to(TORCH[self.dtype]), None
                    kept.append(data)
                if kv > 0:
                    self.place(s, half, data, scales)

    def place(self, s, half, data, scales):
        """data: [kv, kv_heads, dim]; scales: [kv, kv_heads, 1] or None"""
        kv, count = data.shape[0], -(-data.shape[0] // self.block)
        blocks = self.table[s, :count].long().to(self.cache.device)

        def blocked(x, filler):
            padded = torch.full((count * self.block, *x.shape[1:]), filler, dtype=x.dtype)
            padded[:kv] = x
            return padded.view(count, self.block, *x.shape[1:]).transpose(1, 2).contiguous().to(self.cache.device)
        if scales is None:
            self.cache[blocks, self.layer, half] = blocked(data, float("nan"))
        else:
            parts = [blocked(data, 255).view(count, -1), blocked(scales, float("nan")).view(count, -1).view(torch.uint8)]
            self.cache[blocks, self.layer, half] = torch.cat(parts, -1)
