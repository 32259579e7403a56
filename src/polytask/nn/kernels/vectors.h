// What the kernels share: vectors, and rounding to bfloat16.
//
// Vectors are GCC's and clang's own, 16 lanes wide; the compiler splits them where the machine has shorter ones.
#pragma once

#include <cstdint>
#include <cstring>

namespace polytask {

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef int8_t i8x16 __attribute__((vector_size(16)));
typedef int16_t i16x16 __attribute__((vector_size(32)));

constexpr int64_t LANES = 16;

template <class V> inline V load(const void* from) { V v; std::memcpy(&v, from, sizeof v); return v; }
template <class V> inline void store(void* to, V v) { std::memcpy(to, &v, sizeof v); }
inline f32x16 bits(i32x16 v) { f32x16 f; std::memcpy(&f, &v, sizeof f); return f; }
// Asks for what will be read soon: the machine's own guess does not keep its memory busy while it multiplies. What is
// multiplied as fast as it comes goes past the second cache.
template <bool FAST> inline void ahead(const void* from) {
  if (FAST) __builtin_prefetch((const void*)((uintptr_t)from + 1024), 0, 0);
  else __builtin_prefetch((const void*)((uintptr_t)from + 4096), 0, 2);
}

// One of all lanes: half of them and the other half become one, until a single one is left.
template <class V, class F> inline auto joined(V v, const F& join) {
  constexpr int count = sizeof(V) / sizeof(v[0]);
  if constexpr (count == 2) {
    return join(v[0], v[1]);
  } else {
    typedef decltype(v[0] + 0) Number;
    typedef Number Half __attribute__((vector_size(sizeof(V) / 2)));
    Half halves[2];
    std::memcpy(halves, &v, sizeof halves);
    return joined<Half>(join(halves[0], halves[1]), join);
  }
}
inline float sum(f32x16 v) { return joined(v, [](auto a, auto b) { return a + b; }); }
inline int32_t sum(i32x16 v) { return joined(v, [](auto a, auto b) { return a + b; }); }
inline float most(f32x16 v) { return joined(v, [](auto a, auto b) { return a > b ? a : b; }); }

inline float widen(uint16_t half) {
  uint32_t wide = (uint32_t)half << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

inline uint16_t narrow(float value) {  // to nearest, ties to even
  uint32_t wide;
  std::memcpy(&wide, &value, 4);
  if ((wide & 0x7fffffff) > 0x7f800000) return 0x7fc0;
  return (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
}

inline f32x16 wide(const float* from) { return load<f32x16>(from); }
inline f32x16 wide(const uint16_t* from) { return bits(__builtin_convertvector(load<u16x16>(from), i32x16) << 16); }
inline void put(float* to, float value) { *to = value; }
inline void put(uint16_t* to, float value) { *to = narrow(value); }
inline void put(float* to, f32x16 values) { store(to, values); }
inline void put(uint16_t* to, f32x16 values) {
  i32x16 v;
  std::memcpy(&v, &values, sizeof v);
  const i32x16 even = v + 0x7fff + ((v >> 16) & 1);
  store(to, __builtin_convertvector(((v & 0x7fffffff) > 0x7f800000 ? i32x16{} + 0x7fc00000 : even) >> 16, u16x16));
}

inline float widened(float value) { return value; }
inline float widened(uint16_t value) { return widen(value); }

// As torch rounds it, so that few rows and many differ little.
template <class T> inline float rounded(float value) {
  T to;
  return put(&to, value), widened(to);
}
template <class T> inline f32x16 rounded(f32x16 values) {
  T to[LANES];
  return put(to, values), wide(to);
}

// e^x for x <= 0 within some units of the last place: 2^n times a polynomial on +-ln 2 / 2 (Cephes).
inline f32x16 exponential(f32x16 x) {
  x = x < -87.0f ? f32x16{} - 87.0f : x;
  const i32x16 n = __builtin_convertvector(x * 1.44269504f - 0.5f, i32x16);  // towards zero: to nearest, as x <= 0
  const f32x16 whole = __builtin_convertvector(n, f32x16);
  const f32x16 r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  f32x16 p = f32x16{} + 1.9875691500e-4f;
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = p * r + c;
  return (p * r * r + r + 1.0f) * bits((n + 127) << 23);
}

}  // namespace polytask
