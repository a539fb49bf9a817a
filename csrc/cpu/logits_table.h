// The passes over logits, compiled once per instruction set; cpu/dispatch.cpp chooses a table when the program runs.
#pragma once

#include "k15/calls.h"

namespace k15 {

// Each takes rows [first, last).
struct LogitsKernels {
  void (*statistics)(const StatisticsCall& call, int64_t first, int64_t last);
  void (*statistics_entropy)(const StatisticsCall& call, int64_t first, int64_t last);
  void (*gradient)(const GradientCall& call, int64_t first, int64_t last);
};

struct LogitsTable {
  LogitsKernels f32, f64, bf16, f16;

  const LogitsKernels& of(Dtype dtype) const {
    switch (dtype) {
      case Dtype::f64:
        return f64;
      case Dtype::bf16:
        return bf16;
      case Dtype::f16:
        return f16;
      default:
        return f32;
    }
  }
};

extern const LogitsTable logits_portable;
#if defined(__x86_64__)
extern const LogitsTable logits_avx2;
extern const LogitsTable logits_avx512;
#endif

}  // namespace k15
