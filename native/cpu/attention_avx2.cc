#include "attention.h"
namespace pd { const AttentionKernel *attention_kernel_avx2() { return nullptr; } }
