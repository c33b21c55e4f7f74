"""Times the CUDA backend's kernels and whole steps of a Qwen3-8B-shaped model, beside the floors measured in the same run.

    python3 bench/gpu/kernels.py [read gemv linear decode decode_fp8 prefill prefill_fp8 sample small step fp8]      all by default; writes $OUT/kernels.json

Conditions: random bf16 weights N(0, 0.02^2), random tokens, blocks of 16 tokens in shuffled order, L2 flushed before a kernel that is timed
alone; whole steps are captured graphs over 36 layers of weights (16 GB), which is far more than the L2. Times are medians."""
import json
import os
import sys

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "test", "gpu"))
from pd import BF16, F32, FP8, Batch, KvLayer, Pd, U64  # noqa: E402

HIDDEN, LAYERS, HEADS, KV_HEADS, DIM, INTER, VOCAB, BLOCK = 4096, 36, 32, 8, 128, 12288, 151936, 16
SHAPES = {"qkv": ((HEADS + 2 * KV_HEADS) * DIM, HIDDEN), "o": (HIDDEN, HEADS * DIM), "gate_up": (2 * INTER, HIDDEN), "down": (HIDDEN, INTER), "lm_head": (VOCAB, HIDDEN)}
rows = []
pd = Pd("cuda")
flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
floors = {}


def cold():
    pd.op("zero", flush, U64(flush.numel()))


def row(name, value, unit, **more):
    rows.append({"name": name, "value": value, "unit": unit, **more})
    print(f"{name:58} {value:10.4g} {unit:8} " + " ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in more.items()), flush=True)


def i32(data):
    return torch.tensor(data, dtype=torch.int32, device="cuda")


def read():
    import ctypes
    speed = ctypes.c_double()
    pd.raw("measure_read", pd.device, U64(4 << 30), 10, ctypes.byref(speed))
    floors["read"] = speed.value
    row("read bandwidth", speed.value / 1e12, "TB/s")
    a, b = torch.empty(2 << 30, dtype=torch.uint8, device="cuda"), torch.empty(2 << 30, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    ms = pd.time_ms(lambda: pd.op("copy", a, b, U64(a.numel())))[0]
    row("copy bandwidth (read + write)", 2 * a.numel() / ms / 1e9, "TB/s")
    pinned = torch.empty(1 << 30, dtype=torch.uint8).pin_memory()
    row("pinned host to device", pinned.numel() / pd.time_ms(lambda: pd.op("copy", a, pinned, U64(pinned.numel())), 4)[0] / 1e6, "GB/s")


def make_weight(name, format=BF16):
    n, k = SHAPES[name]
    handle = pd.weight(1, n, k, format)
    pd.op("weight_fill_random", handle, U64(len(name)), 0.02)
    return handle


def linear(x, handle, out, m, out_dtype=BF16):
    pd.op("linear", BF16, out, out_dtype, x, handle, None, m)


def gemv_and_linear(counts):
    for name, (n, k) in SHAPES.items():
        handle = make_weight(name)
        weight = torch.empty(n, k, dtype=torch.bfloat16, device="cuda").normal_(std=0.02)
        for m in counts:
            x, out = torch.randn(m, k, device="cuda").bfloat16(), torch.empty(m, n, dtype=torch.bfloat16, device="cuda")
            torch.cuda.synchronize()
            ms = pd.time_ms(lambda: linear(x, handle, out, m), 15, cold)[0]
            times = []
            for _ in range(10):
                flush.zero_()
                start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                start.record()
                torch.mm(x, weight.T, out=out)
                end.record()
                end.synchronize()
                times.append(start.elapsed_time(end))
            theirs = sorted(times)[len(times) // 2]
            row(f"linear {name} [{n}, {k}] rows {m}", ms, "ms", tbps=n * k * 2 / ms / 1e9, tflops=2 * m * n * k / ms / 1e9, torch_ms=theirs)
        pd.raw("weight_destroy", handle)
        del weight


class Kv:
    """A cache of `layers` layers, all random, and batches over it in shuffled blocks."""

    def __init__(self, layers, tokens, dtype=BF16):
        self.layers, self.blocks, self.dtype = layers, tokens // BLOCK, dtype
        if dtype == FP8:  # data, then a scale per token and head
            self.half_bytes = KV_HEADS * BLOCK * (DIM + 4)
            self.cache = torch.empty((self.blocks, layers, 2, self.half_bytes), dtype=torch.uint8, device="cuda")
            data = KV_HEADS * BLOCK * DIM
            for part in self.cache.split(1024):
                part[..., :data] = (torch.randn(*part.shape[:-1], data, device="cuda") * 100).to(torch.float8_e4m3fn).view(torch.uint8)
                part[..., data:] = torch.full((KV_HEADS * BLOCK,), 2.0 ** -7, device="cuda").view(torch.uint8)
        else:
            self.half_bytes = KV_HEADS * BLOCK * DIM * 2
            self.cache = torch.empty((self.blocks, layers, 2, KV_HEADS, BLOCK, DIM), dtype=torch.bfloat16, device="cuda")
            for part in self.cache.split(1024):
                part.normal_()
        self.token_bytes = layers * 2 * self.half_bytes // BLOCK
        self.order = torch.randperm(self.blocks)

    def layer(self, index):
        half = self.half_bytes
        return KvLayer(self.cache.data_ptr(), self.layers * 2 * half, index * 2 * half, (index * 2 + 1) * half, self.dtype, BLOCK, KV_HEADS, DIM, self.blocks)

    def batch(self, sequences, queries, kv, kv_max=None):
        count = -(-kv // BLOCK)
        assert sequences * count <= self.blocks
        table = self.order[:sequences * count].view(sequences, count).int()
        positions = [kv - queries + i for _ in range(sequences) for i in range(queries)]
        slots = [int(table[s, p // BLOCK]) * BLOCK + p % BLOCK for s in range(sequences) for p in range(kv - queries, kv)]
        held = [i32(positions), i32(slots), i32([s * queries for s in range(sequences + 1)]), i32([kv] * sequences), table.cuda()]
        made = Batch(sequences * queries, sequences, count, queries, kv_max or kv, sequences if queries == 1 else 0, *[t.data_ptr() for t in held])
        made.held = held
        return made


def attention(qkv, out, layer, batch):
    pd.op("paged_attention", BF16, out, qkv, (HEADS + 2 * KV_HEADS) * DIM, layer, batch, HEADS, DIM ** -0.5, 0, 0.0)


def decode(prefix="", dtype=BF16):
    kv_cache = Kv(LAYERS, 256 * 1024, dtype)  # layers in turn: the L2 holds none of what comes next
    for sequences, kv in ((1, 512), (1, 4096), (1, 32768), (8, 2048), (32, 512), (32, 2048), (32, 4096), (256, 1024)):
        batch = kv_cache.batch(sequences, 1, kv)
        qkv, out = torch.randn(sequences, 6144, device="cuda").bfloat16(), torch.empty(sequences, 4096, dtype=torch.bfloat16, device="cuda")
        torch.cuda.synchronize()
        layer = kv_cache.layer(0)
        cold()
        pd.wait()
        repeats = 10
        graph = pd.graph(lambda: [attention(qkv, out, kv_cache.layer(i % kv_cache.layers), batch) for i in range(repeats)])
        ms = pd.time_ms(lambda: pd.op("graph_launch", graph), 10, cold)[0] / repeats
        pd.raw("graph_destroy", graph)
        kv_bytes = sequences * kv * kv_cache.token_bytes // LAYERS
        row(f"{prefix}decode attention batch {sequences} kv {kv}", ms * 1e3, "us", tbps=kv_bytes / ms / 1e9, share_of_read=kv_bytes / ms * 1e3 / floors.get("read", 3e12))
    lengths = torch.randint(100, 4096, (64,)).tolist()
    batch = kv_cache.batch(64, 1, 4096)
    batch.held[3].copy_(torch.tensor(lengths, dtype=torch.int32))
    qkv, out = torch.randn(64, 6144, device="cuda").bfloat16(), torch.empty(64, 4096, dtype=torch.bfloat16, device="cuda")
    torch.cuda.synchronize()
    ms = pd.time_ms(lambda: attention(qkv, out, kv_cache.layer(0), batch), 20, cold)[0]
    row(f"{prefix}decode attention batch 64 kv 100..4096 mixed", ms * 1e3, "us", tbps=sum(lengths) * kv_cache.token_bytes / LAYERS / ms / 1e9)


def prefill_fp8():
    """Prefill attention over an fp8 cache."""
    kv_cache = Kv(1, 20000, FP8)
    for queries, kv in ((2048, 2048), (8192, 8192), (2048, 16384)):
        batch = kv_cache.batch(1, queries, kv)
        qkv, out = torch.randn(queries, 6144, device="cuda").bfloat16(), torch.empty(queries, 4096, dtype=torch.bfloat16, device="cuda")
        torch.cuda.synchronize()
        ms = pd.time_ms(lambda: [attention(qkv, out, kv_cache.layer(0), batch) for _ in range(10)], 7, cold)[0] / 10
        row(f"fp8 kv prefill attention 1 x {queries} of kv {kv}", ms * 1e3, "us", tflops=4 * (queries * (kv - queries) + queries * (queries + 1) / 2) * HEADS * DIM / ms / 1e9)


def prefill():
    from torch.nn.attention import SDPBackend, sdpa_kernel
    kv_cache = Kv(1, 40000)
    for sequences, queries, kv in ((1, 512, 512), (1, 2048, 2048), (1, 8192, 8192), (16, 512, 512), (1, 512, 8192), (1, 2048, 16384)):
        batch = kv_cache.batch(sequences, queries, kv)
        total = sequences * queries
        qkv, out = torch.randn(total, 6144, device="cuda").bfloat16(), torch.empty(total, 4096, dtype=torch.bfloat16, device="cuda")
        layer = kv_cache.layer(0)
        torch.cuda.synchronize()
        ms = pd.time_ms(lambda: [attention(qkv, out, layer, batch) for _ in range(10)], 7, cold)[0] / 10
        pairs = sequences * (queries * (kv - queries) + queries * (queries + 1) / 2)
        flops = 4 * pairs * HEADS * DIM
        more = {}
        if queries == kv:
            q = torch.randn(sequences, HEADS, queries, DIM, device="cuda").bfloat16()
            k = torch.randn(sequences, KV_HEADS, queries, DIM, device="cuda").bfloat16()
            v = torch.randn(sequences, KV_HEADS, queries, DIM, device="cuda").bfloat16()
            for name, backend in (("flash2", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION)):
                try:
                    with sdpa_kernel(backend):
                        run = lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
                        for _ in range(3):
                            run()
                        times = []
                        for _ in range(7):  # ten calls: torch's own time to launch one would count at small sizes
                            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                            start.record()
                            for _ in range(10):
                                run()
                            end.record()
                            end.synchronize()
                            times.append(start.elapsed_time(end) / 10)
                        more[name + "_tflops"] = flops / sorted(times)[3] / 1e9
                except RuntimeError as error:
                    more[name] = str(error)[:60]
        row(f"prefill attention {sequences} x {queries} of kv {kv}", ms * 1e3, "us", tflops=flops / ms / 1e9, **more)


class Model:
    """Qwen3-8B's shape: weights and the ops of one forward pass, as src/model enqueues them."""

    def __init__(self, tokens, format=BF16, cache_dtype=BF16):
        self.weights = []
        for layer in range(LAYERS):
            self.weights.append({name: make_weight(name, format) for name in ("qkv", "o", "gate_up", "down")})
        self.head = make_weight("lm_head", format)
        self.table = torch.empty(VOCAB, HIDDEN, dtype=torch.bfloat16, device="cuda").normal_(std=0.02)
        self.norm, self.head_norm = torch.ones(HIDDEN, device="cuda"), torch.ones(DIM, device="cuda")
        angle = torch.arange(40960, device="cuda")[:, None] * (1e6 ** (-torch.arange(0, DIM, 2, device="cuda") / DIM))[None]
        self.rope = torch.cat([angle.cos(), angle.sin()], -1).float().contiguous()
        self.kv = Kv(LAYERS, tokens, cache_dtype)
        pd.wait()

    def buffers(self, m, logit_rows):
        b = lambda cols, count=m: torch.empty(count, cols, dtype=torch.bfloat16, device="cuda")
        sample = torch.zeros(logit_rows, 20, dtype=torch.int32)
        for column in (1, 4):  # top_p and repetition 1.0
            sample[:, column] = torch.tensor([1.0]).view(torch.int32)[0]
        sample[:, 15], sample[:, 17] = -1, -1
        sample[:, 18] = torch.arange(logit_rows)
        return {"x": b(HIDDEN), "y": b(HIDDEN), "qkv": b(6144), "a": b(4096), "g": b(2 * INTER), "h": b(INTER), "last": b(HIDDEN, logit_rows),
                "logits": torch.empty(logit_rows, VOCAB, device="cuda"), "ids": torch.randint(0, VOCAB, (m,), dtype=torch.int32, device="cuda"),
                "tokens": i32([0] * logit_rows), "lasts": i32([0] * logit_rows), "logprobs": torch.empty(logit_rows, device="cuda"),
                "rows": sample.cuda(), "top_ids": torch.empty(logit_rows, 20, dtype=torch.int32, device="cuda"),
                "top_logprobs": torch.empty(logit_rows, 20, device="cuda")}

    def forward(self, b, batch, m, logit_rows, indices, only=None):
        gemms = lambda: only in (None, "gemm")
        rest = lambda: only in (None, "rest")
        attends = lambda: only in (None, "attention")
        if rest():
            pd.op("embedding", BF16, b["x"], self.table, BF16, b["ids"], b["lasts"], m, HIDDEN, VOCAB, 1.0)
            pd.op("rmsnorm", BF16, b["y"], b["x"], None, self.norm, m, HIDDEN, 1e-6)
        for index, w in enumerate(self.weights):
            layer = self.kv.layer(index)
            if gemms():
                linear(b["y"], w["qkv"], b["qkv"], m)
            if rest():
                pd.op("rope_store", BF16, b["qkv"], layer, batch, HEADS, self.head_norm, self.head_norm, 1e-6, self.rope, self.rope.shape[0], DIM)
            if attends():
                attention(b["qkv"], b["a"], layer, batch)
            if gemms():
                linear(b["a"], w["o"], b["y"], m)
            if rest():
                pd.op("rmsnorm", BF16, b["y"], b["y"], b["x"], self.norm, m, HIDDEN, 1e-6)
            if gemms():
                linear(b["y"], w["gate_up"], b["g"], m)
            if rest():
                pd.op("act_mul", BF16, b["h"], b["g"], m, INTER, 0)
            if gemms():
                linear(b["h"], w["down"], b["y"], m)
            if rest():
                pd.op("rmsnorm", BF16, b["y"], b["y"], b["x"], self.norm, m, HIDDEN, 1e-6)
        if rest():
            pd.op("gather_rows", BF16, b["last"], b["y"], indices, logit_rows, m, HIDDEN)
        if gemms():
            linear(b["last"], self.head, b["logits"], logit_rows, F32)
        if rest():
            pd.op("sample", b["logits"], logit_rows, VOCAB, b["rows"], None, None, None, None, b["lasts"], b["tokens"], b["logprobs"], b["top_ids"], b["top_logprobs"])


DECODES = [(1, 512), (1, 600), (1, 2048), (2, 512), (4, 512), (8, 512), (16, 512), (32, 512), (32, 2048), (64, 1024), (256, 512), (256, 768), (256, 1024)]
FEW_DECODES = [(1, 512), (8, 512), (32, 2048), (256, 1024)]


def steps(model, prefix, decodes, prefills):
    """Whole steps as graphs, and what their parts take alone."""
    cases = [("decode", count, 1, kv) for count, kv in decodes] + [("prefill", 1, count, count) for count in prefills]
    for kind, sequences, queries, kv in cases:
        m = sequences * queries
        batch = model.kv.batch(sequences, queries, kv)
        b = model.buffers(m, sequences)
        b["qkv"].normal_()
        indices = i32([(s + 1) * queries - 1 for s in range(sequences)])
        torch.cuda.synchronize()
        times = {}
        for only in (None, "gemm", "attention", "rest"):
            graph = pd.graph(lambda: model.forward(b, batch, m, sequences, indices, only))
            times[only or "all"] = pd.time_ms(lambda: pd.op("graph_launch", graph), 7 if queries > 1 else 15)[0]
            pd.raw("graph_destroy", graph)
        kv_ms = sequences * kv * model.kv.token_bytes / floors.get("read", 3e12) * 1e3 if queries == 1 else 0.0
        row(f"{prefix}step {kind} {sequences} x {queries} kv {kv}", times["all"], "ms", gemm=times["gemm"], attention=times["attention"], rest=times["rest"], kv_read=kv_ms,
            ratio=times["all"] / (times["gemm"] + kv_ms) if queries == 1 else times["all"] / times["gemm"])


def step():
    model = Model(270000)
    weight_bytes = 2 * (LAYERS * sum(n * k for name, (n, k) in SHAPES.items() if name != "lm_head") + VOCAB * HIDDEN)
    row("weight bytes", weight_bytes / 1e9, "GB", read_ms=weight_bytes / floors.get("read", 3e12) * 1e3)
    steps(model, "", DECODES, [512, 2048])
    pd.raw("set_batch_invariant", pd.device, 1)
    steps(model, "invariant ", FEW_DECODES, [2048])
    pd.raw("set_batch_invariant", pd.device, 0)


def fp8():
    """fp8 weights and KV cache; and as a floor of their products at 2048 rows what torch's row-wise scaled product takes."""
    total = 0.0
    for name, (n, k) in SHAPES.items():
        if name == "lm_head":
            continue
        x, weight = torch.randn(2048, k, device="cuda").to(torch.float8_e4m3fn), torch.randn(n, k, device="cuda").to(torch.float8_e4m3fn)
        scales = [torch.rand(2048, 1, device="cuda"), torch.rand(1, n, device="cuda")]
        run = lambda: torch._scaled_mm(x, weight.t(), scale_a=scales[0], scale_b=scales[1], out_dtype=torch.bfloat16, use_fast_accum=True)
        times = []
        for _ in range(12):
            flush.zero_()
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            run()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        total += sorted(times)[4] * LAYERS
    row("fp8 gemm floor rows 2048 (torch, row-wise scales)", total, "ms")
    steps(Model(270000, FP8), "fp8 ", FEW_DECODES + [(4, 512)], [512, 2048])
    torch.cuda.empty_cache()
    steps(Model(270000, FP8, FP8), "fp8 and fp8 kv ", FEW_DECODES, [2048])


def floor():
    """All weight products of a step in one graph. Run with PD_LINEAR=blas: the best of 12 cuBLASLt algorithms per shape."""
    model = Model(16)
    for m in (1, 2, 4, 8, 16, 32, 64, 256, 512, 2048):
        logit_rows = 1 if m > 256 else m
        b = model.buffers(m, logit_rows)
        for name in ("y", "a", "h", "last"):
            b[name].normal_()
        torch.cuda.synchronize()
        graph = pd.graph(lambda: model.forward(b, None, m, logit_rows, None, "gemm"))
        ms = pd.time_ms(lambda: pd.op("graph_launch", graph), 15 if m < 512 else 7)[0]
        pd.raw("graph_destroy", graph)
        row(f"gemm floor rows {m}", ms, "ms")


def small():
    """The kernels between the products, ten launches in one graph over buffers larger than the L2."""
    kv_cache = Kv(1, 8192)
    for m in (1, 32, 256, 2048):
        sets = [{name: torch.randn(m, cols, device="cuda").bfloat16() for name, cols in (("x", HIDDEN), ("y", HIDDEN), ("r", HIDDEN), ("qkv", 6144), ("g", 2 * INTER), ("h", INTER))}
                for _ in range(4 if m > 256 else 10)]
        batch = kv_cache.batch(1, m, m) if m > 256 else kv_cache.batch(m, 1, 16)
        weight, norm, rope = torch.ones(HIDDEN, device="cuda"), torch.ones(DIM, device="cuda"), torch.rand(8192, DIM, device="cuda")
        torch.cuda.synchronize()
        ops = {
            "rmsnorm + residual": (4 * HIDDEN, lambda b: pd.op("rmsnorm", BF16, b["y"], b["x"], b["r"], weight, m, HIDDEN, 1e-6)),
            "rope_store": (2 * 6144, lambda b: pd.op("rope_store", BF16, b["qkv"], kv_cache.layer(0), batch, HEADS, norm, norm, 1e-6, rope, rope.shape[0], DIM)),
            "act_mul": (3 * INTER, lambda b: pd.op("act_mul", BF16, b["h"], b["g"], m, INTER, 0)),
        }
        for name, (elements, op) in ops.items():
            graph = pd.graph(lambda: [op(sets[i % len(sets)]) for i in range(20)])
            ms = pd.time_ms(lambda: pd.op("graph_launch", graph), 10)[0] / 20
            pd.raw("graph_destroy", graph)
            row(f"{name} rows {m}", ms * 1e3, "us", tbps=elements * 2 * m / ms / 1e9)


def sample():
    for count in (1, 32, 256):
        logits = torch.randn(count, VOCAB, device="cuda") * 2.5
        for name, temperature, top_k, top_p in (("greedy", 0.0, 0, 1.0), ("temperature", 1.0, 0, 1.0), ("top-k 20 top-p 0.95", 0.6, 20, 0.95), ("top-p 0.9", 0.6, 0, 0.9), ("top-p 0.9 flat", 2.0, 0, 0.9)):
            table = torch.zeros(count, 20, dtype=torch.int32)
            bits = lambda v: torch.tensor([v], dtype=torch.float32).view(torch.int32)[0]
            table[:, 0], table[:, 1], table[:, 3], table[:, 4], table[:, 15], table[:, 17], table[:, 18] = bits(temperature), bits(top_p), top_k, bits(1.0), -1, -1, -1
            table[:, 7] = torch.arange(count)
            held = [table.cuda(), torch.zeros(count, dtype=torch.int32, device="cuda"), torch.empty(count, device="cuda"), torch.empty(count, 20, dtype=torch.int32, device="cuda"), torch.empty(count, 20, device="cuda")]
            torch.cuda.synchronize()
            ms = pd.time_ms(lambda: pd.op("sample", logits, count, VOCAB, held[0], None, None, None, None, held[1], held[1], held[2], held[3], held[4]), 10)[0]
            row(f"sample {count} rows {name}", ms * 1e3, "us")


def main():
    info = pd.info()
    print(info.name.decode(), info.isa.decode(), flush=True)
    parts = {"read": read, "gemv": lambda: gemv_and_linear((1, 4, 16)), "linear": lambda: gemv_and_linear((32, 256, 2048)), "decode": decode, "decode_fp8": lambda: decode("fp8 kv ", FP8), "prefill": prefill, "prefill_fp8": prefill_fp8, "sample": sample, "small": small, "step": step, "fp8": fp8, "floor": floor}
    for name in [a for a in sys.argv[1:] if a in parts] or [p for p in parts if p != "floor"]:
        try:
            parts[name]()
        except Exception as error:  # the other parts are still worth their numbers
            print(f"{name} stopped: {error!r}"[:400], flush=True)
        torch.cuda.empty_cache()
    if os.environ.get("OUT"):
        with open(os.path.join(os.environ["OUT"], "kernels.json"), "w") as file:
            json.dump({"machine": info.name.decode(), "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
