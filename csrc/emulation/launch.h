// The twin of kernels/launch.cuh for g++: the kernel runs before `launch` returns. The stream is ignored.
#pragma once

#include "emulation/fibers.h"

namespace k15 {

template <class Call>
int launch(void (*kernel)(Call), int64_t blocks, int threads, void*, const Call& call) {
  return emulation::run(blocks, threads, [&] { kernel(call); });
}

}  // namespace k15
