/* CRC-32C of KV blocks: the check that a hand-over delivered what was sent. The hardware's instruction where there is one (SSE 4.2), else a
   table. On CUDA there is no twin yet: checksums are refused there. */
#include <cstring>
#include <vector>

#include "runtime.h"

using namespace pd;

namespace {

constexpr uint32_t kPolynomial = 0x82F63B78u;  // Castagnoli, bit-reversed (RFC 3720)

struct Table {
  uint32_t entries[256];
  Table() {
    for (uint32_t i = 0; i < 256; i++) {
      uint32_t crc = i;
      for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? kPolynomial : 0);
      entries[i] = crc;
    }
  }
};

uint32_t crc_table(const uint8_t *bytes, uint64_t count) {
  static const Table table;
  uint32_t crc = ~0u;
  for (uint64_t i = 0; i < count; i++) crc = crc >> 8 ^ table.entries[(crc ^ bytes[i]) & 0xFF];
  return ~crc;
}

__attribute__((target("sse4.2"))) uint32_t crc_sse42(const uint8_t *bytes, uint64_t count) {
  uint64_t crc = ~0u, word;
  uint64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    memcpy(&word, bytes + i, 8);
    crc = __builtin_ia32_crc32di(crc, word);
  }
  for (; i < count; i++) crc = __builtin_ia32_crc32qi((uint32_t)crc, bytes[i]);
  return ~(uint32_t)crc;
}

}  // namespace

extern "C" int pd_checksum_blocks(PdStream *stream, uint32_t *out, const void *base, uint64_t block_bytes, const int32_t *blocks,
                                  int32_t block_count) {
  if (block_count < 0) return fail(PD_INVALID, "checksum_blocks: %d blocks", block_count);
  for (int32_t i = 0; i < block_count; i++)
    if (blocks[i] < 0) return fail(PD_INVALID, "checksum_blocks: block %d at %d", blocks[i], i);
  const bool is_scalar = isa_of(stream).isa == PD_ISA_SCALAR || !__builtin_cpu_supports("sse4.2");
  const auto crc = is_scalar ? crc_table : crc_sse42;
  return enqueue(stream, [=, list = std::vector<int32_t>(blocks, blocks + block_count)](Pool &pool) {
    pool.parallel_for(block_count, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; i++) out[i] = crc((const uint8_t *)base + list[i] * block_bytes, block_bytes);
    });
  });
}
