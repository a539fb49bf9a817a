// What every kernel is asked: one struct per operation, the same for the CPU and for CUDA. No torch in here.
//
// Pointers are to memory of the device that computes. Statistics, logprobs, sums and coefficients are float, or double
// where the logits are double. All counts, offsets and strides are int64: tokens x vocabulary passes 2^31.
//
// Legend: N tokens (rows), V this rank's part of the vocabulary, S sequences, R responses, G groups.
#pragma once

#include <cstdint>

namespace k15 {

enum class Dtype { f32, f64, bf16, f16 };

// Of each row of logits: what the log of its softmax at the target needs, before the tensor ranks are put together.
struct StatisticsCall {
  Dtype dtype;
  const void* logits;  // [N, V], unit stride inside a row
  int64_t num_rows, width, row_stride;
  const int64_t* targets;  // [N] column of the target; outside [0, V) where another rank has it
  double scale;            // 1 / temperature: x below is scale * logit
  void* highest;           // [N] max x
  void* sums;              // [N] sum of e^(x - highest)
  void* target_logits;     // [N] x at the target, 0 where another rank has it
  void* weighted;          // [N] sum of e^(x - highest) (x - highest), for the entropy; null: not wanted
};

// d loss / d logits = coefficient * scale * (onehot(target) - e^(x - highest) / sum); `gradient` may be `logits`.
struct GradientCall {
  Dtype dtype;
  const void* logits;
  void* gradient;
  int64_t num_rows, width, row_stride, gradient_stride;
  const int64_t* targets;
  double scale;
  const void* highest;       // [N] max x over the whole vocabulary
  const void* sums;          // [N] sum of e^(x - highest) over the whole vocabulary
  const void* coefficients;  // [N] d loss / d log pi; a row of coefficient 0 is not read, its gradient is 0
};

// Of each sequence: s = sum over its tokens in the loss of (logprob - reference).
struct SequenceSumsCall {
  Dtype dtype;             // f32 or f64
  const void* logprobs;    // [N]
  const void* reference;   // [N]
  const bool* mask;        // [N] true in the loss
  const int64_t* bounds;   // [S + 1] sequence j is tokens bounds[j] .. bounds[j + 1]
  int64_t num_sequences;
  void* sums;              // [S]
};

// loss_j = -w (a s - tau/2 s^2), and every token's d loss / d logprob = -w (a - tau s) * importance.
struct PolicyTermsCall {
  Dtype dtype;  // f32 or f64
  const void* logprobs;
  const void* behaviour;  // [N] logprobs of the policy that sampled; null: no importance correction
  const bool* mask;
  const int64_t* bounds;
  int64_t num_sequences;
  const void* sums;        // [S] s, whole
  const void* advantages;  // [S] a
  const void* weights;     // [S] w
  double tau, importance_clip;
  void* losses;        // [S]
  void* coefficients;  // [N]
  void* ratios;        // [N] pi / pi_behaviour, not truncated; null with `behaviour`
};

enum class Baseline { mean, log_mean_exp };

// Rewards of groups of responses -> length reward, baseline, advantage, one pass over each group.
struct GroupCall {
  Dtype dtype;             // f32 or f64
  const void* rewards;     // [R]
  const bool* correct;     // [R]
  const int64_t* lengths;  // [R] tokens
  const int64_t* offsets;  // [G + 1] group g is responses offsets[g] .. offsets[g + 1]
  int64_t num_groups;
  double length_weight;
  Baseline baseline;
  double tau;
  void* length_rewards;  // [R] before the weight
  void* baselines;       // [G] of reward + length_weight * length reward
  void* advantages;      // [R]
};

// The CPU's work: `num_threads` OpenMP threads, each on whole rows, sequences or groups: the result does not depend on it.
namespace cpu {
void softmax_statistics(const StatisticsCall& call, int num_threads);
void logit_gradient(const GradientCall& call, int num_threads);
void sequence_sums(const SequenceSumsCall& call, int num_threads);
void policy_terms(const PolicyTermsCall& call, int num_threads);
void group_rewards(const GroupCall& call, int num_threads);

// `avx512`, `avx2` or `portable`: the widest that this CPU has, or what choose_instructions set.
const char* instructions();
// False: this CPU lacks it, or there is no such name; nothing changes.
bool choose_instructions(const char* name);
}  // namespace cpu

// CUDA's: enqueued on `stream` (a cudaStream_t); the result of the launch is a cudaError_t, 0 when accepted.
namespace cuda {
int softmax_statistics(const StatisticsCall& call, void* stream);
int logit_gradient(const GradientCall& call, void* stream);
int sequence_sums(const SequenceSumsCall& call, void* stream);
int policy_terms(const PolicyTermsCall& call, void* stream);
int group_rewards(const GroupCall& call, void* stream);
}  // namespace cuda

}  // namespace k15
