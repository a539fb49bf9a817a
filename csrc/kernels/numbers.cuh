// Storage types of logits, and the arithmetic type each is computed in.
#pragma once

#include <cstdint>

// On both sides. On the host always inlined: the same header is compiled for several instruction sets, and the linker
// must never keep one AVX-512 copy of a function for all of them.
#if defined(__CUDACC__)
#define K15_BOTH __host__ __device__ __forceinline__
#else
#define K15_BOTH inline __attribute__((always_inline))
#endif

namespace k15 {

// Bits only: conversions stand in lanes.h (CPU) and intrinsics.cuh (CUDA).
struct Bfloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

template <class Stored>
struct Compute {
  using type = float;
};
template <>
struct Compute<double> {
  using type = double;
};

}  // namespace k15
