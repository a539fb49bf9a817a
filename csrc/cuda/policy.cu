// Sums over sequences and the terms of the policy loss: one block per sequence, of whatever length.
#include "block_reduce.cuh"
#include "k15/calls.h"
#include "launch.cuh"
#include "policy_terms.cuh"

namespace k15 {
namespace {

constexpr int kThreads = 256;

template <class F>
K15_KERNEL void sums_kernel(SequenceSumsCall call) {
  K15_SHARED(double, shared, kMaxWarps);
  const int64_t j = block_index();
  double sum = 0;
  const int64_t first = load_one(call.bounds + j), last = load_one(call.bounds + j + 1);
  for (int64_t n = first + thread_index(); n < last; n += num_threads())
    if (load_one(call.mask + n)) sum += double(read<F>(call.logprobs, n)) - double(read<F>(call.reference, n));
  sum = across_block(sum, shared, Add{}, ShuffleXor{});
  if (thread_index() == 0) write(call.sums, j, F(sum));
}

template <class F>
K15_KERNEL void terms_kernel(PolicyTermsCall call) {
  const int64_t j = block_index();
  const Sequence sequence{double(read<F>(call.advantages, j)), double(read<F>(call.weights, j)),
                          double(read<F>(call.sums, j))};
  if (thread_index() == 0) write(call.losses, j, F(sequence_loss(sequence, call.tau)));
  const double coefficient = sequence_coefficient(sequence, call.tau);
  const int64_t first = load_one(call.bounds + j), last = load_one(call.bounds + j + 1);
  for (int64_t n = first + thread_index(); n < last; n += num_threads()) {
    const bool in_loss = load_one(call.mask + n);
    double importance = 1;
    if (call.behaviour) {
      const double log_ratio = double(read<F>(call.logprobs, n)) - double(read<F>(call.behaviour, n));
      const double ratio = in_loss ? exp_of(log_ratio) : 1.0;
      write(call.ratios, n, F(ratio));
      importance = truncated(ratio, call.importance_clip);
    }
    write(call.coefficients, n, in_loss ? F(coefficient * importance) : F(0));
  }
}

}  // namespace

namespace cuda {

int sequence_sums(const SequenceSumsCall& call, void* stream) {
  const auto kernel = call.dtype == Dtype::f64 ? sums_kernel<double> : sums_kernel<float>;
  return launch(kernel, call.num_sequences, kThreads, stream, call);
}

int policy_terms(const PolicyTermsCall& call, void* stream) {
  const auto kernel = call.dtype == Dtype::f64 ? terms_kernel<double> : terms_kernel<float>;
  return launch(kernel, call.num_sequences, kThreads, stream, call);
}

}  // namespace cuda
}  // namespace k15
