// Sums over sequences and the terms of the policy loss on the CPU: one sequence at a time, tokens in order.
#include "k15/calls.h"
#include "policy_terms.cuh"

#include <cmath>

namespace k15::cpu {
namespace {

template <class Scalar>
void sum_of_sequence(const SequenceSumsCall& call, int64_t j) {
  const auto* logprobs = static_cast<const Scalar*>(call.logprobs);
  const auto* reference = static_cast<const Scalar*>(call.reference);
  double sum = 0;
  for (int64_t n = call.bounds[j]; n < call.bounds[j + 1]; ++n)
    if (call.mask[n]) sum += double(logprobs[n]) - double(reference[n]);
  static_cast<Scalar*>(call.sums)[j] = Scalar(sum);
}

template <class Scalar>
void terms_of_sequence(const PolicyTermsCall& call, int64_t j) {
  const auto value = [j](const void* values) { return double(static_cast<const Scalar*>(values)[j]); };
  const Sequence sequence{value(call.advantages), value(call.weights), value(call.sums)};
  static_cast<Scalar*>(call.losses)[j] = Scalar(sequence_loss(sequence, call.tau));
  const double coefficient = sequence_coefficient(sequence, call.tau);
  const auto* logprobs = static_cast<const Scalar*>(call.logprobs);
  const auto* behaviour = static_cast<const Scalar*>(call.behaviour);
  for (int64_t n = call.bounds[j]; n < call.bounds[j + 1]; ++n) {
    double importance = 1;
    if (behaviour) {
      const double ratio = call.mask[n] ? std::exp(double(logprobs[n]) - double(behaviour[n])) : 1.0;
      static_cast<Scalar*>(call.ratios)[n] = Scalar(ratio);
      importance = truncated(ratio, call.importance_clip);
    }
    static_cast<Scalar*>(call.coefficients)[n] = call.mask[n] ? Scalar(coefficient * importance) : Scalar(0);
  }
}

constexpr int64_t kWorthThreads = 1 << 13;  // tokens; waking a thread costs as much as a few thousand of them

template <class Call>
void over_sequences(void (*one)(const Call&, int64_t), const Call& call, int num_threads) {
  const bool many = call.bounds[call.num_sequences] >= kWorthThreads;
#pragma omp parallel for schedule(dynamic, 8) num_threads(num_threads) if (many)
  for (int64_t j = 0; j < call.num_sequences; ++j) one(call, j);
}

}  // namespace

void sequence_sums(const SequenceSumsCall& call, int num_threads) {
  over_sequences(call.dtype == Dtype::f64 ? sum_of_sequence<double> : sum_of_sequence<float>, call, num_threads);
}

void policy_terms(const PolicyTermsCall& call, int num_threads) {
  over_sequences(call.dtype == Dtype::f64 ? terms_of_sequence<double> : terms_of_sequence<float>, call, num_threads);
}

}  // namespace k15::cpu
