// The passes over logits with 32-byte vectors; the flags are in megatron_k15/kernels/build.py.
#define K15_VECTOR_BYTES 32
#define K15_LOGITS logits_avx2
#include "cpu/logits.h"
