// The one way a kernel is started: `launch(kernel, blocks, threads, stream, call)`; the result is a cudaError_t.
//
// A kernel takes one struct by value. Nothing is launched for no blocks, which CUDA refuses.
#pragma once

#include "intrinsics.cuh"

#if defined(K15_EMULATION)
#include "emulation/launch.h"
#else

namespace k15 {

template <class Call>
int launch(void (*kernel)(Call), int64_t blocks, int threads, void* stream, const Call& call) {
  if (blocks == 0) return 0;
  kernel<<<unsigned(blocks), unsigned(threads), 0, static_cast<cudaStream_t>(stream)>>>(call);
  return int(cudaGetLastError());
}

}  // namespace k15

#endif
