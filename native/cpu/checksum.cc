/* CRC-32C of KV blocks: the check that a hand-over delivered what was sent. The hardware's instruction where there is one (SSE 4.2,
   ARMv8's CRC), else a table. On CUDA there is no twin yet: checksums are refused there. */
#include <cstring>
#include <vector>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

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

/* crc_hardware, and whether it is used: the processor has the instruction, and the device is not the oracle. */
#if defined(__x86_64__)
#define PD_CRC_TARGET __attribute__((target("sse4.2")))
#define PD_CRC_WORD(crc, word) __builtin_ia32_crc32di(crc, word)
#define PD_CRC_BYTE(crc, byte) __builtin_ia32_crc32qi((uint32_t)(crc), byte)
bool has_crc(PdStream *stream) { return isa_of(stream).isa != PD_ISA_SCALAR && __builtin_cpu_supports("sse4.2"); }
#elif defined(__aarch64__)
#define PD_CRC_TARGET __attribute__((target("+crc")))
#define PD_CRC_WORD(crc, word) __builtin_aarch64_crc32cx((uint32_t)(crc), word)
#define PD_CRC_BYTE(crc, byte) __builtin_aarch64_crc32cb((uint32_t)(crc), byte)
bool has_crc(PdStream *) { return (getauxval(AT_HWCAP) & 1u << 7) != 0; }  // HWCAP_CRC32
#endif

#ifdef PD_CRC_TARGET
PD_CRC_TARGET uint32_t crc_hardware(const uint8_t *bytes, uint64_t count) {
  uint64_t crc = ~0u, word;
  uint64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    memcpy(&word, bytes + i, 8);
    crc = PD_CRC_WORD(crc, word);
  }
  for (; i < count; i++) crc = PD_CRC_BYTE(crc, bytes[i]);
  return ~(uint32_t)crc;
}
#else
constexpr auto crc_hardware = crc_table;
bool has_crc(PdStream *) { return false; }
#endif

}  // namespace

extern "C" int pd_checksum_blocks(PdStream *stream, uint32_t *out, const void *base, uint64_t block_bytes, const int32_t *blocks,
                                  int32_t block_count) {
  if (block_count < 0) return fail(PD_INVALID, "checksum_blocks: %d blocks", block_count);
  for (int32_t i = 0; i < block_count; i++)
    if (blocks[i] < 0) return fail(PD_INVALID, "checksum_blocks: block %d at %d", blocks[i], i);
  const auto crc = has_crc(stream) ? crc_hardware : crc_table;
  return enqueue(stream, [=, list = std::vector<int32_t>(blocks, blocks + block_count)](Pool &pool) {
    pool.parallel_for(block_count, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; i++) out[i] = crc((const uint8_t *)base + list[i] * block_bytes, block_bytes);
    });
  });
}
