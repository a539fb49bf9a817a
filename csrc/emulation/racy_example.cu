// A kernel that is wrong on purpose: threads read what others may not have written yet. The tests see it found out.
#include "launch.cuh"

namespace k15 {
namespace {

struct SumCall {
  const float* values;
  float* sum;
  bool with_barrier;
};

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

}  // namespace
}  // namespace k15

extern "C" int k15_example_sum(const float* values, float* sum, bool with_barrier) {
  return k15::launch(k15::sum_kernel, 1, 64, nullptr, k15::SumCall{values, sum, with_barrier});
}
