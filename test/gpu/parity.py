"""Parity of the CUDA backend: every op of native/pd.h against a float64 reference (torch) or, for sampling and random numbers, against the CPU
library. Fresh random inputs, poisoned outputs, a tolerance per dtype, odd shapes. Prints one table; exit code 1 when anything fails.

    python3 test/gpu/parity.py [seed] [part …]      needs build/cuda/libpd_cuda.so, build/cpu/libpd_cpu.so, a GPU and torch"""
import json
import math
import os
import sys
import time

import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from moves import long_copies, moves  # noqa: E402
from not_finite import not_finite  # noqa: E402
from pd import BF16, F16, F32, FP8, NAME, TOP_MAX, TORCH, U64, Paged, Pair, Pd, PdError, Slice, fp8_of  # noqa: E402

SEED = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else int(time.time()) % 100000
G = torch.Generator().manual_seed(SEED)
ALL = (F32, BF16, F16)
# worst |out - ref| over the RMS of ref, and the relative norm of the error; a few roundings of the dtype
WORST = {F32: 2e-5, BF16: 4e-2, F16: 5e-3}
NORM = {F32: 2e-6, BF16: 4e-3, F16: 5e-4}
# PD_SMALL=1: fewer and smaller shapes, for compute-sanitizer
SMALL = os.environ.get("PD_SMALL") == "1"
rows = []


def randn(*shape, scale=1.0):
    return torch.randn(shape, generator=G) * scale


def integer(low, high):
    return int(torch.randint(low, high + 1, (1,), generator=G))


def gpu(tensor, dtype):
    return tensor.to(TORCH[dtype]).cuda()


def poison(shape, dtype):
    return torch.full(shape, float("nan"), dtype=TORCH[dtype], device="cuda")


def record(op, what, ok, detail):
    rows.append({"op": op, "case": what, "ok": bool(ok), "detail": detail})
    if not ok:
        print(f"FAIL {op:18} {what:60} {detail}", flush=True)


def compare(op, what, out, reference, dtype, factor=1.0):
    """The worst error over the RMS of its row, and the norm of all errors over the reference's. NaN never passes."""
    out, reference = out.double().cpu(), reference.double().cpu()
    error = out - reference
    overall = reference.norm().item() / math.sqrt(max(1, reference.numel()))
    rms = reference.norm(dim=-1, keepdim=True) / math.sqrt(max(1, reference.shape[-1])) + 0.05 * overall + 1e-30  # rows of one value near zero
    worst = (error.abs() / rms).max().item() if error.numel() else 0.0
    norm = error.norm().item() / (reference.norm().item() + 1e-30)
    if bool(torch.isnan(out).any()):
        worst = norm = float("nan")
    record(op, what, worst <= WORST[dtype] * factor and norm <= NORM[dtype] * factor, f"worst {worst:.2e} norm {norm:.2e}")


def guarded(op, what, body):
    try:
        body()
    except PdError as error:
        record(op, what, False, str(error))


def small_ops(pd):
    for dtype in ALL:
        for cols in (1, 33, 256) if SMALL else (1, 7, 17, 33, 64, 256, 4096, 5120):
            n = integer(1, 9)
            what = f"{NAME[dtype]} rows {n} cols {cols}"
            x, residual, weight = gpu(randn(n, cols), dtype), gpu(randn(n, cols), dtype), randn(cols).cuda()
            out = poison((n, cols), dtype)
            pd.run("rmsnorm", dtype, out, x, None, weight, n, cols, 1e-6)
            reference = lambda v: v * torch.rsqrt((v * v).mean(-1, keepdim=True) + 1e-6) * weight.double()
            compare("rmsnorm", what, out, reference(x.double()), dtype)
            summed = (x.float() + residual.float()).to(TORCH[dtype])
            out = poison((n, cols), dtype)
            pd.run("rmsnorm", dtype, out, x, residual, weight, n, cols, 1e-6)
            compare("rmsnorm + residual", what, out, reference(summed.double()), dtype)
            record("rmsnorm + residual", what + " residual", torch.equal(residual, summed), "bits")
            total = gpu(randn(n, cols), dtype)
            expected = (total.float() + x.float()).to(TORCH[dtype])
            pd.run("add", dtype, total, x, U64(n * cols))
            record("add", what, torch.equal(total, expected), "bits")
            for activation in (0, 1):
                pair = gpu(randn(n, 2 * cols, scale=2.0), dtype)
                out = poison((n, cols), dtype)
                pd.run("act_mul", dtype, out, pair, n, cols, activation)
                gate, up = pair[:, :cols].double(), pair[:, cols:].double()
                gate = torch.nn.functional.silu(gate) if activation == 0 else torch.nn.functional.gelu(gate, approximate="tanh")
                compare("act_mul", f"{what} act {activation}", out, gate * up, dtype, 2)
            indices = torch.randint(0, n, (5,), generator=G, dtype=torch.int32).cuda()
            out = poison((5, cols), dtype)
            pd.run("gather_rows", dtype, out, x, indices, 5, n, cols)
            record("gather_rows", what, torch.equal(out, x[indices.long()]), "bits")
            for table_dtype in ALL:
                table, last = gpu(randn(40, cols), table_dtype), torch.tensor([3, 9], dtype=torch.int32).cuda()
                ids = torch.tensor([0, 39, -1, -2, 5], dtype=torch.int32).cuda()
                out = poison((5, cols), dtype)
                pd.run("embedding", dtype, out, table, table_dtype, ids, last, 5, cols, 40, 1.5)
                compare("embedding", f"{what} table {NAME[table_dtype]}", out, table[torch.tensor([0, 39, 3, 9, 5]).cuda()].double() * 1.5, dtype)
    x = randn(1003, scale=30.0).cuda()
    expected = 15.0 * torch.tanh(x.double() / 15.0)
    pd.run("softcap", x, U64(1003), 15.0)
    compare("softcap", "f32", x, expected, F32)


def conversions(pd, cpu):
    for source in ALL:
        for target in ALL:
            host = randn(100003, scale=3.0).to(TORCH[source])
            for place in ("cpu", "cuda"):
                out = poison((100003,), target)
                pd.run("convert", out, target, host.to(place), source, U64(100003))
                record("convert", f"{NAME[source]} to {NAME[target]} from {place}", torch.equal(out.cpu(), host.to(TORCH[target])), "bits")
    for dtype in ALL:
        out, expected = poison((5001,), dtype), torch.empty(5001, dtype=TORCH[dtype])
        pd.run("random", out, dtype, U64(5001), U64(77), 0.5, 1.0)
        cpu.op("random", expected, dtype, U64(5001), U64(77), 0.5, 1.0)
        cpu.wait()
        record("random", NAME[dtype], torch.equal(out.cpu(), expected), f"{(out.cpu() != expected).sum().item()} differ")


def copies(pd):
    for slice_bytes in (16, 100, 4096, 65536 + 48):
        source = torch.randint(0, 256, (9, 3 * 65600), dtype=torch.uint8, generator=G).cuda()
        target = torch.zeros((9, 3 * 65600), dtype=torch.uint8).cuda()
        pairs = [(8, 0), (1, 3), (2, 7)]
        slices = [(0, 65600, slice_bytes), (65600 * 2, 0, slice_bytes)]
        expected = target.clone()
        for t, s in pairs:
            for to, so, count in slices:
                expected[t, to:to + count] = source[s, so:so + count]
        torch.cuda.synchronize()
        pd.op("copy_slices", target, source, U64(target.stride(0)), U64(source.stride(0)), (Pair * 3)(*[Pair(*p) for p in pairs]), 3,
              (Slice * 2)(*[Slice(*s) for s in slices]), 2)
        pd.wait()
        record("copy_slices", f"{slice_bytes} bytes", torch.equal(target, expected), "bits")


def linears(pd):
    cases = []
    for n, k in ((24, 40), (33, 17), (23, 1072), (136, 560)) if SMALL else ((8, 8), (24, 40), (136, 264), (512, 4096), (1000, 96), (7, 24), (33, 17), (23, 1072), (4130, 560)):
        for m in (1, 3, 5, 17, 70) if SMALL else (1, 2, 3, 4, 5, 8, 9, 16, 17, 33, 129):
            cases.append((m, n, k))
    for x_dtype, w_dtype, out_dtype in ((F32, F32, F32), (F32, BF16, F32), (F32, F16, F32), (BF16, BF16, BF16), (BF16, BF16, F32), (F16, F16, F16),
                                        (F16, F16, F32), (BF16, F32, BF16)):
        for m, n, k in cases:
            what = f"x {NAME[x_dtype]} w {NAME[w_dtype]} out {NAME[out_dtype]} m {m} n {n} k {k}"
            with_bias = integer(0, 1) == 1
            x, weight = gpu(randn(m, k), x_dtype), randn(n, k, scale=k ** -0.5).to(TORCH[w_dtype])
            bias = randn(n).cuda() if with_bias else None
            out = poison((m, n), out_dtype)

            def body():
                handle = pd.weight_of(weight, w_dtype)
                pd.run("linear", x_dtype, out, out_dtype, x, handle, bias, m)
                pd.raw("weight_destroy", handle)
                reference = x.double().cpu() @ weight.double().T
                if with_bias:
                    reference = reference + bias.double().cpu()
                compare("linear", what, out, reference, out_dtype, 2)
            guarded("linear", what, body)


def quantised(pd):
    """Products with fp8 weights against the same quantisation in float64: what is left is the order of additions and, in cuBLASLt, sums that are
    kept in fewer bits. And against the unquantised product: e4m3 has 4 bits, so about 2.6 % a factor."""
    for n, k in ((24, 32), (33, 48), (136, 1056)) if SMALL else ((24, 32), (33, 48), (512, 4096), (4130, 560), (256, 12288), (64, 16)):
        for dtype, out_dtype in ((BF16, BF16), (BF16, F32), (F16, F16), (F32, F32)):
            for m in (1, 5, 17, 70) if SMALL else (1, 2, 7, 8, 9, 16, 33, 129, 300):
                what = f"x {NAME[dtype]} out {NAME[out_dtype]} m {m} n {n} k {k}"
                x, weight = gpu(randn(m, k) * torch.exp2(torch.randint(-6, 7, (m, 1), generator=G)), dtype), randn(n, k, scale=k ** -0.5)
                weight[integer(0, n - 1)] = 0
                bias = randn(n).cuda() if integer(0, 1) else None
                out = poison((m, n), out_dtype)

                def body():
                    handle = pd.weight_of(weight, FP8)
                    pd.run("linear", dtype, out, out_dtype, x, handle, bias, m)
                    pd.raw("weight_destroy", handle)
                    (a, a_scale), (b, b_scale) = fp8_of(x.cpu()), fp8_of(weight)
                    reference, exact = (a * a_scale) @ (b * b_scale).T, x.double().cpu() @ weight.double().T
                    if bias is not None:
                        reference, exact = reference + bias.double().cpu(), exact + bias.double().cpu()
                    compare("linear fp8", what, out, reference, BF16, 2)  # whatever the output: Hopper sums fp8 products in about 14 bits
                    error = ((out.double().cpu() - exact).norm() / exact.norm()).item()
                    record("linear fp8", what + " unquantised", error < 0.08, f"norm {error:.2e}")
                guarded("linear fp8", what, body)
    for tokens, experts, top_k, hidden, inter in ((5, 8, 2, 64, 48), (300, 16, 4, 80, 200)):
        stack, x = randn(experts, inter, hidden, scale=hidden ** -0.5), gpu(randn(tokens, hidden), BF16)
        ids = torch.randint(0, experts, (tokens, top_k), dtype=torch.int32, generator=G).cuda()
        handle, out = pd.weight_of(stack, FP8), poison((tokens * top_k, inter), BF16)
        pd.run("moe_linear", BF16, out, x, handle, ids, tokens * top_k, top_k)
        (a, a_scale), (b, b_scale) = fp8_of(x.cpu()), fp8_of(stack)
        reference = torch.einsum("jk,jnk->jn", (a * a_scale).repeat_interleave(top_k, 0), (b * b_scale)[ids.flatten().long().cpu()])
        compare("moe_linear fp8", f"tokens {tokens} experts {experts} top {top_k}", out, reference, BF16, 2)
        pd.raw("weight_destroy", handle)


def invariances(pd):
    """With pd_set_batch_invariant a row has the same bits whatever surrounds it; and the results are still right."""
    pd.raw("set_batch_invariant", pd.device, 1)
    try:
        for dtype, format in ((BF16, BF16), (F16, F16), (BF16, FP8), (F32, BF16), (F32, F32)):
            for n, k in ((136, 1040),) if SMALL else ((24, 48), (512, 4096), (1000, 96), (33, 560), (4096, 1072)):
                if format == FP8 and k % 16 != 0:
                    continue
                weight, x = randn(n, k, scale=k ** -0.5), gpu(randn(300, k), dtype)
                handle, whole = pd.weight_of(weight, format), poison((300, n), dtype)
                pd.run("linear", dtype, whole, dtype, x, handle, None, 300)
                (a, a_scale), (b, b_scale) = (fp8_of(x.cpu()), fp8_of(weight)) if format == FP8 else ((x.double().cpu(), 1.0), (weight.to(TORCH[format]).double(), 1.0))
                compare("invariant linear", f"x {NAME[dtype]} w {NAME[format]} n {n} k {k}", whole, (a * a_scale) @ (b * b_scale).T, dtype, 2)
                for first, count in ((0, 1), (77, 2), (5, 8), (1, 9), (30, 16), (100, 33), (64, 64), (3, 100), (170, 130)):
                    out = poison((count, n), dtype)
                    pd.run("linear", dtype, out, dtype, x[first:first + count].contiguous(), handle, None, count)
                    wrong = (out != whole[first:first + count]).sum().item()
                    record("invariant linear", f"x {NAME[dtype]} w {NAME[format]} n {n} k {k} rows {first} + {count} of 300", wrong == 0, f"{wrong} differ")
                pd.raw("weight_destroy", handle)
        for dtype, kv_dtype in ((BF16, BF16), (F16, F16), (F32, F32), (BF16, FP8)):
            for heads, kv_heads, dim, block, window, cap in ((8, 2, 64, 16, 0, 0.0), (32, 8, 128, 16, 0, 0.0), (4, 4, 128, 32, 100, 10.0), (8, 4, 96, 8, 0, 0.0), (4, 1, 256, 16, 70, 0.0)):
                total = 150 if SMALL else 500
                paged = Paged([(total, total)], kv_heads, dim, block, kv_dtype, G)
                paged.fill(G)
                stride = (heads + 2 * kv_heads) * dim
                qkv = gpu(randn(total, stride), dtype)
                what = f"{NAME[dtype]} kv {NAME[kv_dtype]} {heads}/{kv_heads} dim {dim} window {window} cap {cap}"

                def attend_rows(first, end, beside):
                    """Rows [first, end) as a chunk of their sequence, with a sequence of one query beside it."""
                    lengths = [(end - first, end)] + ([(1, beside)] if beside else [])
                    batch = paged.batch_of(lengths)
                    out = poison((batch.row_count, heads, dim), dtype)
                    q = torch.cat([qkv[first:end]] + ([qkv[:1]] if beside else []))
                    pd.run("paged_attention", dtype, out, q, stride, paged.kv_layer, batch, heads, dim ** -0.5, window, cap)
                    return out[:end - first]
                whole = attend_rows(0, total, 0)
                q = qkv[:, :heads * dim].double().view(total, heads, dim)
                compare("invariant attention", what, whole, attend(q, paged.keys[0].cuda().double(), paged.values[0].cuda().double(), 0, dim ** -0.5, window, cap), dtype, 2 if dtype != F32 else 4)
                for first, end, beside in ((total - 1, total, 0), (70, 71, 30), (64, 65, 0), (0, 1, 5), (10, 140, 0), (37, 39, 100), (129, 150, 1)):
                    out = attend_rows(first, end, beside)
                    wrong = (out != whole[first:end]).sum().item()
                    record("invariant attention", f"{what} rows {first} to {end} of {total}", wrong == 0, f"{wrong} differ")
    finally:
        pd.raw("set_batch_invariant", pd.device, 0)


def weights(pd, cpu):
    for source in ALL:
        for target in ALL:
            matrix = randn(50, 130).to(TORCH[source])
            handle = pd.weight(3, 20, 64, target)
            pd.run("weight_fill", handle, 2, 4, 16, matrix[7:], source, U64(130))
            x = torch.eye(64).to(TORCH[target])
            ids = torch.full((64,), 2, dtype=torch.int32).cuda()
            out = poison((64, 20), target)
            pd.run("moe_linear", target, out, x.cuda(), handle, ids, 64, 1)
            expected = torch.zeros(20, 64, dtype=TORCH[target])
            expected[4:] = matrix[7:23, :64].to(TORCH[target])
            record("weight_fill", f"{NAME[source]} to {NAME[target]}", torch.equal(out.cpu(), expected.T), "bits")
    ours, theirs = pd.weight(1, 64, 32, BF16), cpu.weight(1, 64, 32, BF16)
    outs = []
    for lib, handle, place in ((pd, ours, "cuda"), (cpu, theirs, "cpu")):
        lib.op("weight_fill_random", handle, U64(5), 0.02)
        x, out = torch.eye(32, device=place), torch.empty((32, 64), device=place)
        torch.cuda.synchronize()
        lib.op("linear", F32, out, F32, x, handle, None, 32)
        lib.wait()
        outs.append(out.cpu())
    record("weight_fill_random", "bf16 equals the CPU's", torch.equal(*outs), f"{(outs[0] != outs[1]).sum().item()} differ")


def moes(pd):
    for dtype in ALL:
        for tokens, experts, top_k, hidden, inter in ((1, 8, 2, 64, 48), (5, 8, 2, 64, 48), (33, 128, 8, 128, 96), (300, 16, 4, 72, 200)):
            what = f"{NAME[dtype]} tokens {tokens} experts {experts} top {top_k} {hidden} to {inter}"

            def body():
                logits = randn(tokens, experts, scale=2.0).cuda()
                ids = torch.full((tokens, top_k), -7, dtype=torch.int32).cuda()
                share = poison((tokens, top_k), F32)
                for normalise in (0, 1):
                    pd.run("moe_route", ids, share, logits, tokens, experts, top_k, normalise)
                    values, indices = torch.softmax(logits.double(), -1).topk(top_k)
                    if normalise:
                        values = values / values.sum(-1, keepdim=True)
                    record("moe_route", what, torch.equal(indices.int(), ids), "ids")
                    compare("moe_route", what, share, values, F32)
                stack, x = randn(experts, inter, hidden, scale=hidden ** -0.5).to(TORCH[dtype]), gpu(randn(tokens, hidden), dtype)
                handle = pd.weight_of(stack, dtype)
                out = poison((tokens * top_k, inter), dtype)
                pd.run("moe_linear", dtype, out, x, handle, ids, tokens * top_k, top_k)
                flat = ids.flatten().long().cpu()
                reference = torch.einsum("jk,jnk->jn", x.double().cpu().repeat_interleave(top_k, 0), stack.double()[flat])
                compare("moe_linear", what, out, reference, dtype, 2)
                combined = poison((tokens, inter), dtype)
                pd.run("moe_combine", dtype, combined, out, share, tokens, top_k, inter)
                compare("moe_combine", what, combined, (out.double().view(tokens, top_k, inter) * share.double()[..., None]).sum(1), dtype)
                pd.raw("weight_destroy", handle)
            guarded("moe", what, body)


def ropes(pd):
    for dtype in ALL:
        for kv_dtype in ALL:
            for heads, kv_heads, dim, rotary, block, has_norm in ((4, 2, 16, 16, 8, True), (8, 2, 64, 64, 16, False), (32, 8, 128, 128, 16, True),
                                                                  (3, 3, 80, 32, 32, False), (2, 1, 256, 256, 256, True), (4, 4, 8, 8, 16, False)):
                what = f"{NAME[dtype]} kv {NAME[kv_dtype]} heads {heads}/{kv_heads} dim {dim} rotary {rotary} block {block}"
                paged = Paged([(1, 5), (7, 20), (3, 3), (1, 0)], kv_heads, dim, block, kv_dtype, G, padding_rows=2)
                total = paged.batch.row_count
                qkv = gpu(randn(total, (heads + 2 * kv_heads) * dim), dtype)
                before = qkv.clone()
                norms = [randn(dim).cuda() + 1 if has_norm else None for _ in range(2)]
                rope = torch.rand(64, rotary, generator=G).cuda() * 2 - 1
                cache_before = paged.cache.clone()

                def body():
                    pd.run("rope_store", dtype, qkv, paged.kv_layer, paged.batch, heads, norms[0], norms[1], 1e-6, rope, rope.shape[0], rotary)
                    source = before.double().cpu().view(total, heads + 2 * kv_heads, dim)
                    rotated = source.clone()
                    for part, norm in ((slice(0, heads), norms[0]), (slice(heads, heads + kv_heads), norms[1])):
                        x = source[:, part]
                        if norm is not None:
                            x = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * norm.double().cpu()
                        angles = rope.double().cpu()[torch.tensor(paged.positions)][:, None]
                        cosine, sine, half = angles[..., :rotary // 2], angles[..., rotary // 2:], rotary // 2
                        a, b = x[..., :half], x[..., half:rotary]
                        rotated[:, part] = torch.cat([a * cosine - b * sine, b * cosine + a * sine, x[..., rotary:]], -1)
                    live = [i for i in range(total) if paged.slots[i] >= 0]
                    out = qkv.view(total, heads + 2 * kv_heads, dim)
                    compare("rope_store", what + " q", out[live, :heads], rotated[live, :heads], dtype)
                    expected = cache_before.clone()
                    for row in live:
                        slot = paged.slots[row]
                        for half_index, first in ((0, heads), (1, heads + kv_heads)):
                            expected[slot // block, paged.layer, half_index, :, slot % block] = rotated[row, first:first + kv_heads].to(TORCH[kv_dtype]).cuda()
                    compare("rope_store", what + " cache", torch.nan_to_num(paged.cache, 0.0), torch.nan_to_num(expected, 0.0), max(dtype, kv_dtype) if
                            F32 in (dtype, kv_dtype) else BF16 if BF16 in (dtype, kv_dtype) else F16, 2)  # an element may round the other way
                    record("rope_store", what + " elsewhere", torch.equal(torch.isnan(paged.cache), torch.isnan(expected)), "NaN kept")
                guarded("rope_store", what, body)


def ropes_fp8(pd):
    """The fp8 store: each stored value within half a step of the rotated one, each scale the smallest power of two that fits, nothing else touched."""
    for dtype in ALL:
        for heads, kv_heads, dim, rotary, block in ((4, 2, 16, 16, 8), (32, 8, 128, 128, 16), (3, 3, 80, 32, 32), (2, 1, 256, 256, 16), (4, 4, 32, 6, 16)):
            what = f"{NAME[dtype]} kv fp8 heads {heads}/{kv_heads} dim {dim} rotary {rotary} block {block}"
            lengths = [(1, 5), (7, 20), (3, 3)]
            paged, plain = (Paged(lengths, kv_heads, dim, block, kv_dtype, torch.Generator().manual_seed(SEED), padding_rows=1) for kv_dtype in (FP8, F32))
            qkv = gpu(randn(paged.batch.row_count, (heads + 2 * kv_heads) * dim), dtype)
            qkv[0, -dim:] = 0
            norm, rope = randn(dim).cuda() + 1, torch.rand(64, rotary, generator=G).cuda() * 2 - 1

            def body():
                for cache in (plain, paged):  # the float32 store was compared with float64 in `ropes`
                    pd.run("rope_store", dtype, qkv.clone(), cache.kv_layer, cache.batch, heads, norm, norm, 1e-6, rope, rope.shape[0], rotary)
                data, scales = paged.scaled()
                reference = plain.cache.double()
                is_stored = ~torch.isnan(reference)
                record("rope_store fp8", what + " elsewhere", torch.equal(torch.isnan(data), ~is_stored) and torch.equal(torch.isnan(scales), ~is_stored.all(-1)), "NaN kept")
                error, step = (data * scales[..., None] - reference).abs(), torch.maximum(reference.abs() / 16, scales[..., None] / 1024)
                worst = torch.nan_to_num(error / step, 0.0).max().item()
                record("rope_store fp8", what, worst <= 1.0 + 1e-5, f"worst {worst:.4f} half steps")
                largest = torch.nan_to_num(reference.abs().amax(-1) / scales, 300.0)
                record("rope_store fp8", what + " scales", bool(((largest == 0) | ((largest > 223.9) & (largest < 448.1))).all()), f"{largest.min().item():.1f} to {largest.max().item():.1f}")
            guarded("rope_store fp8", what, body)


def attend(q, keys, values, first_position, scale, window, softcap):
    """float64. q: [queries, heads, dim]; keys, values: [kv, kv_heads, dim]"""
    group = q.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
    scores = torch.einsum("qhd,khd->hqk", q, keys) * scale
    if softcap > 0:
        scores = softcap * torch.tanh(scores / softcap)
    position = torch.arange(q.shape[0], device=q.device)[:, None] + first_position
    key = torch.arange(keys.shape[0], device=q.device)[None]
    hidden = key > position
    if window > 0:
        hidden = hidden | (key <= position - window)
    scores = scores.masked_fill(hidden, float("-inf"))
    return torch.einsum("hqk,khd->qhd", torch.softmax(scores, -1), values)


def attention_case(pd, dtype, kv_dtype, lengths, heads, kv_heads, dim, block, window=0, softcap=0.0, drop_left=False):
    what = f"{NAME[dtype]} kv {NAME[kv_dtype]} {heads}/{kv_heads} dim {dim} block {block} window {window} cap {softcap} {lengths if len(lengths) < 4 else str(len(lengths)) + ' sequences'}"

    def body():
        paged = Paged(lengths, kv_heads, dim, block, kv_dtype, G)
        paged.fill(G)
        if drop_left and window > 0:  # what the window has left behind is gone
            table = paged.held[4]
            for s, (queries, kv) in enumerate(lengths):
                gone = max(0, kv - queries - window + 1) // block
                table[s, :gone] = -1
        stride = (heads + 2 * kv_heads) * dim
        qkv = gpu(randn(paged.rows, stride), dtype)
        out = poison((paged.rows, heads, dim), dtype)
        scale = dim ** -0.5
        pd.run("paged_attention", dtype, out, qkv, stride, paged.kv_layer, paged.batch, heads, scale, window, softcap)
        reference = torch.zeros(paged.rows, heads, dim, dtype=torch.float64)
        for s, (queries, kv) in enumerate(lengths):
            if kv == 0:
                continue
            part = slice(paged.starts[s], paged.starts[s + 1])
            q = qkv[part, :heads * dim].double().view(queries, heads, dim)
            reference[part] = attend(q, paged.keys[s].cuda().double(), paged.values[s].cuda().double(), kv - queries, scale, window, softcap).cpu()
        compare("paged_attention", what, out, reference, dtype, 2 if dtype != F32 else 4)
    guarded("paged_attention", what, body)


def attentions(pd):
    if SMALL:
        for dtype, kv_dtype in ((BF16, BF16), (F16, F16), (F32, F32), (BF16, FP8)):
            for heads, kv_heads, dim, block in ((4, 2, 64, 16), (8, 2, 128, 8), (2, 2, 32, 32)):
                attention_case(pd, dtype, kv_dtype, [(1, 70), (5, 40), (1, 0), (140, 150), (1, 200)], heads, kv_heads, dim, block, 33, 10.0, drop_left=True)
                attention_case(pd, dtype, kv_dtype, [(1, 300), (1, 1), (1, 129)], heads, kv_heads, dim, block)
        return
    mixed = [(1, 1), (1, 300), (5, 5), (64, 200), (1, 0), (130, 130), (1, 65), (3, 700), (1, 64), (2, 0)]
    decode = [(1, integer(1, 900)) for _ in range(40)] + [(1, 0), (1, 64), (1, 1)]
    for dtype in (BF16, F16):
        for dim in (16, 32, 64, 96, 128, 192, 256):
            attention_case(pd, dtype, dtype, mixed, 8, 2, dim, 16)
            attention_case(pd, dtype, dtype, decode, 8, 2, dim, 16)
        for block in (8, 16, 32, 64, 128, 256):
            attention_case(pd, dtype, dtype, mixed, 4, 2, 64, block)
        for heads, kv_heads in ((4, 4), (16, 2), (40, 2), (12, 1), (32, 8)):
            attention_case(pd, dtype, dtype, mixed, heads, kv_heads, 128, 16)
        for window, cap in ((1, 0.0), (32, 0.0), (33, 20.0), (100, 0.0), (0, 10.0), (64, 10.0)):
            attention_case(pd, dtype, dtype, mixed, 4, 2, 64, 16, window, cap, drop_left=True)
            attention_case(pd, dtype, dtype, decode, 4, 2, 128, 8, window, cap, drop_left=True)
        attention_case(pd, dtype, dtype, [(1, 5000)], 32, 8, 128, 16)
        attention_case(pd, dtype, dtype, [(1, 512)], 32, 8, 128, 16)
        attention_case(pd, dtype, dtype, [(700, 1500), (600, 600)], 8, 2, 128, 16)
        attention_case(pd, dtype, dtype, [(2000, 2000)], 4, 1, 128, 16)
    for dtype in (BF16, F16):
        for dim in (16, 32, 64, 96, 128, 256):
            attention_case(pd, dtype, FP8, mixed, 8, 2, dim, 16)
            attention_case(pd, dtype, FP8, decode, 8, 2, dim, 8)
        for heads, kv_heads, block, window, cap in ((4, 4, 32, 0, 0.0), (40, 2, 16, 33, 20.0), (32, 8, 256, 100, 0.0)):
            attention_case(pd, dtype, FP8, mixed, heads, kv_heads, 128, block, window, cap, drop_left=True)
            attention_case(pd, dtype, FP8, decode, heads, kv_heads, 128, block, window, cap, drop_left=True)
        attention_case(pd, dtype, FP8, [(1, 5000)], 32, 8, 128, 16)
        attention_case(pd, dtype, FP8, [(700, 1500), (600, 600)], 8, 2, 128, 16)
    for dtype, kv_dtype in ((F32, F32), (F32, BF16), (F32, F16), (BF16, F32), (F32, FP8)):
        for dim in (8, 16, 24, 80, 128, 256):
            attention_case(pd, dtype, kv_dtype, mixed, 4, 2, dim, 16, 33, 0.0, drop_left=True)
            attention_case(pd, dtype, kv_dtype, mixed, 4, 2, dim, 8, 0, 10.0)
    attention_case(pd, BF16, BF16, mixed, 4, 2, 40, 16)
    # the same batch twice gives the same bits, and counters are left clean
    paged = Paged([(1, 777), (1, 2000), (1, 5)], 8, 128, 16, BF16, G)
    paged.fill(G)
    qkv = gpu(randn(3, 48 * 128), BF16)
    outs = []
    for _ in range(3):
        out = poison((3, 32, 128), BF16)
        pd.run("paged_attention", BF16, out, qkv, 48 * 128, paged.kv_layer, paged.batch, 32, 0.088, 0, 0.0)
        outs.append(out)
    record("paged_attention", "repeats bit for bit", torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2]), "bits")


def moved_keys(pd):
    """Attention right behind the copy of a block it reads (copy-on-write): what decode reads ahead of its predecessors must not be that block."""
    paged = Paged([(1, 777), (1, 2000)], 8, 128, 16, BF16, G)
    paged.fill(G)
    qkv, block_bytes = gpu(randn(2, 48 * 128), BF16), paged.kv_layer.block_bytes
    attend = lambda out: pd.op("paged_attention", BF16, out, qkv, 48 * 128, paged.kv_layer, paged.batch, 32, 0.088, 0, 0.0)
    clean = poison((2, 32, 128), BF16)
    torch.cuda.synchronize()
    attend(clean)
    pd.wait()
    used, source = set(paged.table.flatten().tolist()), int(paged.table[1, 3])
    spare = next(b for b in range(paged.kv_layer.block_count) if b not in used)
    paged.held[4][1, 3] = spare
    ok = True
    for _ in range(5 if SMALL else 50):
        paged.cache[spare] = float("nan")
        out = poison((2, 32, 128), BF16)
        torch.cuda.synchronize()
        pd.op("copy_slices", paged.cache, paged.cache, U64(block_bytes), U64(block_bytes), (Pair * 1)(Pair(spare, source)), 1, (Slice * 1)(Slice(0, 0, block_bytes)), 1)
        attend(out)
        pd.wait()
        ok = ok and torch.equal(out, clean)
    record("paged_attention", "behind a copied block", ok, "bits")


SAMPLE_FIELDS = ["temperature", "top_p", "min_p", "top_k", "repetition", "presence", "frequency", "seed_low", "seed_high", "draw_index", "history_start",
                 "prompt_count", "output_count", "bias_start", "bias_count", "mask_start", "top_count", "target", "slot", "reserved"]
FLOATS = {"temperature", "top_p", "min_p", "repetition", "presence", "frequency"}


def sample_rows(settings):
    table = torch.zeros((len(settings), 20), dtype=torch.int32)
    for r, row in enumerate(settings):
        full = {"temperature": 1.0, "top_p": 1.0, "repetition": 1.0, "mask_start": -1, "target": -1, "slot": -1, **row}
        for i, name in enumerate(SAMPLE_FIELDS):
            number = full.get(name, 0)
            if name in FLOATS:
                table[r, i] = torch.tensor([number], dtype=torch.float32).view(torch.int32)[0]
            else:
                table[r, i] = number - (1 << 32) if number >= 1 << 31 else number
    return table


def samples(pd, cpu):
    for vocab in (50, 4097) if SMALL else (50, 512, 4097, 32000, 151936):
        settings, history, masks, bias_ids, bias_values = [], [], [], [], []
        shapes = [dict(temperature=0.0), dict(), dict(temperature=0.7), dict(top_k=1), dict(top_k=20), dict(top_k=40, top_p=0.9), dict(top_p=0.95),
                  dict(top_p=0.5, temperature=0.3), dict(min_p=0.1), dict(min_p=0.02, top_p=0.8), dict(top_k=50, top_p=0.9, min_p=0.05), dict(top_p=0.999),
                  dict(top_k=3000), dict(top_k=3000, top_p=0.7), dict(temperature=2.0, top_p=0.9), dict(temperature=0.0, repetition=1.3),
                  dict(repetition=1.2, top_p=0.9), dict(presence=0.7, frequency=0.3), dict(bias=True, temperature=0.0), dict(bias=True, top_k=10),
                  dict(mask=True), dict(mask=True, temperature=0.0), dict(mask=True, top_p=0.9, repetition=1.1, bias=True), dict(target=True)]
        words = (vocab + 31) // 32
        for repeat in range(4):
            for shape in shapes:
                row = {k: v for k, v in shape.items() if k not in ("bias", "mask", "target")}
                row.update(seed_low=integer(0, 2 ** 31 - 1) * 2 + 1, seed_high=integer(0, 2 ** 31), draw_index=integer(0, 5000), slot=len(settings),
                           top_count=integer(0, 2) * 10)
                row["history_start"], row["prompt_count"], row["output_count"] = len(history), integer(0, 60), integer(1, 60)
                history += torch.randint(0, min(vocab, 60), (row["prompt_count"] + row["output_count"],), generator=G).tolist()
                if "bias" in shape:
                    row["bias_start"], row["bias_count"] = len(bias_ids), 5
                    bias_ids += torch.randperm(vocab, generator=G)[:5].tolist()
                    bias_values += [3.0, -2.0, float("-inf"), 5.0, 1.0]
                if "mask" in shape:
                    row["mask_start"] = len(masks) * words
                    masks.append(torch.randint(-2 ** 31, 2 ** 31 - 1, (words,), dtype=torch.int32, generator=G))
                if "target" in shape:
                    row["target"] = integer(0, vocab - 1)
                settings.append(row)
        count = len(settings)
        logits = randn(count, vocab, scale=2.5)
        logits[0, 7] = logits[0, 3] = 50.0  # greedy tie: the lower id
        mask_words = torch.cat(masks)
        outs = []
        for lib, place in ((pd, "cuda"), (cpu, "cpu")):
            i32 = lambda x: torch.tensor(x, dtype=torch.int32, device=place)
            tokens, last = i32([-9] * count), i32([-9] * count)
            logprobs = torch.full((count,), float("nan"), device=place)
            top_ids, top_logprobs = i32([[-9] * TOP_MAX] * count), torch.full((count, TOP_MAX), float("nan"), device=place)
            held = [logits.to(place), sample_rows(settings).to(place), i32(history), i32(bias_ids), torch.tensor(bias_values, device=place), mask_words.to(place)]
            torch.cuda.synchronize()
            for _ in range(2):  # twice: what the first left behind must not matter
                lib.op("sample", held[0], count, vocab, *held[1:], last, tokens, logprobs, top_ids, top_logprobs)
            lib.wait()
            outs.append([t.cpu() for t in (tokens, last, logprobs, top_ids, top_logprobs)])
        (tokens, last, logprobs, top_ids, top_logprobs), theirs = outs
        wrong = (tokens != theirs[0]).nonzero().flatten().tolist()
        record("sample", f"vocab {vocab} tokens of {count} rows", len(wrong) == 0, f"differ {[(w, shapes[w % len(shapes)], int(tokens[w]), int(theirs[0][w])) for w in wrong[:4]]}")
        record("sample", f"vocab {vocab} last_tokens", torch.equal(last, tokens), "slots")
        same = tokens == theirs[0]
        record("sample", f"vocab {vocab} logprobs", (logprobs - theirs[2])[same].abs().max().item() < 1e-4, f"{(logprobs - theirs[2])[same].abs().max().item():.1e}")
        record("sample", f"vocab {vocab} alternatives", torch.equal(top_ids, theirs[3]), f"{(top_ids != theirs[3]).sum().item()} differ")
        gap = (torch.nan_to_num(top_logprobs, neginf=-1e9) - torch.nan_to_num(theirs[4], neginf=-1e9)).abs().max().item()
        record("sample", f"vocab {vocab} alternatives' logprobs", gap < 1e-4, f"{gap:.1e}")
    flat = torch.zeros(1, 30000)
    out = [torch.full((1,), -9, dtype=torch.int32).cuda(), torch.full((1,), -9, dtype=torch.int32).cuda(), poison((1,), F32),
           torch.full((1, TOP_MAX), -9, dtype=torch.int32).cuda(), poison((1, TOP_MAX), F32)]
    pd.run("sample", flat.cuda(), 1, 30000, sample_rows([dict(top_k=7, top_count=20, seed_low=5, slot=0)]).cuda(), None, None, None, None, *out)
    record("sample", "all equal: top-k keeps the lowest ids", 0 <= int(out[1]) < 7 and out[3].flatten().tolist() == list(range(20)), f"{int(out[1])}")


def graphs(pd):
    x, weight = gpu(randn(3, 256), BF16), randn(128, 256, scale=0.06).bfloat16()
    handle, norm = pd.weight_of(weight, BF16), randn(256).cuda()
    wide = gpu(randn(64, 256), BF16)
    middle, out, wide_out = poison((3, 256), BF16), poison((3, 128), BF16), poison((64, 128), BF16)

    def step():
        pd.op("rmsnorm", BF16, middle, x, None, norm, 3, 256, 1e-6)
        pd.op("linear", BF16, out, BF16, middle, handle, None, 3)
        pd.op("linear", BF16, wide_out, BF16, wide, handle, None, 64)
    torch.cuda.synchronize()
    graph = pd.graph(step)
    for _ in range(3):
        x.copy_(torch.randn(3, 256))
        out.fill_(float("nan"))
        torch.cuda.synchronize()
        pd.op("graph_launch", graph)
        pd.wait()
        replayed = out.clone()
        out.fill_(float("nan"))
        torch.cuda.synchronize()
        step()
        pd.wait()
        record("graph", "replay equals direct run", torch.equal(replayed, out), "bits")
    compare("graph", "cuBLASLt inside", wide_out, wide.double().cpu() @ weight.double().T, BF16)
    pd.raw("graph_destroy", graph)


def main():
    pd, cpu = Pd("cuda"), Pd("cpu")
    info = pd.info()
    print(f"{info.name.decode()} {info.isa.decode()}, {info.free_bytes / 2**30:.1f} of {info.total_bytes / 2**30:.1f} GiB free, seed {SEED}", flush=True)
    parts = [("small", lambda: small_ops(pd)), ("conversions", lambda: conversions(pd, cpu)), ("copies", lambda: (copies(pd), long_copies(pd, cpu, G, record))), ("moves", lambda: moves(pd, cpu, G, record, SMALL)), ("linear", lambda: linears(pd)),
             ("quantised", lambda: quantised(pd)), ("invariant", lambda: invariances(pd)), ("weights", lambda: weights(pd, cpu)), ("moe", lambda: moes(pd)), ("rope", lambda: (ropes(pd), ropes_fp8(pd))), ("attention", lambda: (attentions(pd), moved_keys(pd))),
             ("sample", lambda: samples(pd, cpu)), ("graphs", lambda: graphs(pd)),
             ("not_finite", lambda: not_finite(pd, cpu, G, record, sample_rows, SMALL))]
    chosen = [a for a in sys.argv[1:] if not a.isdigit()]
    for name, part in parts:
        if chosen and name not in chosen:
            continue
        began = time.time()
        try:
            part()
        except Exception as error:  # one broken part must not hide the others
            record(name, "stopped", False, repr(error)[:300])
            if "CUDA error" in str(error) or "illegal" in str(error):
                break
        print(f"  {name}: {time.time() - began:.1f} s", flush=True)
    table = {}
    for row in rows:
        entry = table.setdefault(row["op"], [0, 0])
        entry[0] += 1
        entry[1] += not row["ok"]
    print(f"{'op':22}{'cases':>8}{'failed':>8}")
    for op, (cases, failed) in table.items():
        print(f"{op:22}{cases:8}{failed:8}")
    if os.environ.get("OUT"):
        with open(os.path.join(os.environ["OUT"], "parity.json"), "w") as file:
            json.dump({"seed": SEED, "device": info.name.decode(), "rows": rows}, file)
    failed = sum(not row["ok"] for row in rows)
    print(f"{len(rows) - failed} of {len(rows)} passed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
