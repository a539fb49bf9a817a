// The two passes over logits: one block per row, 16-byte loads, everything in one read (and, backward, one write).
#include "block_reduce.cuh"
#include "k15/calls.h"
#include "launch.cuh"
#include "softmax_row.cuh"
#include "thread_math.cuh"

namespace k15 {
namespace {

constexpr int kThreads = 512;

// A row's columns: single ones up to the first 16-byte boundary, packs, single ones after the last.
struct Columns {
  int64_t head, packs, width;

  template <class Stored>
  K15_DEVICE Columns(const Stored* row, int64_t width) : width(width) {
    constexpr int count = Pack<Stored>::count;
    const int64_t past = int64_t(reinterpret_cast<uintptr_t>(row) / sizeof(Stored)) % count;
    head = past == 0 ? 0 : count - past;
    if (head > width) head = width;
    packs = (width - head) / count;
  }
  // The single columns are numbered head first, then tail.
  template <class Stored>
  K15_DEVICE int64_t num_single() const {
    return width - packs * Pack<Stored>::count;
  }
  template <class Stored>
  K15_DEVICE int64_t single(int64_t index) const {
    return index < head ? index : index + packs * Pack<Stored>::count;
  }
};

template <class F>
struct MergeRows {
  K15_DEVICE RowState<F> operator()(const RowState<F>& left, const RowState<F>& right) const {
    return merged<ThreadMath<F>, true>(left, right);
  }
};

struct ShuffleRow {
  template <class F>
  K15_DEVICE RowState<F> operator()(const RowState<F>& state, int lanes) const {
    return {shuffle_xor(state.highest, lanes), shuffle_xor(state.sum, lanes), shuffle_xor(state.weighted, lanes)};
  }
};

template <bool entropy, class Stored, class F>
K15_DEVICE RowState<F> thread_statistics(const Stored* row, const Columns& columns, F scale) {
  using Math = ThreadMath<F>;
  constexpr int count = Pack<Stored>::count;
  RowState<F> state{-F(INFINITY), F(0), F(0)};
  for (int64_t p = thread_index(); p < columns.packs; p += num_threads()) {
    const Pack<Stored> pack = load_pack(row + columns.head + p * count);
    F x[count];
#pragma unroll
    for (int i = 0; i < count; ++i) x[i] = scaled(to_number(pack.values[i]), scale);
    absorb<Math, entropy>(state, x);
  }
  const int64_t num_single = columns.template num_single<Stored>();
  for (int64_t index = thread_index(); index < num_single; index += num_threads()) {
    const F x[1] = {scaled(to_number(load_one(row + columns.template single<Stored>(index))), scale)};
    absorb<Math, entropy>(state, x);
  }
  return state;
}

template <bool entropy, class Stored, class F>
K15_KERNEL void statistics_kernel(StatisticsCall call) {
  K15_SHARED(RowState<F>, shared, kMaxWarps);
  const int64_t n = block_index();
  const Stored* row = static_cast<const Stored*>(call.logits) + n * call.row_stride;
  const F scale = F(call.scale);
  const RowState<F> mine = thread_statistics<entropy>(row, Columns(row, call.width), scale);
  const RowState<F> whole = across_block(mine, shared, MergeRows<F>{}, ShuffleRow{});
  if (thread_index() != 0) return;
  const int64_t target = load_one(call.targets + n);
  const bool here = target >= 0 && target < call.width;
  write(call.highest, n, whole.highest);
  write(call.sums, n, whole.sum);
  write(call.target_logits, n, here ? scaled(to_number(load_one(row + target)), scale) : F(0));
  if (entropy) write(call.weighted, n, whole.weighted);
}

template <class F>
struct RowGradient {
  F scale, highest, share, slope;
  int64_t target;

  K15_DEVICE F operator()(F logit, int64_t column) const {
    return logit_gradient<ThreadMath<F>>(scaled(logit, scale), highest, share, column == target ? slope : F(0));
  }
};

template <class Stored, class F>
K15_DEVICE void zero_row(Stored* out, int64_t width) {
  Stored zero;
  from_number(F(0), zero);
  for (int64_t column = thread_index(); column < width; column += num_threads()) store_one(out + column, zero);
}

template <class Stored, class F>
K15_DEVICE void gradient_one(const Stored* row, Stored* out, int64_t column, const RowGradient<F>& gradient) {
  Stored value;
  from_number(gradient(to_number(load_one(row + column)), column), value);
  store_one(out + column, value);
}

template <class Stored, class F>
K15_KERNEL void gradient_kernel(GradientCall call) {
  constexpr int count = Pack<Stored>::count;
  const int64_t n = block_index();
  const Stored* row = static_cast<const Stored*>(call.logits) + n * call.row_stride;
  Stored* out = static_cast<Stored*>(call.gradient) + n * call.gradient_stride;
  const F coefficient = read<F>(call.coefficients, n);
  if (coefficient == F(0)) return zero_row<Stored, F>(out, call.width);
  const F slope = coefficient * F(call.scale);
  const RowGradient<F> gradient{F(call.scale), read<F>(call.highest, n), slope / read<F>(call.sums, n), slope,
                                load_one(call.targets + n)};
  const Columns columns(row, call.width);
  // Packs need both rows at the same distance from a 16-byte boundary.
  const bool alike = (reinterpret_cast<uintptr_t>(row) - reinterpret_cast<uintptr_t>(out)) % 16 == 0;
  if (!alike) {
    for (int64_t column = thread_index(); column < call.width; column += num_threads())
      gradient_one(row, out, column, gradient);
    return;
  }
  for (int64_t p = thread_index(); p < columns.packs; p += num_threads()) {
    const int64_t first = columns.head + p * count;
    Pack<Stored> pack = load_pack(row + first);
#pragma unroll
    for (int i = 0; i < count; ++i) from_number(gradient(to_number(pack.values[i]), first + i), pack.values[i]);
    store_pack(out + first, pack);
  }
  const int64_t num_single = columns.template num_single<Stored>();
  for (int64_t index = thread_index(); index < num_single; index += num_threads())
    gradient_one(row, out, columns.template single<Stored>(index), gradient);
}

template <class Stored>
int launch_statistics(const StatisticsCall& call, void* stream) {
  using F = typename Compute<Stored>::type;
  const auto kernel = call.weighted ? statistics_kernel<true, Stored, F> : statistics_kernel<false, Stored, F>;
  return launch(kernel, call.num_rows, kThreads, stream, call);
}

template <class Stored>
int launch_gradient(const GradientCall& call, void* stream) {
  return launch(gradient_kernel<Stored, typename Compute<Stored>::type>, call.num_rows, kThreads, stream, call);
}

}  // namespace

namespace cuda {

int softmax_statistics(const StatisticsCall& call, void* stream) {
  switch (call.dtype) {
    case Dtype::f64:
      return launch_statistics<double>(call, stream);
    case Dtype::bf16:
      return launch_statistics<Bfloat16>(call, stream);
    case Dtype::f16:
      return launch_statistics<Float16>(call, stream);
    default:
      return launch_statistics<float>(call, stream);
  }
}

int logit_gradient(const GradientCall& call, void* stream) {
  switch (call.dtype) {
    case Dtype::f64:
      return launch_gradient<double>(call, stream);
    case Dtype::bf16:
      return launch_gradient<Bfloat16>(call, stream);
    case Dtype::f16:
      return launch_gradient<Float16>(call, stream);
    default:
      return launch_gradient<float>(call, stream);
  }
}

}  // namespace cuda
}  // namespace k15
