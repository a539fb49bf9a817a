// Blocks of threads on one CPU thread: each CUDA thread is a fiber that runs until it meets the others at a barrier.
//
// Orders: with seed 0 fibers run by index; with any other the scheduler picks among the runnable ones by chance, and a
// fiber may be put aside at every access to global memory. A kernel whose result depends on the order is racy.
#pragma once

#include <cstdint>
#include <functional>

namespace k15::emulation {

constexpr int kWarp = 32;

struct Place {
  int64_t block;
  int thread, num_threads;
};

// Of the running fiber.
const Place& place();

// Run `body` once per thread of each block; blocks one after another, in an order by chance where the seed is not 0.
// Returns 0, or 1 with `error()` set.
int run(int64_t blocks, int threads, const std::function<void()>& body);

void set_seed(uint64_t seed);
const char* error();
void fail(const char* message);

// All threads of the block must come by; one that has returned already is an error.
void block_barrier();
// All 32 lanes of the warp.
void warp_barrier();
// 8 bytes per lane for shuffles, of the running fiber's warp.
uint64_t* warp_exchange();

// The block's memory of that key, alike for all of its threads. Filled with NaN (all bits set) before each block, so that a
// read before the write shows.
void* shared_memory(const void* key, int64_t bytes);

// Global memory: counted, and where the order is by chance a moment for others to run.
void count_load(int64_t bytes);
void count_store(int64_t bytes);
void take_counts(int64_t* loaded_bytes, int64_t* stored_bytes);

}  // namespace k15::emulation
