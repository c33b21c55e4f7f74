/* Tensor maps of the paged cache: what the bulk tensor copy needs to know of it. Used by the launchers of attention_decode.cu and
   attention_prefill_wgmma.cu. Both see one half of all blocks from `base` (keys or values) in 16 bits, take boxes of `slots` slots of one head, or a whole block if
   that is less, and write rows of 128 bytes in the swizzled layout of wgmma.cuh. Hopper only. False: the driver has no such thing. */
#pragma once
#include <cuda.h>
#include "paged.cuh"

namespace pd {

/* [block][kvHead][slot][column]; a box has 64 columns, so the rows of shared memory are slots. */
bool encode_columns(CUtensorMap *map, const PagedLayer &layer, char *base, int32_t dtype, int slots);
/* [block][kvHead][slot][64 columns][column]; a box has all columns, one run of memory. */
bool encode_rows(CUtensorMap *map, const PagedLayer &layer, char *base, int32_t dtype, int slots);

}  // namespace pd
