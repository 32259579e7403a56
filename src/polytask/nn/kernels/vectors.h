// What the kernels share: vectors, rounding to bfloat16, and threads.
//
// Vectors are GCC's and clang's own, 16 lanes wide; the compiler splits them where the machine has shorter ones.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>

namespace polytask {

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef int8_t i8x16 __attribute__((vector_size(16)));
typedef int16_t i16x16 __attribute__((vector_size(32)));

constexpr int64_t LANES = 16;
enum { FLOAT32, BFLOAT16 };  // of what goes in and comes out

template <class V> inline V load(const void* from) { V v; std::memcpy(&v, from, sizeof v); return v; }
template <class V> inline void store(void* to, V v) { std::memcpy(to, &v, sizeof v); }
inline f32x16 bits(i32x16 v) { f32x16 f; std::memcpy(&f, &v, sizeof f); return f; }
// Asks for what will be read soon: the machine's own guess does not keep its memory busy while it multiplies.
inline void ahead(const void* from) { __builtin_prefetch((const void*)((uintptr_t)from + 4096), 0, 2); }

inline float sum(f32x16 v) {
  typedef float f32x8 __attribute__((vector_size(32)));
  typedef float f32x4 __attribute__((vector_size(16)));
  f32x8 halves[2];
  std::memcpy(halves, &v, sizeof halves);
  const f32x8 eight = halves[0] + halves[1];
  f32x4 quarters[2];
  std::memcpy(quarters, &eight, sizeof quarters);
  const f32x4 four = quarters[0] + quarters[1];
  return (four[0] + four[2]) + (four[1] + four[3]);
}

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

typedef void (*Parallel)(void (*)(void*), void*, unsigned, unsigned);
inline Parallel parallel = nullptr;  // GOMP_parallel of the runtime that torch runs its own threads with

// Shares out `count` pieces among threads, a few at a time, so that a thread that is held up holds up nobody.
template <class F> void share(int64_t count, int64_t step, int threads, const F& work) {
  if (threads <= 1 || !parallel || count <= step) return work(0, count);
  struct Task { const F& work; int64_t count, step; std::atomic<int64_t> next; } task{work, count, step, {0}};
  parallel(
      [](void* given) {
        auto& t = *(Task*)given;
        for (int64_t start; (start = t.next.fetch_add(t.step)) < t.count;)
          t.work(start, start + t.step < t.count ? start + t.step : t.count);
      },
      &task, threads, 0);
}

}  // namespace polytask
