// What the kernels share: vectors of 16 lanes, and rounding to bfloat16.
//
// A vector is as many of the machine's own as it takes. Compilers know longer ones than the machine has, too, but GCC
// keeps those in memory, which is up to fifty times as slow.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace polytask {

constexpr int LANES = 16;
#if defined(__AVX512F__)
constexpr int OWN = 16, ROOM = 32;  // numbers of 32 bits in a register, and vectors of 16 in all of them
#elif defined(__AVX2__)
constexpr int OWN = 8, ROOM = 8;
#elif defined(__aarch64__)
constexpr int OWN = 4, ROOM = 8;
#else
constexpr int OWN = 4, ROOM = 4;
#endif

#define POLYTASK_INLINE __attribute__((always_inline)) inline  // what returns a vector would else do so by the memory

template <class E> struct Vector {
  typedef E Part __attribute__((vector_size(OWN * sizeof(E))));
  static constexpr int PARTS = LANES / OWN;
  Part parts[PARTS];

  Vector() = default;
  POLYTASK_INLINE Vector(E all) {
    for (int p = 0; p < PARTS; p++) parts[p] = all - Part{};
  }
  E operator[](int64_t i) const { return parts[i / OWN][i % OWN]; }
  POLYTASK_INLINE Vector operator-() const {
    Vector v;
    for (int p = 0; p < PARTS; p++) v.parts[p] = -parts[p];
    return v;
  }
#define POLYTASK_OPERATOR(sign)                                              \
  POLYTASK_INLINE friend Vector operator sign(Vector a, Vector b) {          \
    for (int p = 0; p < PARTS; p++) a.parts[p] = a.parts[p] sign b.parts[p]; \
    return a;                                                                \
  }                                                                          \
  POLYTASK_INLINE Vector& operator sign##=(Vector b) { return *this = *this sign b; }
  POLYTASK_OPERATOR(+)
  POLYTASK_OPERATOR(-)
  POLYTASK_OPERATOR(*)
  POLYTASK_OPERATOR(/)
  POLYTASK_OPERATOR(&)
  POLYTASK_OPERATOR(|)
  POLYTASK_OPERATOR(<<)
  POLYTASK_OPERATOR(>>)
#undef POLYTASK_OPERATOR
};

typedef Vector<float> f32x16;
typedef Vector<int32_t> i32x16;
typedef Vector<uint32_t> u32x16;
typedef Vector<uint16_t> u16x16;
typedef Vector<int16_t> i16x16;
typedef Vector<int8_t> i8x16;

// All ones in the lanes where it holds, of numbers of 32 bits.
template <class E> POLYTASK_INLINE i32x16 less(Vector<E> a, Vector<E> b) {
  i32x16 v;
  for (int p = 0; p < v.PARTS; p++) v.parts[p] = a.parts[p] < b.parts[p];
  return v;
}
POLYTASK_INLINE i32x16 operator<(f32x16 a, f32x16 b) { return less(a, b); }
POLYTASK_INLINE i32x16 operator>(f32x16 a, f32x16 b) { return less(b, a); }
POLYTASK_INLINE i32x16 operator<(i32x16 a, i32x16 b) { return less(a, b); }
POLYTASK_INLINE i32x16 operator>(i32x16 a, i32x16 b) { return less(b, a); }
template <class E> POLYTASK_INLINE Vector<E> pick(i32x16 where, Vector<E> yes, std::common_type_t<Vector<E>> no) {
  for (int p = 0; p < yes.PARTS; p++) yes.parts[p] = where.parts[p] ? yes.parts[p] : no.parts[p];
  return yes;
}
POLYTASK_INLINE f32x16 larger(f32x16 a, f32x16 b) { return pick(a > b, a, b); }
POLYTASK_INLINE f32x16 magnitude(f32x16 x) { return pick(x < 0, -x, x); }

// The same numbers as another type, and the same bits.
template <class To, class E> POLYTASK_INLINE To convert(Vector<E> from) {
  To v;
  for (int p = 0; p < v.PARTS; p++) v.parts[p] = __builtin_convertvector(from.parts[p], typename To::Part);
  return v;
}
template <class To, class E> POLYTASK_INLINE To bits(Vector<E> from) {
  To v;
  for (int p = 0; p < v.PARTS; p++) v.parts[p] = (typename To::Part)from.parts[p];
  return v;
}

template <class V> POLYTASK_INLINE V load(const void* from) {
  V v;
  if constexpr (std::is_class_v<V>)
    for (int p = 0; p < V::PARTS; p++) std::memcpy(&v.parts[p], (const char*)from + p * sizeof v.parts[p], sizeof v.parts[p]);
  else std::memcpy(&v, from, sizeof v);
  return v;
}
template <class E> POLYTASK_INLINE void store(void* to, Vector<E> v) {
  for (int p = 0; p < v.PARTS; p++) std::memcpy((char*)to + p * sizeof v.parts[p], &v.parts[p], sizeof v.parts[p]);
}

// Whether what is read once is best led past the second cache: on AMD's fifth Zen, which alone of them has this instruction
// (compilers older than it take it for a third one). Elsewhere that costs a fifth to a half of the speed.
#if defined(__AVX512VP2INTERSECT__) && (defined(__znver3__) || defined(__znver4__) || defined(__znver5__))
constexpr bool PAST = true;
#else
constexpr bool PAST = false;
#endif

// Asks for what will be read soon: the machine's own guess does not keep its memory busy while it multiplies. FAST: it is
// multiplied as fast as it comes.
template <bool FAST> inline void ahead(const void* from) {
  if (FAST && PAST) __builtin_prefetch((const void*)((uintptr_t)from + 1024), 0, 0);
  else __builtin_prefetch((const void*)((uintptr_t)from + 4096), 0, 2);
}

// One of all lanes: half of them and the other half become one, until a single one is left.
template <class V, class F> inline auto halved(V v, const F& join) {
  constexpr int count = sizeof(V) / sizeof(v[0]);
  if constexpr (count == 2) {
    return join(v[0], v[1]);
  } else {
    typedef decltype(v[0] + 0) Number;
    typedef Number Half __attribute__((vector_size(sizeof(V) / 2)));
    Half halves[2];
    std::memcpy(halves, &v, sizeof halves);
    return halved<Half>(join(halves[0], halves[1]), join);
  }
}
template <class E, class F> inline E joined(Vector<E> v, const F& join) {
  for (int p = 1; p < v.PARTS; p++) v.parts[0] = join(v.parts[0], v.parts[p]);
  return halved(v.parts[0], join);
}
inline float sum(f32x16 v) { return joined(v, [](auto a, auto b) { return a + b; }); }
inline int32_t sum(i32x16 v) { return joined(v, [](auto a, auto b) { return a + b; }); }
inline float most(f32x16 v) { return joined(v, [](auto a, auto b) { return a > b ? a : b; }); }

// The sums of OWN vectors, a lane each. Of a pair one keeps the first H of every 2 H lanes and the other the rest.
template <int H, int... I> POLYTASK_INLINE f32x16::Part folded(f32x16::Part a, f32x16::Part b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (I / H % 2 ? OWN + I - H : I)...) + __builtin_shufflevector(a, b, (I / H % 2 ? OWN + I : I + H)...);
}
template <int H = OWN / 2> POLYTASK_INLINE f32x16::Part sums(f32x16::Part (&v)[OWN]) {
  for (int i = 0; i < H; i++) v[i] = folded<H>(v[i], v[i + H], std::make_integer_sequence<int, OWN>());
  if constexpr (H > 1) return sums<H / 2>(v);
  return v[0];
}

// Rows become columns: halves of H lanes change places between rows that lie H apart, for H = 8, 4, 2, 1.
template <class Part, int H, int... I> POLYTASK_INLINE void crossed(Part& a, Part& b, std::integer_sequence<int, I...>) {
  const Part first = __builtin_shufflevector(a, b, (I / H % 2 ? OWN + I - H : I)...);
  b = __builtin_shufflevector(a, b, (I / H % 2 ? OWN + I : I + H)...), a = first;
}
template <int H = LANES / 2, class E> POLYTASK_INLINE void transpose(Vector<E> (&v)[LANES]) {
  typedef typename Vector<E>::Part Part;
  for (int i = 0; i < LANES; i++) {
    if (i / H % 2) continue;
    if constexpr (H < OWN)
      for (int p = 0; p < Vector<E>::PARTS; p++)
        crossed<Part, H>(v[i].parts[p], v[i + H].parts[p], std::make_integer_sequence<int, OWN>());
    else
      for (int p = 0; p < Vector<E>::PARTS; p++)
        if (p * OWN / H % 2 == 0) std::swap(v[i].parts[p + H / OWN], v[i + H].parts[p]);
  }
  if constexpr (H > 1) transpose<H / 2>(v);
}

#if defined(__AVX512BF16__)
constexpr bool HALVES = true;  // whether two products of bfloat16 are one instruction
inline f32x16 dot(f32x16 sum, i32x16 x, i32x16 w) {
  sum.parts[0] = (f32x16::Part)_mm512_dpbf16_ps((__m512)sum.parts[0], (__m512bh)(__m512i)x.parts[0], (__m512bh)(__m512i)w.parts[0]);
  return sum;
}
#else
constexpr bool HALVES = false;
inline f32x16 dot(f32x16 sum, i32x16, i32x16) { return sum; }
#endif

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

POLYTASK_INLINE f32x16 wide(const float* from) { return load<f32x16>(from); }
POLYTASK_INLINE f32x16 wide(const uint16_t* from) {
#if defined(__AVX512F__)  // which GCC 12 does not find by itself
  i32x16 v;
  v.parts[0] = (i32x16::Part)_mm512_cvtepu16_epi32(load<__m256i>(from));
#else
  const i32x16 v = convert<i32x16>(load<u16x16>(from));
#endif
  return bits<f32x16>(v << 16);
}
inline void put(float* to, float value) { *to = value; }
inline void put(uint16_t* to, float value) { *to = narrow(value); }
POLYTASK_INLINE void put(float* to, f32x16 values) { store(to, values); }
POLYTASK_INLINE void put(uint16_t* to, f32x16 values) {
#if defined(__AVX512BF16__)
  const auto halves = _mm512_cvtneps_pbh((__m512)values.parts[0]);
  std::memcpy(to, &halves, sizeof halves);
#else
  const i32x16 v = bits<i32x16>(values), even = v + 0x7fff + ((v >> 16) & 1);
  store(to, convert<u16x16>(pick((v & 0x7fffffff) > 0x7f800000, i32x16(0x7fc00000), even) >> 16));
#endif
}

inline float widened(float value) { return value; }
inline float widened(uint16_t value) { return widen(value); }

// As torch rounds it, so that few rows and many differ little.
template <class T> inline float rounded(float value) {
  T to;
  return put(&to, value), widened(to);
}
template <class T> POLYTASK_INLINE f32x16 rounded(f32x16 values) {
  T to[LANES];
  return put(to, values), wide(to);
}

// e^x for x <= 0 within some units of the last place: 2^n times a polynomial on +-ln 2 / 2 (Cephes).
POLYTASK_INLINE f32x16 exponential(f32x16 x) {
  x = larger(x, -87);
  const i32x16 n = convert<i32x16>(x * 1.44269504f - 0.5f);  // towards zero: to nearest, as x <= 0
  const f32x16 whole = convert<f32x16>(n);
  const f32x16 r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  f32x16 p = 1.9875691500e-4f;
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = p * r + c;
  return (p * r * r + r + 1) * bits<f32x16>((n + 127) << 23);
}

// f(n) with n, at least 1, as a number that the compiler knows; f(N) where it is more.
template <int N, class F> inline void known(int64_t n, const F& f) {
  if constexpr (N > 1)
    if (n < N) return known<N - 1>(n, f);
  f(std::integral_constant<int, N>{});
}

}  // namespace polytask
