/* Matrices as files store them (../stored.h) on the way into GPU memory. Implemented in stored.cu, used by weight.cu. */
#pragma once
#include <functional>
#include "runtime.h"

namespace pd {

bool is_plain_encoding_on_host(int32_t encoding);
/* NULL, or what is wrong with it. */
const char *fault_of(const PdMatrix &matrix, int64_t rows, int64_t k);

/* Calls `use` with pieces of the rows as float32 on the GPU, in order on the stream; the next piece overwrites one. */
int read_pieces(PdStream *stream, const PdMatrix &source, int32_t row_count, int32_t k,
                const std::function<int(const float *rows, uint64_t first, uint64_t count)> &use);

}  // namespace pd
