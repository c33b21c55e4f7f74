/* What pd_move_kv refuses, on every backend alike. Included by cpu/move_kv.cc and cuda/move_kv.cu after their runtime.h, which declares fail and dtype_name. */
#pragma once
#include "pd.h"

namespace pd {

constexpr int32_t kMovedHeadDimMax = 256;

/* One side of a move. start: the range's first token, counted from the first slot of `blocks`. */
inline int check_move_side(const char *name, const PdKvPlace &place, const int32_t *blocks, int32_t start, const PdKvRange &range) {
  const int32_t dtype = place.dtype;
  if (dtype != PD_F32 && dtype != PD_BF16 && dtype != PD_F16 && dtype != PD_FP8_E4M3 && dtype != PD_I8)
    return fail(PD_UNSUPPORTED, "move_kv: %s in %s", name, dtype_name(dtype));
  if (place.block_token_count <= 0 || start < 0)
    return fail(PD_INVALID, "move_kv: %s starts at token %d of blocks of %d", name, start, place.block_token_count);
  if (range.first_head < place.first_head || range.first_head + range.head_count > place.first_head + place.head_count)
    return fail(PD_INVALID, "move_kv: heads %d..%d of a %s with %d..%d", range.first_head, range.first_head + range.head_count, name,
                place.first_head, place.first_head + place.head_count);
  const int32_t block_count = (start + range.token_count + place.block_token_count - 1) / place.block_token_count;
  for (int32_t i = 0; i < block_count; i++)
    if (blocks[i] < 0) return fail(PD_INVALID, "move_kv: %s block %d", name, blocks[i]);
  return PD_OK;
}

inline int check_move(const PdKvPlace *target, const int32_t *target_blocks, const PdKvPlace *source, const int32_t *source_blocks, const PdKvRange &range) {
  if (range.token_count <= 0 || range.layer_count <= 0 || range.head_count <= 0 || range.head_dim <= 0 || range.head_dim > kMovedHeadDimMax)
    return fail(PD_INVALID, "move_kv: %d tokens, %d layers, %d heads of %d", range.token_count, range.layer_count, range.head_count, range.head_dim);
  if (const int status = check_move_side("target", *target, target_blocks, range.target_start, range)) return status;
  return check_move_side("source", *source, source_blocks, range.source_start, range);
}

}  // namespace pd
