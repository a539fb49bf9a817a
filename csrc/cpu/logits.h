// The two passes over logits on the CPU, for the instruction set of the including file; its table is K15_LOGITS.
#pragma once

#include <cmath>

#include "cpu/logits_table.h"
#include "lanes.h"

namespace k15 {
namespace {

constexpr int kBlock = 8;  // vectors taken in at a time: one exponential in nine is for the running maximum

template <class Scalar, class Vector>
K15_BOTH RowState<Scalar> across_lanes(const RowState<Vector>& lanes) {
  constexpr int count = sizeof(Vector) / sizeof(Scalar);
  RowState<Scalar> whole{lanes.highest[0], 0, 0};
  for (int lane = 0; lane < count; ++lane)
    if (lanes.highest[lane] > whole.highest) whole.highest = lanes.highest[lane];
  constexpr Scalar lowest = std::numeric_limits<Scalar>::lowest();
  for (int lane = 0; lane < count; ++lane) {
    if (lanes.sum[lane] == 0) continue;  // this lane saw -inf only
    const Scalar difference = lanes.highest[lane] - whole.highest;
    const Scalar shift = difference < lowest ? lowest : difference, factor = std::exp(shift);
    whole.sum += factor * lanes.sum[lane];
    whole.weighted += factor * (lanes.weighted[lane] + shift * lanes.sum[lane]);
  }
  return whole;
}

template <bool entropy, class Stored, class Scalar>
K15_BOTH RowState<Scalar> row_statistics(const Stored* row, int64_t width, Scalar scale) {
  using Math = LaneMath<Scalar>;
  using F = typename Math::F;
  constexpr int lanes = K15_VECTOR_BYTES / sizeof(Scalar);
  constexpr Scalar none = -std::numeric_limits<Scalar>::infinity();
  RowState<F> state{all(none), F{}, F{}};
  int64_t column = 0;
  for (; column + kBlock * lanes <= width; column += kBlock * lanes) {
    F block[kBlock];
    for (int i = 0; i < kBlock; ++i) block[i] = scaled(load(row + column + i * lanes), scale);
    absorb<Math, entropy>(state, block);
  }
  for (; column < width; column += lanes) {
    const int count = width - column < lanes ? int(width - column) : lanes;
    const F last[1] = {scaled(load_part<Scalar>(row + column, count, none), scale)};
    absorb<Math, entropy>(state, last);
  }
  return across_lanes<Scalar>(state);
}

template <bool entropy, class Stored, class Scalar>
void statistics_rows(const StatisticsCall& call, int64_t first, int64_t last) {
  const Scalar scale = Scalar(call.scale);
  for (int64_t n = first; n < last; ++n) {
    const Stored* row = static_cast<const Stored*>(call.logits) + n * call.row_stride;
    const RowState<Scalar> state = row_statistics<entropy>(row, call.width, scale);
    const int64_t target = call.targets[n];
    const bool here = target >= 0 && target < call.width;
    static_cast<Scalar*>(call.highest)[n] = state.highest;
    static_cast<Scalar*>(call.sums)[n] = state.sum;
    static_cast<Scalar*>(call.target_logits)[n] = here ? load_part(row + target, 1, Scalar(0))[0] * scale : Scalar(0);
    if (entropy) static_cast<Scalar*>(call.weighted)[n] = state.weighted;
  }
}

template <class Stored, class Scalar>
K15_BOTH void gradient_row(const Stored* row, Stored* out, int64_t width, int64_t target, Scalar scale,
                           Scalar highest, Scalar sum, Scalar slope) {
  using Math = LaneMath<Scalar>;
  using F = typename Math::F;
  constexpr int lanes = K15_VECTOR_BYTES / sizeof(Scalar);
  const bool here = target >= 0 && target < width;
  // Read before the row is overwritten.
  const F at_target = here ? scaled(load_part(row + target, 1, Scalar(0)), scale) : F{};
  const F peak = all(highest), share = all(slope / sum);
  int64_t column = 0;
  for (; column + lanes <= width; column += lanes)
    store(out + column, logit_gradient<Math>(scaled(load(row + column), scale), peak, share, F{}));
  if (column < width) {
    const int count = int(width - column);
    const F x = scaled(load_part(row + column, count, Scalar(0)), scale);
    store_part(out + column, logit_gradient<Math>(x, peak, share, F{}), count);
  }
  if (here) store_part(out + target, logit_gradient<Math>(at_target, peak, share, all(slope)), 1);
}

template <class Stored, class Scalar>
void gradient_rows(const GradientCall& call, int64_t first, int64_t last) {
  for (int64_t n = first; n < last; ++n) {
    const Stored* row = static_cast<const Stored*>(call.logits) + n * call.row_stride;
    Stored* out = static_cast<Stored*>(call.gradient) + n * call.gradient_stride;
    const Scalar coefficient = static_cast<const Scalar*>(call.coefficients)[n];
    if (coefficient == 0)
      std::memset(static_cast<void*>(out), 0, call.width * sizeof(Stored));
    else
      gradient_row(row, out, call.width, call.targets[n], Scalar(call.scale),
                   static_cast<const Scalar*>(call.highest)[n], static_cast<const Scalar*>(call.sums)[n],
                   coefficient * Scalar(call.scale));
  }
}

template <class Stored>
constexpr LogitsKernels kernels_of() {
  using Scalar = typename Compute<Stored>::type;
  return {statistics_rows<false, Stored, Scalar>, statistics_rows<true, Stored, Scalar>, gradient_rows<Stored, Scalar>};
}

}  // namespace

const LogitsTable K15_LOGITS = {kernels_of<float>(), kernels_of<double>(), kernels_of<Bfloat16>(), kernels_of<Float16>()};

}  // namespace k15
