#include "attention.h"
namespace pd { const AttentionKernel *attention_kernel_avx512() { return nullptr; } }
