"""What is no number, and ids that point nowhere: each costs its own row alone. A part of parity.py; the CPU's twin is test/device/not-finite.test.ts.
Every case runs twice, as it is and with one row spoilt: the other rows must have the same bits. Under compute-sanitizer no access may be out of bounds."""
import torch
from pd import BF16, F16, F32, FORBIDDEN, FP8, NAME, NOT_FINITE, TOP_MAX, TORCH, U64, Paged, PdError

NAN, INFINITY = float("nan"), float("inf")
FAR = 2 ** 31 - 1
WAYS = [dict(temperature=0.0), dict(), dict(top_k=5), dict(top_k=3000), dict(top_p=0.8), dict(min_p=0.1), dict(top_k=20, top_p=0.9), dict(repetition=1.2, frequency=0.3, presence=0.1),
        dict(bias=True), dict(mask=True), dict(target=4)]


class NotFinite:
    def __init__(self, pd, cpu, generator, record, sample_rows, small):
        self.pd, self.cpu, self.generator, self.record, self.sample_rows, self.small = pd, cpu, generator, record, sample_rows, small

    def randn(self, *shape):
        return torch.randn(shape, generator=self.generator)

    def same_but(self, op, what, got, clean, row, is_spoilt):
        """`row` of got has no number, all other rows have the bits of clean."""
        others = torch.arange(got.shape[0]) != row
        got, clean = got.cpu(), clean.cpu()
        ok = torch.equal(got[others].contiguous().view(torch.uint8), clean[others].contiguous().view(torch.uint8))
        spoilt = is_spoilt(got[row])
        self.record(op, what, ok and spoilt, f"others {'the same' if ok else 'DIFFER'}, row {'told' if spoilt else 'LOOKS LIKE NUMBERS'}")

    def run_all(self):
        for part in (self.samples, self.routes, self.experts, self.rows, self.products, self.stores, self.attention, self.caps):
            try:
                part()
            except PdError as error:
                self.record("not finite", part.__name__, False, str(error))

    # ---- sampling, beside the CPU's

    def sampled(self, lib, place, logits, settings, history, bias_ids, bias_values, masks):
        i32 = lambda x: torch.tensor(x, dtype=torch.int32, device=place)
        count, vocab = logits.shape
        out = [i32([-9] * count), i32([-9] * count), torch.full((count,), NAN, device=place), i32([[-9] * TOP_MAX] * count), torch.full((count, TOP_MAX), NAN, device=place)]
        held = [logits.to(place), self.sample_rows(settings).to(place), i32(history), i32(bias_ids), torch.tensor(bias_values, device=place), masks.to(place)]
        torch.cuda.synchronize()
        lib.op("sample", held[0], count, vocab, *held[1:], out[1], out[0], *out[2:])  # last_tokens, tokens, …
        lib.wait()
        return [t.cpu() for t in out]

    def samples(self):
        for vocab in (50, 4097) if self.small else (50, 4097, 151936):
            words = (vocab + 31) // 32
            settings = []
            for way in WAYS:
                row = {k: v for k, v in way.items() if k not in ("bias", "mask")}
                row.update(seed_low=len(settings) * 77 + 5, draw_index=3, slot=len(settings), top_count=5, history_start=0, prompt_count=2, output_count=3)
                if "bias" in way:
                    row.update(bias_start=0, bias_count=4)
                if "mask" in way:
                    row.update(mask_start=0)
                settings.append(row)
            count = len(settings)
            masks = torch.full((words,), 0x55555555, dtype=torch.int32)
            arguments = (settings, [1, 2, 3, -1, FAR], [3, 7, -5, vocab], [2.0, -1.0, 9.0, 9.0], masks)  # ids outside are left out
            clean = self.randn(count, vocab) * 2.5
            whole = self.sampled(self.pd, "cuda", clean, *arguments)
            theirs = self.sampled(self.cpu, "cpu", clean, *arguments)
            self.record("sample, stray ids", f"vocab {vocab}", torch.equal(whole[0], theirs[0]), f"{whole[0].tolist()} {theirs[0].tolist()}")
            for bad in (NAN, INFINITY, -INFINITY):
                for spoilt in range(0, count, 3 if self.small else 1):
                    logits = clean.clone()
                    if bad == -INFINITY:
                        logits[spoilt] = bad
                    else:
                        logits[spoilt, (spoilt * 4099 + vocab - 1) % vocab] = bad
                    got = self.sampled(self.pd, "cuda", logits, *arguments)
                    what = f"vocab {vocab} row {spoilt} {WAYS[spoilt]} {bad}"
                    told = got[0][spoilt] == NOT_FINITE and got[1][spoilt] == 0 and got[2][spoilt] == -INFINITY and bool((got[3][spoilt] == -1).all())
                    others = torch.arange(count) != spoilt
                    same = all(torch.equal(g[others], w[others]) for g, w in zip(got, whole))
                    self.record("sample, no numbers", what, bool(told) and same, f"token {int(got[0][spoilt])}, others {'the same' if same else 'DIFFER'}")
            logits = clean.clone()
            logits[:, 40:] = -INFINITY  # it forbids, and is no error
            got = self.sampled(self.pd, "cuda", logits, *arguments)
            self.record("sample, -infinity", f"vocab {vocab}", bool(((got[0] >= 0) & (got[0] < 40)).all()), str(got[0].tolist()))
            empty = torch.zeros(words, dtype=torch.int32)
            got = self.sampled(self.pd, "cuda", clean[:2], [dict(mask_start=0, slot=0), dict(target=vocab, slot=1)], [0], [0], [0.0], empty)
            self.record("sample, forbidden", f"vocab {vocab}", got[0].tolist() == [FORBIDDEN] * 2 and got[1].tolist() == [0, 0], str(got[0].tolist()))

    # ---- experts

    def routed(self, logits, top_k):
        ids, share = torch.full((logits.shape[0], top_k), -7, dtype=torch.int32).cuda(), torch.full((logits.shape[0], top_k), 7.0).cuda()
        self.pd.run("moe_route", ids, share, logits.cuda(), logits.shape[0], logits.shape[1], top_k, 1)
        return ids, share

    def routes(self):
        for experts, top_k in ((8, 2), (128, 8), (33, 33)):
            clean = self.randn(5, experts)
            ids, share = self.routed(clean, top_k)
            for what, spoil in (("NaN", lambda row: row.fill_(NAN)), ("one NaN", lambda row: row[-1:].fill_(NAN)), ("infinity", lambda row: row[3:4].fill_(INFINITY)),
                                ("all -infinity", lambda row: row.fill_(-INFINITY))):
                logits = clean.clone()
                spoil(logits[2])
                got_ids, got_share = self.routed(logits, top_k)
                in_order = got_ids[2].tolist() == list(range(top_k))
                self.same_but("moe_route, no numbers", f"{experts} experts, top {top_k}, {what}", got_share, share, 2, lambda row: in_order and bool(row.isnan().all()))
                others = torch.arange(5) != 2
                self.record("moe_route, no numbers", f"{experts} experts, top {top_k}, {what}: ids", torch.equal(got_ids.cpu()[others], ids.cpu()[others]), "of the others")

    def experts(self):
        """The whole mixture with one row that is routed by NaN, and ids that no router would give."""
        for dtype, format in ((F32, F32), (BF16, BF16), (F16, F16), (BF16, FP8)):
            tokens, experts, top_k, hidden, inter = 70, 16, 4, 64, 48
            stack = self.randn(experts, inter, hidden) * hidden ** -0.5
            handle = self.pd.weight_of(stack.to(TORCH[dtype]), format)
            x, logits = self.randn(tokens, hidden).to(TORCH[dtype]), self.randn(tokens, experts)

            def mixture(x, logits):
                ids, share = self.routed(logits, top_k)
                out = torch.full((tokens * top_k, inter), 7.0, dtype=TORCH[dtype]).cuda()
                self.pd.run("moe_linear", dtype, out, x.cuda(), handle, ids, tokens * top_k, top_k)
                combined = torch.full((tokens, inter), 7.0, dtype=TORCH[dtype]).cuda()
                self.pd.run("moe_combine", dtype, combined, out, share, tokens, top_k, inter)
                return combined
            clean = mixture(x, logits)
            bad_x, bad_logits = x.clone(), logits.clone()
            bad_x[9], bad_logits[9] = NAN, NAN  # as a row of NaN comes to a router
            what = f"{NAME[dtype]} weights {NAME[format]}"
            self.same_but("mixture of experts", what, mixture(bad_x, bad_logits), clean, 9, lambda row: bool(row.isnan().all()))
            stray = torch.randint(0, experts, (tokens * top_k,), generator=self.generator).int()
            stray[::7], stray[3::7], stray[5::7] = experts, -1, FAR
            outs = []
            for ids in (stray, stray.clamp(0, experts - 1)):
                out = torch.full((tokens * top_k, inter), 7.0, dtype=TORCH[dtype]).cuda()
                self.pd.run("moe_linear", dtype, out, x.cuda(), handle, ids.cuda(), tokens * top_k, top_k)
                outs.append(out)
            self.record("moe_linear, stray ids", what, torch.equal(outs[0], outs[1]), "clamped")
            self.pd.raw("weight_destroy", handle)

    # ---- rows by id

    def rows(self):
        for dtype in (F32, BF16, F16):
            table = self.randn(40, 33).to(TORCH[dtype]).cuda()
            i32 = lambda x: torch.tensor(x, dtype=torch.int32).cuda()
            out = torch.full((6, 33), 7.0, dtype=TORCH[dtype]).cuda()
            self.pd.run("embedding", dtype, out, table, dtype, i32([2, 40, -1, -2, FAR, 0]), i32([39, -7]), 6, 33, 40, 1.0)
            good = torch.equal(out[[0, 2, 5]], table[[2, 39, 0]])
            self.record("embedding, stray ids", NAME[dtype], good and bool(out[[1, 3, 4]].isnan().all()), "NaN rows")
            out = torch.full((5, 33), 7.0, dtype=TORCH[dtype]).cuda()
            self.pd.run("gather_rows", dtype, out, table, i32([0, 40, -1, 39, FAR]), 5, 40, 33)
            self.record("gather_rows, stray ids", NAME[dtype], torch.equal(out[[0, 3]], table[[0, 39]]) and bool(out[[1, 2, 4]].isnan().all()), "NaN rows")

    # ---- products

    def products(self):
        for dtype, format in ((F32, F32), (BF16, BF16), (F16, F16), (BF16, FP8), (F16, FP8)):
            for rows in (2, 5, 8, 20, 70):
                k, n = 1056, 144
                handle = self.pd.weight_of((self.randn(n, k) * k ** -0.5).to(TORCH[dtype]), format)

                def product(x):
                    out = torch.full((rows, n), 7.0).cuda()
                    self.pd.run("linear", dtype, out, F32, x.cuda(), handle, None, rows)
                    return out
                x = self.randn(rows, k).to(TORCH[dtype])
                clean = product(x)
                for bad in (NAN, INFINITY):
                    spoilt = x.clone()
                    spoilt[1, 700] = bad
                    self.same_but("linear, no numbers", f"{NAME[dtype]} weights {NAME[format]} rows {rows} {bad}", product(spoilt), clean, 1, lambda row: not bool(row.isfinite().any()))
                self.pd.raw("weight_destroy", handle)

    # ---- the cache

    def stores(self):
        for kv_dtype in (BF16, FP8):
            for dim in (64, 128):
                paged = Paged([(1, 5), (1, 20), (1, 3)], 2, dim, 16, kv_dtype, self.generator)
                paged.fill(self.generator)
                rope, qkv = self.randn(32, dim).cuda(), self.randn(3, 8 * dim).bfloat16().cuda()
                slots, positions = paged.held[1].clone(), paged.held[0].clone()
                layer_blocks = paged.kv_layer.block_count
                behind = paged.cache.clone()

                def stored(slots, positions, block_count):
                    paged.cache.copy_(behind)
                    paged.held[1].copy_(slots)
                    paged.held[0].copy_(positions)
                    paged.kv_layer.block_count = block_count
                    self.pd.run("rope_store", BF16, qkv.clone(), paged.kv_layer, paged.batch, 4, None, None, 1e-6, rope, 32, dim)
                    paged.kv_layer.block_count = layer_blocks
                    return paged.cache.clone().view(torch.uint8)
                what = f"kv {NAME[kv_dtype]} dim {dim}"
                padded = slots.clone()
                padded[1] = -1
                expected = stored(padded, positions, layer_blocks)
                for stray in (layer_blocks * 16, FAR, -5):
                    wrong = slots.clone()
                    wrong[1] = stray
                    self.record("rope_store, stray slots", f"{what} slot {stray}", torch.equal(stored(wrong, positions, layer_blocks), expected), "nothing is written")
                cut = int(slots[1]) // 16  # a cache that ends before this block
                outside = [s for s in range(3) if int(slots[s]) // 16 >= cut]
                padded = slots.clone()
                padded[outside] = -1
                self.record("rope_store, stray slots", f"{what} behind the cache", torch.equal(stored(slots, positions, cut), stored(padded, positions, layer_blocks)), "nothing is written")
                far = positions.clone()
                far[0], far[2] = FAR, -3
                near = positions.clone()
                near[0], near[2] = 31, 0
                self.record("rope_store, stray positions", what, torch.equal(stored(slots, far, layer_blocks), stored(slots, near, layer_blocks)), "clamped")

    def attention(self):
        """One sequence is spoilt, by its query, a key, a value, a scale or a block that does not exist: the others have the same bits."""
        lengths = [(1, 70), (1, 300), (5, 40), (140, 150), (1, 1)]
        for dtype, kv_dtype, dim in ((BF16, BF16, 64), (BF16, BF16, 128), (F16, F16, 96), (BF16, FP8, 128), (F32, F32, 64)):
            for spoilt in (1, 3):
                paged = Paged(lengths, 2, dim, 16, kv_dtype, self.generator)
                paged.fill(self.generator)
                qkv = self.randn(paged.rows, 12 * dim).to(TORCH[dtype])
                mine = slice(paged.starts[spoilt], paged.starts[spoilt + 1])
                rest = torch.ones(paged.rows, dtype=torch.bool)
                rest[mine] = False

                def attend(qkv):
                    out = torch.full((paged.rows, 8 * dim), 7.0, dtype=TORCH[dtype]).cuda()
                    self.pd.run("paged_attention", dtype, out, qkv.cuda(), 12 * dim, paged.kv_layer, paged.batch, 8, dim ** -0.5, 0, 0.0)
                    return out.cpu()
                clean = attend(qkv)
                what = f"{NAME[dtype]} kv {NAME[kv_dtype]} dim {dim} sequence {spoilt}"
                last = mine.stop - 1

                def judge(name, got, is_told=True):
                    same = torch.equal(got[rest].view(torch.uint8), clean[rest].view(torch.uint8))
                    told = not is_told or not bool(got[last].isfinite().all())
                    self.record("attention, no numbers", f"{what} {name}", same and told, f"others {'the same' if same else 'DIFFER'}, row {'told' if told else 'LOOKS LIKE NUMBERS'}")
                bad = qkv.clone()
                bad[mine] = NAN
                judge("query", attend(bad))
                kept = paged.cache.clone()
                block = int(paged.table[spoilt, 0])
                halves = ("key", "value") if kv_dtype != FP8 else ("key", "value", "key scale", "value scale")
                for index, name in enumerate(halves):
                    place = paged.cache[block, paged.layer, index % 2]
                    if kv_dtype != FP8:
                        place[:, 3] = NAN  # slot 3 of both heads
                    elif index < 2:
                        place[:2 * 16 * dim].view(2, 16, dim)[:, 3] = 255
                    else:
                        place[2 * 16 * dim:].view(torch.float32).view(2, 16)[:, 3] = NAN
                    judge(name, attend(qkv))
                    paged.cache.copy_(kept)
                table = paged.held[4]
                for stray in (paged.kv_layer.block_count, FAR // 2):
                    before = int(table[spoilt, 1])
                    table[spoilt, 1] = stray
                    judge(f"block {stray}", attend(qkv), is_told=False)
                    table[spoilt, 1] = before

    def caps(self):
        x = torch.tensor([1.0, NAN, INFINITY, -INFINITY, 1e30, -3.0]).cuda()
        self.pd.run("softcap", x, U64(6), 15.0)
        self.record("softcap, no numbers", "f32", x.isfinite().tolist() == [True, False, False, False, True, True], str(x.tolist()))


def not_finite(pd, cpu, generator, record, sample_rows, small):
    NotFinite(pd, cpu, generator, record, sample_rows, small).run_all()
