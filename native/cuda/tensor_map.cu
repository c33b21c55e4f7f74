/* Declared in tensor_map.h. */
#include "tensor_map.h"

namespace pd {
namespace {

constexpr cuuint32_t kColumns = 64; /* 128 bytes */
constexpr cuuint64_t kBlocksMax = 1u << 30; /* as many as the table names */

/* The driver's cuTensorMapEncodeTiled, found at run time: the library loads where there is no driver. */
using EncodeTiled = CUresult (*)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                                 const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

EncodeTiled find_encode() {
  void *function = nullptr;
  cudaDriverEntryPointQueryResult result;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result) != cudaSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  return result == cudaDriverEntryPointSuccess ? (EncodeTiled)function : nullptr;
}

/* lengths, box: of each dimension, the fastest first; strides: of all but the first, bytes. */
template <int kRank>
bool encode(CUtensorMap *map, char *base, int32_t dtype, const cuuint64_t (&lengths)[kRank], const cuuint64_t (&strides)[kRank - 1], const cuuint32_t (&box)[kRank]) {
  static const EncodeTiled encode_tiled = find_encode();
  if (encode_tiled == nullptr) return false;
  cuuint32_t steps[kRank];
  for (cuuint32_t &step : steps) step = 1;
  return encode_tiled(map, dtype == PD_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, kRank, base, lengths, strides, box, steps,
                      CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace

bool encode_columns(CUtensorMap *map, const PagedLayer &layer, char *base, int32_t dtype, int slots) {
  const cuuint64_t tokens = 1ull << layer.block_shift, row_bytes = layer.head_dim * 2ull, heads = layer.kv_head_count;
  const cuuint32_t taken = tokens < (cuuint64_t)slots ? tokens : slots;
  return encode<4>(map, base, dtype, {row_bytes / 2, tokens, heads, kBlocksMax}, {row_bytes, tokens * row_bytes, layer.block_bytes}, {kColumns, taken, 1, 1});
}

bool encode_rows(CUtensorMap *map, const PagedLayer &layer, char *base, int32_t dtype, int slots) {
  const cuuint64_t tokens = 1ull << layer.block_shift, row_bytes = layer.head_dim * 2ull, heads = layer.kv_head_count, lines = row_bytes / 128;
  const cuuint32_t taken = tokens < (cuuint64_t)slots ? tokens : slots;
  return encode<5>(map, base, dtype, {kColumns, lines, tokens, heads, kBlocksMax}, {128, row_bytes, tokens * row_bytes, layer.block_bytes},
                   {kColumns, (cuuint32_t)lines, taken, 1, 1});
}

}  // namespace pd
