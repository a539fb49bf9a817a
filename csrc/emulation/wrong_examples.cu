// Kernels that are wrong on purpose, so that the tests see each fault found out.
#include "launch.cuh"

namespace k15 {
namespace {

struct SumCall {
  const float* values;
  float* sum;
  bool with_barrier;
};

// Without the barrier thread 0 reads what others may not have written yet.
K15_KERNEL void sum_kernel(SumCall call) {
  K15_SHARED(float, shared, 64);
  const int thread = thread_index();
  shared[thread] = load_one(call.values + thread);
  if (call.with_barrier) block_barrier();
  if (thread != 0) return;
  float sum = 0;
  for (int i = 0; i < 64; ++i) sum += shared[i];
  store_one(call.sum, sum);
}

struct NoCall {};

// Half of the threads never come to the barrier.
K15_KERNEL void skipping_kernel(NoCall) {
  if (thread_index() % 2) block_barrier();
}

struct PackCall {
  float* values;
};

// Right only where the address is a multiple of 16.
K15_KERNEL void pack_kernel(PackCall call) {
  if (thread_index() == 0) store_pack(call.values, load_pack(call.values));
}

}  // namespace
}  // namespace k15

extern "C" {

int k15_example_sum(const float* values, float* sum, bool with_barrier) {
  return k15::launch(k15::sum_kernel, 1, 64, nullptr, k15::SumCall{values, sum, with_barrier});
}
int k15_example_skipped_barrier() { return k15::launch(k15::skipping_kernel, 1, 64, nullptr, k15::NoCall{}); }
int k15_example_pack(float* values) { return k15::launch(k15::pack_kernel, 1, 32, nullptr, k15::PackCall{values}); }
}
