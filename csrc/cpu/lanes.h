// The CPU's vectors: K15_VECTOR_BYTES wide, in the compiler's vector extension, so that one source serves every
// instruction set. Conversions from and to the storage types of logits.
//
// Included by one file per instruction set, each with its own flags. Everything stands in an unnamed namespace or is
// always inlined: the linker must never take one file's AVX-512 copy of a function for all.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "softmax_row.cuh"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace k15 {
namespace {

template <class Scalar>
struct LanesOf {
  typedef Scalar type __attribute__((vector_size(K15_VECTOR_BYTES)));
};
using Floats = LanesOf<float>::type;
using Doubles = LanesOf<double>::type;
using Ints = LanesOf<int32_t>::type;
using Words = LanesOf<uint32_t>::type;
typedef uint16_t Halves __attribute__((vector_size(K15_VECTOR_BYTES / 2)));

constexpr int kFloats = K15_VECTOR_BYTES / 4;
constexpr int kDoubles = K15_VECTOR_BYTES / 8;

template <class Scalar>
K15_BOTH typename LanesOf<Scalar>::type all(Scalar value) {
  return value - typename LanesOf<Scalar>::type{};
}

// e^rest for |rest| at most log 2 / 2.
K15_BOTH Floats series_of(Floats rest) {
  Floats series = all(1.9875691500e-4f);
  series = series * rest + 1.3981999507e-3f;
  series = series * rest + 8.3334519073e-3f;
  series = series * rest + 4.1665795894e-2f;
  series = series * rest + 1.6666665459e-1f;
  series = series * rest + 5.0000001201e-1f;
  return series * (rest * rest) + rest + 1.0f;
}

// e^x for x of at most 0, and NaN for NaN; below -87.33, where e^x is no normal number, 0. Error under 2 ulp.
#if defined(__AVX512F__)
// Of -inf the rest is NaN, but its lane is one of those set to 0.
K15_BOTH Floats exp_of(Floats x) {
  const Floats power = _mm512_roundscale_ps(x * 1.44269504088896341f, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  Floats rest = x - power * 0.693145751953125f;
  rest = rest - power * 1.42860682030941723e-6f;
  const __mmask16 kept = _mm512_cmp_ps_mask(x, all(-87.33f), _CMP_NLT_UQ);
  return _mm512_maskz_scalef_ps(kept, series_of(rest), power);
}
#else
K15_BOTH Floats exp_of(Floats x) {
  const Floats magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to the nearest integer
  const Floats clamped = x < -87.33f ? all(-87.33f) : x;
  const Floats shifted = clamped * 1.44269504088896341f + magic;
  const Floats power = shifted - magic;
  Floats rest = clamped - power * 0.693145751953125f;
  rest = rest - power * 1.42860682030941723e-6f;
  const Floats series = series_of(rest);
  const Ints exponent = (Ints(shifted) - Ints(magic)) << 23;
  const Ints bits = Ints(series) + exponent;
  const Floats value = x < -87.33f ? Floats{} : Floats(bits);
  return x == x ? value : x;
}
#endif

// Doubles are for tests of gradients: exact rather than fast.
K15_BOTH Doubles exp_of(Doubles x) {
  for (int lane = 0; lane < kDoubles; ++lane) x[lane] = __builtin_exp(x[lane]);
  return x;
}

template <class Scalar>
struct LaneMath {
  using F = typename LanesOf<Scalar>::type;
  static K15_BOTH F exp(F x) { return exp_of(x); }
  static K15_BOTH F larger(F left, F right) { return left > right ? left : right; }
  template <class Condition>
  static K15_BOTH F choose(Condition condition, F yes, F no) {
    return condition ? yes : no;
  }
  static K15_BOTH F lowest() { return all(std::numeric_limits<Scalar>::lowest()); }
};

// x * scale as a number of its own. Fused into what follows it would not be the number whose maximum was stored, and the
// probabilities of logits in the hundreds would not add up to 1.
template <class Vector, class Scalar>
K15_BOTH Vector scaled(Vector x, Scalar scale) {
#if defined(__has_builtin) && __has_builtin(__builtin_assoc_barrier)
  return __builtin_assoc_barrier(x * scale);
#else
  volatile Vector product = x * scale;
  return product;
#endif
}

template <class Vector, class Stored>
K15_BOTH Vector raw(const Stored* from) {
  Vector value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

K15_BOTH Floats load(const float* from) { return raw<Floats>(from); }
K15_BOTH Doubles load(const double* from) { return raw<Doubles>(from); }
K15_BOTH void store(float* to, Floats value) { std::memcpy(to, &value, sizeof(value)); }
K15_BOTH void store(double* to, Doubles value) { std::memcpy(to, &value, sizeof(value)); }

K15_BOTH Floats load(const Bfloat16* from) {
  const Words words = __builtin_convertvector(raw<Halves>(from), Words) << 16;
  return Floats(words);
}

// To the nearest, ties to even; a NaN stays one.
K15_BOTH void store(Bfloat16* to, Floats value) {
  const Words bits = Words(value);
  const Words rounded = (bits + (((bits >> 16) & 1) + 0x7fff)) >> 16;
  const Words kept = value == value ? rounded : (bits >> 16) | 0x40;
  const Halves halves = __builtin_convertvector(kept, Halves);
  std::memcpy(to, &halves, sizeof(halves));
}

#if defined(__AVX512F__)
K15_BOTH Floats load(const Float16* from) { return Floats(_mm512_cvtph_ps(raw<__m256i>(from))); }
K15_BOTH void store(Float16* to, Floats value) {
  const __m256i halves = _mm512_cvtps_ph(__m512(value), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  std::memcpy(to, &halves, sizeof(halves));
}
#elif defined(__F16C__)
K15_BOTH Floats load(const Float16* from) { return Floats(_mm256_cvtph_ps(raw<__m128i>(from))); }
K15_BOTH void store(Float16* to, Floats value) {
  const __m128i halves = _mm256_cvtps_ph(__m256(value), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  std::memcpy(to, &halves, sizeof(halves));
}
#else
// 2^112 moves the exponent from half's bias to float's and makes half's subnormals right as well.
K15_BOTH Floats load(const Float16* from) {
  const Words half = __builtin_convertvector(raw<Halves>(from), Words);
  const Words shifted = (half & 0x7fff) << 13;
  const Floats scaled = Floats(shifted) * 0x1p112f;
  const Words finite = Words(scaled);
  const Words special = shifted | 0x7f800000;
  const Words magnitude = (half & 0x7c00) == 0x7c00 ? special : finite;
  const Words bits = magnitude | (half & 0x8000) << 16;
  return Floats(bits);
}

// Adding a power of two that ends where half's digits end rounds to the nearest, ties to even.
K15_BOTH void store(Float16* to, Floats value) {
  const Words bits = Words(value);
  const Words sign = bits & 0x80000000;
  const Words magnitude = bits ^ sign;
  const Floats absolute = Floats(magnitude);
  const Floats small_sum = absolute + 0.5f;  // below 2^-14 half counts in steps of 2^-24, as float does at 0.5
  const Words small = Words(small_sum) - 0x3f000000;
  const Words rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  const Words normal = (rounded >> 13) - (112 << 10);
  Words half = magnitude < 0x38800000 ? small : normal;
  half = magnitude >= 0x477ff000 ? all(uint32_t(0x7c00)) : half;
  half = magnitude > 0x7f800000 ? all(uint32_t(0x7e00)) : half;
  const Halves halves = __builtin_convertvector(half | sign >> 16, Halves);
  std::memcpy(to, &halves, sizeof(halves));
}
#endif

// The first `count` numbers at `from`, `fill` in the other lanes.
template <class Scalar, class Stored>
K15_BOTH typename LanesOf<Scalar>::type load_part(const Stored* from, int count, Scalar fill) {
  constexpr int lanes = K15_VECTOR_BYTES / sizeof(Scalar);
  Stored padded[lanes] = {};
  std::memcpy(padded, from, count * sizeof(Stored));
  auto value = load(padded);
  for (int lane = count; lane < lanes; ++lane) value[lane] = fill;
  return value;
}

template <class Stored, class Vector>
K15_BOTH void store_part(Stored* to, Vector value, int count) {
  Stored padded[sizeof(Vector) / sizeof(value[0])];
  store(padded, value);
  std::memcpy(to, padded, count * sizeof(Stored));
}

}  // namespace
}  // namespace k15
