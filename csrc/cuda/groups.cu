// Length reward, baseline and advantages: one block per group, everything in one launch.
#include "block_reduce.cuh"
#include "group_terms.cuh"
#include "k15/calls.h"
#include "launch.cuh"

namespace k15 {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kNoLength = int64_t(1) << 62;

template <class F>
struct Group {
  const GroupCall& call;
  int64_t first, last;

  K15_DEVICE double total(int64_t r) const {
    return double(read<F>(call.rewards, r)) + call.length_weight * double(read<F>(call.length_rewards, r));
  }

  // Each thread reads back only the responses it wrote itself.
  K15_DEVICE void score_lengths(int64_t* shared) const {
    int64_t shortest = kNoLength, longest = -kNoLength;
    for (int64_t r = first + thread_index(); r < last; r += num_threads()) {
      const int64_t length = load_one(call.lengths + r);
      shortest = Least{}(shortest, length);
      longest = Greatest{}(longest, length);
    }
    shortest = across_block(shortest, shared, Least{}, ShuffleXor{});
    longest = across_block(longest, shared, Greatest{}, ShuffleXor{});
    for (int64_t r = first + thread_index(); r < last; r += num_threads()) {
      const int64_t length = load_one(call.lengths + r);
      write(call.length_rewards, r, F(length_reward(length, shortest, longest, load_one(call.correct + r))));
    }
  }

  K15_DEVICE double mean(double* shared) const {
    double sum = 0;
    for (int64_t r = first + thread_index(); r < last; r += num_threads()) sum += total(r);
    return across_block(sum, shared, Add{}, ShuffleXor{}) / double(last - first);
  }

  K15_DEVICE double log_mean_exp(double* shared) const {
    double highest = -INFINITY, sum = 0;
    for (int64_t r = first + thread_index(); r < last; r += num_threads()) highest = Greatest{}(highest, total(r));
    highest = across_block(highest, shared, Greatest{}, ShuffleXor{});
    for (int64_t r = first + thread_index(); r < last; r += num_threads())
      sum += exp_of(scaled_reward(total(r), highest, call.tau));
    return highest + call.tau * log_of(across_block(sum, shared, Add{}, ShuffleXor{}) / double(last - first));
  }
};

template <class F>
K15_KERNEL void groups_kernel(GroupCall call) {
  K15_SHARED(int64_t, shared_lengths, kMaxWarps);
  K15_SHARED(double, shared_numbers, kMaxWarps);
  const int64_t g = block_index();
  const Group<F> group{call, load_one(call.offsets + g), load_one(call.offsets + g + 1)};
  if (group.first == group.last) {
    if (thread_index() == 0) write(call.baselines, g, F(0));
    return;
  }
  group.score_lengths(shared_lengths);
  const double baseline =
      call.baseline == Baseline::mean ? group.mean(shared_numbers) : group.log_mean_exp(shared_numbers);
  if (thread_index() == 0) write(call.baselines, g, F(baseline));
  for (int64_t r = group.first + thread_index(); r < group.last; r += num_threads())
    write(call.advantages, r, F(group.total(r) - baseline));
}

}  // namespace

namespace cuda {

int group_rewards(const GroupCall& call, void* stream) {
  const auto kernel = call.dtype == Dtype::f64 ? groups_kernel<double> : groups_kernel<float>;
  return launch(kernel, call.num_groups, kThreads, stream, call);
}

}  // namespace cuda
}  // namespace k15
