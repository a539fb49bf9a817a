// Which instruction set the passes over logits use, and their rows over OpenMP threads.
#include <atomic>
#include <cstring>

#include "cpu/logits_table.h"

namespace k15::cpu {
namespace {

struct Choice {
  const char* name;
  const LogitsTable* table;
  bool present;
};

const Choice* choices(int& count) {
  static const Choice list[] = {
#if defined(__x86_64__)
      {"avx512", &logits_avx512,
       __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl")},
      {"avx2", &logits_avx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c")},
#endif
      {"portable", &logits_portable, true},
  };
  count = sizeof(list) / sizeof(list[0]);
  return list;
}

const Choice* widest() {
  int count;
  const Choice* list = choices(count);
  while (!list->present) ++list;
  return list;
}

std::atomic<const Choice*>& chosen() {
  static std::atomic<const Choice*> choice{widest()};
  return choice;
}

constexpr int64_t kWorthThreads = 1 << 15;  // numbers; waking a thread costs as much as a few thousand of them

// Rows in one even part per thread, so that each thread walks through memory of its own.
template <class Call>
void over_rows(void (*kernel)(const Call&, int64_t, int64_t), const Call& call, int num_threads) {
  if (call.num_rows * call.width < kWorthThreads) num_threads = 1;
#pragma omp parallel for schedule(static) num_threads(num_threads) if (num_threads > 1)
  for (int part = 0; part < num_threads; ++part)
    kernel(call, call.num_rows * part / num_threads, call.num_rows * (part + 1) / num_threads);
}

}  // namespace

const char* instructions() { return chosen().load()->name; }

bool choose_instructions(const char* name) {
  int count;
  const Choice* list = choices(count);
  for (int i = 0; i < count; ++i)
    if (!std::strcmp(list[i].name, name) && list[i].present) {
      chosen() = &list[i];
      return true;
    }
  return false;
}

void softmax_statistics(const StatisticsCall& call, int num_threads) {
  const LogitsKernels& kernels = chosen().load()->table->of(call.dtype);
  over_rows(call.weighted ? kernels.statistics_entropy : kernels.statistics, call, num_threads);
}

void logit_gradient(const GradientCall& call, int num_threads) {
  over_rows(chosen().load()->table->of(call.dtype).gradient, call, num_threads);
}

}  // namespace k15::cpu
