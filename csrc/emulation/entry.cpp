// C entry points of the emulated kernels, for ctypes (tests/kernels/emulator.py). Each returns 0, or 1 with an error text.
#include "emulation/fibers.h"
#include "k15/calls.h"

extern "C" {

void k15_set_seed(uint64_t seed) { k15::emulation::set_seed(seed); }
const char* k15_error() { return k15::emulation::error(); }
void k15_take_counts(int64_t* loaded_bytes, int64_t* stored_bytes) {
  k15::emulation::take_counts(loaded_bytes, stored_bytes);
}

int k15_softmax_statistics(const k15::StatisticsCall* call) { return k15::cuda::softmax_statistics(*call, nullptr); }
int k15_logit_gradient(const k15::GradientCall* call) { return k15::cuda::logit_gradient(*call, nullptr); }
int k15_sequence_sums(const k15::SequenceSumsCall* call) { return k15::cuda::sequence_sums(*call, nullptr); }
int k15_policy_terms(const k15::PolicyTermsCall* call) { return k15::cuda::policy_terms(*call, nullptr); }
int k15_group_rewards(const k15::GroupCall* call) { return k15::cuda::group_rewards(*call, nullptr); }
}
