#include "k15/packing.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <tuple>
#include <utility>

namespace k15 {

std::vector<std::vector<int64_t>> best_fit(const std::vector<int64_t>& lengths, int64_t capacity) {
  std::vector<int64_t> order(lengths.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return lengths[a] > lengths[b]; });
  std::vector<std::vector<int64_t>> packs;
  std::set<std::pair<int64_t, int64_t>> room;  // (tokens left, pack): of equally full packs the first
  for (const int64_t index : order) {
    const auto best = room.lower_bound({lengths[index], 0});
    int64_t left = capacity, pack = int64_t(packs.size());
    if (best != room.end()) {
      std::tie(left, pack) = *best;
      room.erase(best);
    } else {
      packs.emplace_back();
    }
    packs[pack].push_back(index);
    if (left > lengths[index]) room.insert({left - lengths[index], pack});
  }
  return packs;
}

}  // namespace k15
