// The functions that softmax_row.cuh asks for, of one number in one thread.
#pragma once

#include "intrinsics.cuh"

namespace k15 {

template <class F>
struct ThreadMath;

template <>
struct ThreadMath<float> {
  static K15_DEVICE float exp(float x) { return exp_of(x); }
  static K15_DEVICE float larger(float left, float right) { return left > right ? left : right; }
  static K15_DEVICE float choose(bool condition, float yes, float no) { return condition ? yes : no; }
  static K15_DEVICE float lowest() { return -3.402823466e+38f; }
};

template <>
struct ThreadMath<double> {
  static K15_DEVICE double exp(double x) { return exp_of(x); }
  static K15_DEVICE double larger(double left, double right) { return left > right ? left : right; }
  static K15_DEVICE double choose(bool condition, double yes, double no) { return condition ? yes : no; }
  static K15_DEVICE double lowest() { return -1.7976931348623157e+308; }
};

}  // namespace k15
