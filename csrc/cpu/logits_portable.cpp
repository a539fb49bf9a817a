// The passes over logits with 16-byte vectors; the flags are in megatron_k15/kernels/build.py.
#define K15_VECTOR_BYTES 16
#define K15_LOGITS logits_portable
#include "cpu/logits.h"
