// Length reward, baseline and advantages on the CPU, one group at a time.
#include "group_terms.cuh"
#include "k15/calls.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace k15::cpu {
namespace {

template <class Scalar>
struct Responses {
  const GroupCall& call;
  int64_t first, last;

  double total(int64_t r) const {
    const double reward = double(static_cast<const Scalar*>(call.rewards)[r]);
    return reward + call.length_weight * double(static_cast<const Scalar*>(call.length_rewards)[r]);
  }

  void score_lengths() const {
    const auto [shortest, longest] = std::minmax_element(call.lengths + first, call.lengths + last);
    for (int64_t r = first; r < last; ++r)
      static_cast<Scalar*>(call.length_rewards)[r] =
          Scalar(length_reward(call.lengths[r], *shortest, *longest, call.correct[r]));
  }

  double mean() const {
    double sum = 0;
    for (int64_t r = first; r < last; ++r) sum += total(r);
    return sum / double(last - first);
  }

  double log_mean_exp() const {
    double highest = -std::numeric_limits<double>::infinity(), sum = 0;
    for (int64_t r = first; r < last; ++r) highest = std::max(highest, total(r));
    for (int64_t r = first; r < last; ++r) sum += std::exp(scaled_reward(total(r), highest, call.tau));
    return highest + call.tau * std::log(sum / double(last - first));
  }
};

template <class Scalar>
void score_group(const GroupCall& call, int64_t g) {
  const Responses<Scalar> group{call, call.offsets[g], call.offsets[g + 1]};
  if (group.first == group.last) {
    static_cast<Scalar*>(call.baselines)[g] = 0;
    return;
  }
  group.score_lengths();
  const double baseline = call.baseline == Baseline::mean ? group.mean() : group.log_mean_exp();
  static_cast<Scalar*>(call.baselines)[g] = Scalar(baseline);
  for (int64_t r = group.first; r < group.last; ++r)
    static_cast<Scalar*>(call.advantages)[r] = Scalar(group.total(r) - baseline);
}

constexpr int64_t kWorthThreads = 1 << 13;  // responses; waking a thread costs as much as a few thousand of them

}  // namespace

void group_rewards(const GroupCall& call, int num_threads) {
  const bool many = call.offsets[call.num_groups] >= kWorthThreads;
  const auto one = call.dtype == Dtype::f64 ? score_group<double> : score_group<float>;
#pragma omp parallel for schedule(static) num_threads(num_threads) if (many)
  for (int64_t g = 0; g < call.num_groups; ++g) one(call, g);
}

}  // namespace k15::cpu
