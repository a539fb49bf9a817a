// Online mirror descent (K1.5 report, section 2.3.2), token by token and sequence by sequence.
//
// s = sum of (logprob - reference) over a response, loss = -w (a s - tau/2 s^2): the square is of the whole response's
// log-ratio, so that every token of it gets the coefficient -w (a - tau s).
//
// Sums of tokens are double: a response has up to 131,072 of them.
#pragma once

#include "numbers.cuh"

namespace k15 {

struct Sequence {
  double advantage, weight, sum;
};

K15_BOTH double sequence_loss(const Sequence& sequence, double tau) {
  return -sequence.weight * (sequence.advantage * sequence.sum - tau / 2 * sequence.sum * sequence.sum);
}

K15_BOTH double sequence_coefficient(const Sequence& sequence, double tau) {
  return -sequence.weight * (sequence.advantage - tau * sequence.sum);
}

// The truncated importance correction: min(pi / pi_behaviour, clip), where a NaN stays one.
K15_BOTH double truncated(double ratio, double clip) { return ratio > clip ? clip : ratio; }

}  // namespace k15
