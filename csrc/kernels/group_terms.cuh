// The length reward (K1.5 report, section 2.3.3) and the baselines (2.3.2) of one group of responses.
//
// lambda = 0.5 - (length - shortest) / (longest - shortest); a right response gets it, a wrong one min(0, lambda); all
// get 0 where every length is the same.
#pragma once

#include "numbers.cuh"

namespace k15 {

K15_BOTH double length_reward(int64_t length, int64_t shortest, int64_t longest, bool correct) {
  if (shortest == longest) return 0.0;
  const double value = 0.5 - double(length - shortest) / double(longest - shortest);
  return correct || value < 0.0 ? value : 0.0;
}

// tau log mean e^(r / tau) is highest + tau log(mean of these), which cannot overflow.
K15_BOTH double scaled_reward(double reward, double highest, double tau) { return (reward - highest) / tau; }

}  // namespace k15
