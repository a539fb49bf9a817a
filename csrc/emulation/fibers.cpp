#include "emulation/fibers.h"

#include <ucontext.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace k15::emulation {
namespace {

constexpr size_t kStackBytes = 64 << 10;

enum class State { ready, at_block_barrier, at_warp_barrier, returned };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  State state = State::ready;
};

struct Machine {
  std::vector<Fiber> fibers;
  std::vector<uint64_t> exchange;  // one number per thread
  std::map<const void*, std::vector<char>> shared;
  Place place{};
  ucontext_t scheduler;
  const std::function<void()>* body = nullptr;
  uint64_t seed = 0;
  std::mt19937_64 chance;
  std::string error;
  int64_t loaded = 0, stored = 0;

  Fiber& current() { return fibers[place.thread]; }
};

Machine& machine() {
  static Machine one;
  return one;
}

void yield_as(State state) {
  Machine& m = machine();
  Fiber& fiber = m.current();
  fiber.state = state;
  swapcontext(&fiber.context, &m.scheduler);
}

void fiber_main() {
  Machine& m = machine();
  (*m.body)();
  m.current().state = State::returned;
  swapcontext(&m.current().context, &m.scheduler);
}

// Open a barrier that everyone who must come by has reached.
bool release(int first, int last, State waiting) {
  auto& fibers = machine().fibers;
  for (int thread = first; thread < last; ++thread)
    if (fibers[thread].state != waiting) return false;
  for (int thread = first; thread < last; ++thread) fibers[thread].state = State::ready;
  return true;
}

bool release_any(int threads) {
  bool any = release(0, threads, State::at_block_barrier);
  for (int first = 0; first < threads; first += kWarp)
    any |= release(first, std::min(first + kWarp, threads), State::at_warp_barrier);
  return any;
}

// Runs fibers until all have returned, or until those left wait for each other in vain.
bool run_block(int threads) {
  Machine& m = machine();
  std::vector<int> ready;
  for (;;) {
    ready.clear();
    int returned = 0;
    for (int thread = 0; thread < threads; ++thread) {
      if (m.fibers[thread].state == State::ready) ready.push_back(thread);
      returned += m.fibers[thread].state == State::returned;
    }
    if (returned == threads) return true;
    if (ready.empty() && !release_any(threads)) return false;
    if (m.seed) std::shuffle(ready.begin(), ready.end(), m.chance);
    for (const int thread : ready) {
      m.place.thread = thread;
      swapcontext(&m.scheduler, &m.fibers[thread].context);
    }
  }
}

void begin_block(int64_t block, int threads) {
  Machine& m = machine();
  m.place.block = block;
  m.shared.clear();
  for (int thread = 0; thread < threads; ++thread) {
    Fiber& fiber = m.fibers[thread];
    fiber.state = State::ready;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
  }
}

void maybe_step_aside() {
  Machine& m = machine();
  if (m.seed && m.chance() % 8 == 0) yield_as(State::ready);
}

}  // namespace

const Place& place() { return machine().place; }
void set_seed(uint64_t seed) { machine().seed = seed; }
const char* error() { return machine().error.c_str(); }
void fail(const char* message) {
  if (machine().error.empty()) machine().error = message;
}

int run(int64_t blocks, int threads, const std::function<void()>& body) {
  Machine& m = machine();
  m.error.clear();
  m.body = &body;
  m.chance.seed(m.seed);
  m.place.num_threads = threads;
  if (threads % kWarp || threads > 1024) fail("a block must have a multiple of 32 threads, at most 1,024");
  if (int(m.fibers.size()) < threads) m.fibers = std::vector<Fiber>(threads);
  m.exchange.assign(threads, 0);
  std::vector<int64_t> order(blocks);
  for (int64_t block = 0; block < blocks; ++block) order[block] = block;
  if (m.seed) std::shuffle(order.begin(), order.end(), m.chance);
  for (const int64_t block : order) {
    if (!m.error.empty()) break;
    begin_block(block, threads);
    if (!run_block(threads)) fail("a barrier or shuffle was not reached by all of its threads");
  }
  return m.error.empty() ? 0 : 1;
}

void block_barrier() { yield_as(State::at_block_barrier); }
void warp_barrier() { yield_as(State::at_warp_barrier); }
uint64_t* warp_exchange() { return &machine().exchange[machine().place.thread / kWarp * kWarp]; }

void* shared_memory(const void* key, int64_t bytes) {
  return machine().shared.try_emplace(key, bytes, char(0xff)).first->second.data();
}

void count_load(int64_t bytes) {
  machine().loaded += bytes;
  maybe_step_aside();
}

void count_store(int64_t bytes) {
  machine().stored += bytes;
  maybe_step_aside();
}

void take_counts(int64_t* loaded_bytes, int64_t* stored_bytes) {
  *loaded_bytes = machine().loaded;
  *stored_bytes = machine().stored;
  machine().loaded = machine().stored = 0;
}

}  // namespace k15::emulation
