// Values of all threads of a block into one, in a fixed order: the same bits in every run.
//
// The threads of a warp exchange by shuffles, the warps through shared memory; every thread gets the result. `combine` is
// associative up to rounding. The number of threads is a multiple of 32, at most 1,024.
#pragma once

#include "intrinsics.cuh"

namespace k15 {

constexpr int kMaxWarps = 32;

template <class Value, class Combine, class Exchange>
K15_DEVICE Value across_warp(Value value, Combine combine, Exchange exchange) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) value = combine(value, exchange(value, lanes));
  return value;
}

// `shared` holds kMaxWarps values. It may be used again at once: the first barrier waits for readers of the last call.
template <class Value, class Combine, class Exchange>
K15_DEVICE Value across_block(Value value, Value* shared, Combine combine, Exchange exchange) {
  value = across_warp(value, combine, exchange);
  const int warps = num_threads() / kWarp;
  block_barrier();
  if (thread_index() % kWarp == 0) shared[thread_index() / kWarp] = value;
  block_barrier();
  Value total = shared[0];
  for (int warp = 1; warp < warps; ++warp) total = combine(total, shared[warp]);
  return total;
}

struct Add {
  K15_DEVICE double operator()(double left, double right) const { return left + right; }
};
struct Least {
  K15_DEVICE int64_t operator()(int64_t left, int64_t right) const { return left < right ? left : right; }
};
struct Greatest {
  template <class F>
  K15_DEVICE F operator()(F left, F right) const {
    return left < right ? right : left;
  }
};
struct ShuffleXor {
  template <class F>
  K15_DEVICE F operator()(F value, int lanes) const {
    return shuffle_xor(value, lanes);
  }
};

}  // namespace k15
