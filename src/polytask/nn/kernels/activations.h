// What stands between two products of a feed-forward layer.
#pragma once

#include "vectors.h"

namespace polytask {

enum { RELU, GELU, GELU_TANH, QUICK_GELU, SILU, RELU_SQUARED };  // as in kernels/library.py

// 1 / (1 + e^-x), to be rounded to T: of bfloat16 within 1e-4.
template <class T = float> POLYTASK_INLINE f32x16 sigmoid(f32x16 x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 2) {
    __m512 y = _mm512_mul_ps((__m512)x.parts[0], _mm512_set1_ps(-1.44269504f));  // 2^y, y = n + r
    // In this order NaN stays. At 2^126 the reciprocal would be no normal number, which takes four times as long.
    y = _mm512_min_ps(_mm512_set1_ps(100), _mm512_max_ps(_mm512_set1_ps(-100), y));
    const __m512 n = _mm512_roundscale_ps(y, _MM_FROUND_TO_NEAREST_INT), r = _mm512_sub_ps(y, n);
    __m512 p = _mm512_set1_ps(5.5171627e-2f);
    for (float c : {2.4261112e-1f, 6.9326099e-1f, 9.9992807e-1f}) p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    x.parts[0] = (f32x16::Part)_mm512_rcp14_ps(_mm512_add_ps(_mm512_scalef_ps(p, n), _mm512_set1_ps(1)));
    return x;
  }
#endif
  const f32x16 e = exponential(-magnitude(x));
  return pick(x < 0, e, 1) / (e + 1);
}

inline f32x16 hyperbolic(f32x16 x) { return 2 * sigmoid(2 * x) - 1; }

// Within 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26).
inline f32x16 error_function(f32x16 x) {
  const f32x16 size = magnitude(x), t = 1 / (size * 0.3275911f + 1);
  f32x16 p = 1.061405429f;
  for (float c : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) p = p * t + c;
  const f32x16 y = 1 - p * t * exponential(-size * size);
  return pick(x < 0, -y, y);
}

template <class T> POLYTASK_INLINE f32x16 active(f32x16 x, int activation) {
  switch (activation) {
    case RELU: return pick(x < 0, f32x16(0), x);  // which keeps what is no number
    case GELU: return 0.5f * x * (1 + error_function(x * 0.70710678f));
    case GELU_TANH: return x * sigmoid<T>(1.5957691216f * (x + 0.044715f * x * x * x));  // (1 + tanh z) / 2 = sigmoid(2 z)
    case QUICK_GELU: return x * rounded<T>(sigmoid(rounded<T>(1.702f * x)));
    case SILU: return x * sigmoid<T>(x);
    default: return pick(x < 0, f32x16(0), x * x);
  }
}

}  // namespace polytask
