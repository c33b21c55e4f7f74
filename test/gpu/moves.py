"""KV blocks on the move, byte for byte against the CPU library, poisoned targets and what lies around included: pd_move_kv between dtypes, block sizes and
heads, and pd_copy_slices where it hands a long run of blocks to the copy engine. Parts of parity.py."""
import torch
from pd import BF16, F16, F32, FP8, I8, NAME, U64, KvPlace, KvRange, Pair, PdError, Slice

ELEMENT_BYTES = {F32: 4, BF16: 2, F16: 2, I8: 1, FP8: 1}
POISON = 0xA5
LAYERS = 3


class Side:
    """The blocks of one side: [block][layer][K | V]{[head][slot][dim], scales [head][slot]}, the same bytes for both libraries."""

    def __init__(self, dtype, block_tokens, heads, first_head, dim, blocks, generator, is_source):
        vectors = heads * block_tokens
        self.dtype, self.block_tokens, self.heads, self.first_head = dtype, block_tokens, heads, first_head
        self.scale_offset = vectors * dim * ELEMENT_BYTES[dtype]
        self.half_bytes = self.scale_offset + (vectors * 4 if dtype in (I8, FP8) else 0)
        self.block_bytes = LAYERS * 2 * self.half_bytes
        shape = (blocks, LAYERS * 2, self.half_bytes)
        self.bytes = torch.full(shape, POISON, dtype=torch.uint8)
        if is_source:
            values = torch.randn((blocks, LAYERS * 2, vectors * dim), generator=generator) * 3
            values[:, :, :dim] = 0  # a vector of zeros has a scale too
            if dtype == I8:
                data = torch.randint(-127, 128, values.shape, generator=generator).to(torch.int8)
            else:
                data = values.to({F32: torch.float32, BF16: torch.bfloat16, F16: torch.float16, FP8: torch.float8_e4m3fn}[dtype])
            self.bytes[..., :self.scale_offset] = data.view(torch.uint8).view(*shape[:2], -1)
            if dtype in (I8, FP8):
                scales = torch.exp2(torch.randint(-9, 4, (blocks, LAYERS * 2, vectors), generator=generator).float())
                self.bytes[..., self.scale_offset:] = scales.view(torch.uint8).view(*shape[:2], -1)
        self.order = torch.randperm(blocks, generator=generator).int()

    def place(self, tensor):
        return KvPlace(tensor.data_ptr(), self.block_bytes, 2 * self.half_bytes, self.half_bytes, self.scale_offset, self.dtype, self.block_tokens, self.heads, self.first_head)


def moved(lib, target, source, kv_range, where):
    """The target's bytes after the move. where: what makes a tensor of bytes reachable for the library."""
    to, of = where(target.bytes.clone()), where(source.bytes)
    torch.cuda.synchronize()
    lib.op("move_kv", target.place(to), target.order, source.place(of), source.order, kv_range)
    lib.wait()
    return to.cpu()


def moves(pd, cpu, generator, record, small):
    dtypes = (F32, BF16, F16, I8, FP8)
    for source_dtype in dtypes:
        for target_dtype in dtypes:
            for dim, source_tokens, target_tokens, count, source_start, target_start in ((64, 16, 32, 37, 19, 5), (128, 32, 8, 21, 0, 3)):
                source = Side(source_dtype, source_tokens, 4, 0, dim, 8, generator, True)
                target = Side(target_dtype, target_tokens, 2, 1, dim, 8, generator, False)
                kv_range = KvRange(target_start, source_start, count, 0, 1, 2, 1, 2, dim, 0)
                expected = moved(cpu, target, source, kv_range, lambda t: t)
                places = [("device", lambda t: t.cuda())] + ([] if small else [("pinned", lambda t: t.pin_memory())])
                for name, where in places:
                    differing = (moved(pd, target, source, kv_range, where) != expected).sum().item()
                    record("move_kv", f"{NAME[source_dtype]} to {NAME[target_dtype]} dim {dim} {source_tokens} to {target_tokens} tokens, {name}", differing == 0, f"{differing} bytes differ")
                record("move_kv", f"{NAME[source_dtype]} to {NAME[target_dtype]} dim {dim} wrote something", bool((expected != target.bytes).any()), "bytes")
    source, target = Side(BF16, 8, 1, 0, 32, 260, generator, True), Side(FP8, 8, 1, 0, 32, 260, generator, False)
    kv_range = KvRange(7, 3, 2000, 0, 0, LAYERS, 0, 1, 32, 0)  # more blocks than one launch takes
    differing = (moved(pd, target, source, kv_range, lambda t: t.cuda()) != moved(cpu, target, source, kv_range, lambda t: t)).sum().item()
    record("move_kv", "bf16 to fp8, 2000 tokens in blocks of 8", differing == 0, f"{differing} bytes differ")
    refusals(pd, cpu, generator, record)


def refusals(pd, cpu, generator, record):
    """What is refused, and in which words, is the same on both."""
    good = (0, 0, 9, 0, 0, 1, 0, 2, 64, 0)
    wrong = {"no tokens": (2, 0), "no layers": (5, 0), "no heads": (7, 0), "head_dim 257": (8, 257), "a start before the first slot": (1, -1), "a head too many": (7, 3)}
    cases = [(name, good[:at] + (number,) + good[at + 1:], BF16, 0) for name, (at, number) in wrong.items()]
    for name, fields, dtype, block in cases + [("an unknown dtype", good, 5, 0), ("a block below 0", good, BF16, -1)]:
        messages = []
        for lib, where in ((cpu, lambda t: t), (pd, lambda t: t.cuda())):
            source, target = Side(BF16, 16, 2, 0, 64, 4, generator, True), Side(BF16, 16, 2, 0, 64, 4, generator, False)
            source.dtype, source.order[0] = dtype, block
            try:
                moved(lib, target, source, KvRange(*fields), where)
                messages.append("nothing was refused")
            except PdError as error:
                messages.append(str(error))
        record("move_kv", f"refuses {name}", messages[0] == messages[1] and messages[0] != "nothing was refused", f"{messages}")


def long_copies(pd, cpu, generator, record):
    """Whole blocks in a row, 8 MiB and more, go to a copy engine; the same blocks in another order, more than one launch takes, to the kernel."""
    block_bytes, count = 32768, 300
    for name, order in (("in a row", list(range(count))), ("not in a row", list(range(count // 2, count)) + list(range(count // 2)))):
        source = torch.randint(0, 256, (count + 7, block_bytes), dtype=torch.uint8, generator=generator)
        results = []
        for lib, place in ((cpu, "cpu"), (pd, "cuda")):
            of, to = source.to(place), torch.full((count + 5, block_bytes), POISON, dtype=torch.uint8, device=place)
            torch.cuda.synchronize()
            pairs = (Pair * count)(*[Pair(3 + i, 4 + block) for i, block in enumerate(order)])
            lib.op("copy_slices", to, of, U64(block_bytes), U64(block_bytes), pairs, count, (Slice * 1)(Slice(0, 0, block_bytes)), 1)
            lib.wait()
            results.append(to.cpu())
        differing = (results[0] != results[1]).sum().item()
        record("copy_slices", f"{count} blocks of {block_bytes} bytes {name}", differing == 0 and torch.equal(results[0][3], source[4 + order[0]]), f"{differing} bytes differ")
