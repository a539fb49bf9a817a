// The packing planner: sequences into packs of limited length.
#pragma once

#include <cstdint>
#include <vector>

namespace k15 {

// Best fit over sorted lengths: longest first (equal ones in the given order), each into the fullest pack that still has
// room, else into a new one. A sequence longer than `capacity` gets a pack of its own.
//
// Returns the packs in the order they were opened, each with the indices of its sequences. O(n log n).
std::vector<std::vector<int64_t>> best_fit(const std::vector<int64_t>& lengths, int64_t capacity);

}  // namespace k15
