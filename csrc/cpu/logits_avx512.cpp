// The passes over logits with 64-byte vectors; the flags are in megatron_k15/kernels/build.py.
#define K15_VECTOR_BYTES 64
#define K15_LOGITS logits_avx512
#include "cpu/logits.h"
