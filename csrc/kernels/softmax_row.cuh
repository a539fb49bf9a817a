// One row's softmax, read once (online): the logic that the CPU's lanes and CUDA's threads share.
//
// F is a number: `float` or `double` in a CUDA thread, a vector of them on the CPU. Math gives its functions:
//   exp(F), larger(F, F), choose(condition, F, F), and lowest(), the most negative finite number.
//
// NaN: `larger` may skip one, but its exponential makes the sum NaN, and so the logprob. -inf contributes 0.
#pragma once

#include "numbers.cuh"

namespace k15 {

template <class F>
struct RowState {
  F highest;   // -inf before the first number
  F sum;       // of e^(x - highest)
  F weighted;  // of e^(x - highest) (x - highest): only where the entropy is wanted
};

// x - from, where nothing seen yet (-inf) subtracts nothing, and no term of the entropy becomes 0 * inf.
template <class Math, bool entropy, class F>
K15_BOTH F distance(F x, F from) {
  const F difference = x - Math::choose(from < Math::lowest(), F{}, from);
  return entropy ? Math::choose(difference < Math::lowest(), Math::lowest(), difference) : difference;
}

// Express `state` relative to a `highest` that is at least its own.
template <class Math, bool entropy, class F>
K15_BOTH void raise(RowState<F>& state, F highest) {
  const F shift = distance<Math, entropy>(state.highest, highest);
  const F factor = Math::exp(shift);
  if (entropy) state.weighted = factor * (state.weighted + shift * state.sum);
  state.sum = factor * state.sum;
  state.highest = highest;
}

// Take in `count` numbers: one exponential each and one more for the maximum.
template <class Math, bool entropy, int count, class F>
K15_BOTH void absorb(RowState<F>& state, const F (&x)[count]) {
  F highest = state.highest;
#pragma unroll
  for (int i = 0; i < count; ++i) highest = Math::larger(highest, x[i]);
  raise<Math, entropy>(state, highest);
#pragma unroll
  for (int i = 0; i < count; ++i) {
    const F shift = distance<Math, entropy>(x[i], highest);
    const F exponential = Math::exp(shift);
    if (entropy) state.weighted = state.weighted + exponential * shift;
    state.sum = state.sum + exponential;
  }
}

// Two parts of one row.
template <class Math, bool entropy, class F>
K15_BOTH RowState<F> merged(RowState<F> left, RowState<F> right) {
  const F highest = Math::larger(left.highest, right.highest);
  raise<Math, entropy>(left, highest);
  raise<Math, entropy>(right, highest);
  left.sum = left.sum + right.sum;
  left.weighted = left.weighted + right.weighted;
  return left;
}

// d loss / d logit = slope (onehot - e^(x - highest) / sum), with slope = coefficient * scale: `share` is slope / sum, and
// `at_target` the slope in the target's column, 0 in the others.
//
// Not e^(x - log normaliser): of logits in the hundreds fp32 would leave that difference few digits.
template <class Math, class F>
K15_BOTH F logit_gradient(F x, F highest, F share, F at_target) {
  return at_target - share * Math::exp(x - highest);
}

}  // namespace k15
