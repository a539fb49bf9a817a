// The twin of kernels/intrinsics.cuh for g++: the same names, executed by fibers.
//
// Packs must be aligned to 16 bytes, as on a GPU: otherwise the run is reported as failed.
#pragma once

#include <cmath>
#include <cstring>

#include "emulation/fibers.h"
#include "numbers.cuh"

#define K15_KERNEL
#define K15_DEVICE inline
#define K15_SHARED(Type, name, count) \
  static char name##_key;             \
  Type* name = static_cast<Type*>(::k15::emulation::shared_memory(&name##_key, sizeof(Type) * (count)))

namespace k15 {

using emulation::block_barrier;
using emulation::kWarp;

K15_DEVICE int thread_index() { return emulation::place().thread; }
K15_DEVICE int num_threads() { return emulation::place().num_threads; }
K15_DEVICE int64_t block_index() { return emulation::place().block; }

template <class F>
K15_DEVICE F shuffle_xor(F value, int lanes) {
  static_assert(sizeof(F) <= sizeof(uint64_t));
  uint64_t* exchange = emulation::warp_exchange();
  const int lane = thread_index() % kWarp;
  std::memcpy(&exchange[lane], &value, sizeof(F));
  emulation::warp_barrier();
  F other;
  std::memcpy(&other, &exchange[lane ^ lanes], sizeof(F));
  emulation::warp_barrier();
  return other;
}

// As ex2.approx.ftz: no subnormal results.
K15_DEVICE float exp_of(float x) {
  const float value = std::exp2(x * 1.44269504088896341f);
  return value < 1.17549435e-38f ? 0.0f : value;
}
K15_DEVICE float scaled(float x, float scale) { return x * scale; }
K15_DEVICE double scaled(double x, double scale) { return x * scale; }
K15_DEVICE double exp_of(double x) { return std::exp(x); }
K15_DEVICE double log_of(double x) { return std::log(x); }

K15_DEVICE float to_number(float value) { return value; }
K15_DEVICE double to_number(double value) { return value; }
K15_DEVICE float to_number(Bfloat16 value) {
  const uint32_t bits = uint32_t(value.bits) << 16;
  float number;
  std::memcpy(&number, &bits, sizeof(number));
  return number;
}
K15_DEVICE float to_number(Float16 value) {
  _Float16 half;
  std::memcpy(&half, &value, sizeof(half));
  return float(half);
}

K15_DEVICE void from_number(float number, float& value) { value = number; }
K15_DEVICE void from_number(double number, double& value) { value = number; }
K15_DEVICE void from_number(float number, Bfloat16& value) {
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  value.bits = uint16_t(number == number ? rounded : 0x7fff);
}
K15_DEVICE void from_number(float number, Float16& value) {
  const _Float16 half = _Float16(number);
  std::memcpy(&value, &half, sizeof(half));
}

template <class Stored>
struct alignas(16) Pack {
  static constexpr int count = 16 / sizeof(Stored);
  Stored values[count];
};

inline void check_aligned(const void* address) {
  if (reinterpret_cast<uintptr_t>(address) % 16) emulation::fail("a pack must be aligned to 16 bytes");
}

template <class Stored>
K15_DEVICE Pack<Stored> load_pack(const Stored* from) {
  check_aligned(from);
  emulation::count_load(16);
  Pack<Stored> pack;
  std::memcpy(&pack, from, sizeof(pack));
  return pack;
}

template <class Stored>
K15_DEVICE void store_pack(Stored* to, const Pack<Stored>& value) {
  check_aligned(to);
  emulation::count_store(16);
  std::memcpy(static_cast<void*>(to), &value, sizeof(value));
}

template <class Stored>
K15_DEVICE Stored load_one(const Stored* from) {
  emulation::count_load(sizeof(Stored));
  return *from;
}

template <class Stored>
K15_DEVICE void store_one(Stored* to, Stored value) {
  emulation::count_store(sizeof(Stored));
  *to = value;
}

}  // namespace k15
