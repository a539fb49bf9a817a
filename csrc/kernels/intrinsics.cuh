// Everything a kernel needs that is not plain C++: vector loads and stores, exponentials, warp shuffles, barriers. Inline
// PTX and CUDA's own types stand here alone; csrc/emulation/intrinsics.h is the twin for g++.
#pragma once

#include "numbers.cuh"

#if defined(K15_EMULATION)
#include "emulation/intrinsics.h"
#else

#define K15_KERNEL __global__
#define K15_DEVICE __device__ __forceinline__
#define K15_SHARED(Type, name, count) __shared__ Type name[count]

namespace k15 {

constexpr int kWarp = 32;

K15_DEVICE int thread_index() { return int(threadIdx.x); }
K15_DEVICE int num_threads() { return int(blockDim.x); }
K15_DEVICE int64_t block_index() { return int64_t(blockIdx.x); }
K15_DEVICE void block_barrier() { __syncthreads(); }

template <class F>
K15_DEVICE F shuffle_xor(F value, int lanes) {
  return __shfl_xor_sync(0xffffffffu, value, lanes);
}

// e^x by the special-function unit: 2 ulp on the way from base 2, and the rounding of x log2(e).
K15_DEVICE float exp_of(float x) {
  float value;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x * 1.44269504088896341f));
  return value;
}
// A product of its own, never fused into the sum that follows: see scaled() in cpu/lanes.h.
K15_DEVICE float scaled(float x, float scale) { return __fmul_rn(x, scale); }
K15_DEVICE double scaled(double x, double scale) { return __dmul_rn(x, scale); }

K15_DEVICE double exp_of(double x) { return exp(x); }
K15_DEVICE double log_of(double x) { return log(x); }

K15_DEVICE float to_number(float value) { return value; }
K15_DEVICE double to_number(double value) { return value; }
K15_DEVICE float to_number(Bfloat16 value) { return __uint_as_float(uint32_t(value.bits) << 16); }
K15_DEVICE float to_number(Float16 value) {
  float number;
  asm("cvt.f32.f16 %0, %1;" : "=f"(number) : "h"(value.bits));
  return number;
}

// To the nearest, ties to even.
K15_DEVICE void from_number(float number, float& value) { value = number; }
K15_DEVICE void from_number(double number, double& value) { value = number; }
K15_DEVICE void from_number(float number, Bfloat16& value) {
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(value.bits) : "f"(number));
}
K15_DEVICE void from_number(float number, Float16& value) {
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(value.bits) : "f"(number));
}

// 16 bytes of global memory at once; the address must be a multiple of 16.
template <class Stored>
struct alignas(16) Pack {
  static constexpr int count = 16 / sizeof(Stored);
  Stored values[count];
};

template <class Stored>
K15_DEVICE Pack<Stored> load_pack(const Stored* from) {
  union {
    uint4 words;
    Pack<Stored> pack;
  };
  words = *reinterpret_cast<const uint4*>(from);
  return pack;
}

template <class Stored>
K15_DEVICE void store_pack(Stored* to, const Pack<Stored>& value) {
  *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(&value);
}

// One number of global memory.
template <class Stored>
K15_DEVICE Stored load_one(const Stored* from) {
  return *from;
}
template <class Stored>
K15_DEVICE void store_one(Stored* to, Stored value) {
  *to = value;
}

}  // namespace k15

#endif

namespace k15 {

// Number `index` of an array that a call names without its type.
template <class F>
K15_DEVICE F read(const void* from, int64_t index) {
  return load_one(static_cast<const F*>(from) + index);
}
template <class F>
K15_DEVICE void write(void* to, int64_t index, F value) {
  store_one(static_cast<F*>(to) + index, value);
}

}  // namespace k15
