// Products of few rows by a large matrix, y = x W^T + bias: what decoding consists of.
//
// Such a product reads each weight once, so its time is that of the memory: weights are read in order, by all threads,
// and widened in registers. Only what is said for a kind of machine by name needs its instructions.

#include <cmath>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "vectors.h"

using namespace polytask;

namespace {

constexpr int64_t CHUNK = 32;        // columns that are widened, or scaled, together
constexpr int64_t GROUP = 128;       // rows that go through all weights together
constexpr int MOST = 8;              // rows that share one reading of weights in 4 bits
constexpr int64_t SHARE = 1 << 16;   // bytes of weights that a thread takes at a time

// Lane by lane: sum + w.low * x.low + w.high * x.high, of 16-bit halves.
inline i32x16 pairs(i32x16 sum, i32x16 w, i32x16 x) {
#if defined(__AVX512VNNI__)
  return (i32x16)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
#elif defined(__AVX512BW__)
  return sum + (i32x16)_mm512_madd_epi16((__m512i)w, (__m512i)x);
#elif defined(__AVX2__)
  __m256i a[2], b[2], c[2];
  std::memcpy(a, &w, 64), std::memcpy(b, &x, 64);
  c[0] = _mm256_madd_epi16(a[0], b[0]), c[1] = _mm256_madd_epi16(a[1], b[1]);
  return sum + load<i32x16>(c);
#else
  return sum + ((w << 16) >> 16) * ((x << 16) >> 16) + (w >> 16) * (x >> 16);
#endif
}

// What the functions below are called with; `kernels/library.py` has the same.
struct Call {
  const void *x, *weight, *scales, *bias;
  void* y;
  int64_t rows, in, out;
  const void *norm_scale, *norm_bias;
  float eps, offset;
  int32_t norm, threads, kind;  // kind of x, biases, norm and y: FLOAT32 or BFLOAT16
};
enum { NONE, LAYER, RMS };

inline float value(const void* from, int64_t i, int kind) {
  return kind == BFLOAT16 ? widen(((const uint16_t*)from)[i]) : ((const float*)from)[i];
}

inline void write(const Call& c, int64_t row, int64_t o, float y, const void* scale = nullptr) {
  if (scale) y *= ((const float*)scale)[o];
  if (c.bias) y += value(c.bias, o, c.kind);
  if (c.kind == BFLOAT16) ((uint16_t*)c.y)[row * c.out + o] = narrow(y);
  else ((float*)c.y)[row * c.out + o] = y;
}

// A row whose end is filled up with zeros, in place.
void normalize(const Call& c, float* x, int64_t padded) {
  f32x16 total = {}, squares = {};
  if (c.norm == LAYER) {
    for (int64_t i = 0; i < padded; i += LANES) total += load<f32x16>(x + i);
    const float mean = sum(total) / c.in;
    for (int64_t i = 0; i < c.in; i++) x[i] -= mean;
  }
  for (int64_t i = 0; i < padded; i += LANES) squares += load<f32x16>(x + i) * load<f32x16>(x + i);
  const float inverse = 1 / std::sqrt(sum(squares) / c.in + c.eps);
  for (int64_t i = 0; i < c.in; i++) x[i] *= inverse * (c.norm_scale ? value(c.norm_scale, i, c.kind) + c.offset : 1);
  if (c.norm_bias)
    for (int64_t i = 0; i < c.in; i++) x[i] += value(c.norm_bias, i, c.kind);
  if (c.kind == BFLOAT16)  // as torch rounds it, so that few rows and many differ little
    for (int64_t i = 0; i < c.in; i++) x[i] = widen(narrow(x[i]));
}

// A row of x in float32, filled up with zeros to whole chunks.
void widen_row(const Call& c, int64_t row, int64_t padded, float* to) {
  const int64_t start = row * c.in;
  if (c.kind == BFLOAT16) {
    const uint16_t* x = (const uint16_t*)c.x + start;
    for (int64_t i = 0; i < c.in; i++) to[i] = widen(x[i]);
  } else {
    std::memcpy(to, (const float*)c.x + start, c.in * sizeof(float));
  }
  std::memset(to + c.in, 0, (padded - c.in) * sizeof(float));
  if (c.norm != NONE) normalize(c, to, padded);
}

// ---- weights in float32, bfloat16 or whole numbers of 8 bits with a scale for each output, a row an output

inline void both(const float* w, f32x16& first, f32x16& second) {
  first = load<f32x16>(w), second = load<f32x16>(w + LANES);
}
inline f32x16 whole(const int8_t* w) {
#if defined(__AVX512F__)  // which GCC 12 does not find by itself
  return (f32x16)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load<__m128i>(w)));
#else
  const i16x16 half = __builtin_convertvector(load<i8x16>(w), i16x16);
  return __builtin_convertvector(__builtin_convertvector(half, i32x16), f32x16);
#endif
}
inline void both(const int8_t* w, f32x16& first, f32x16& second) { first = whole(w), second = whole(w + LANES); }
inline void both(const uint16_t* w, f32x16& even, f32x16& odd) {  // two of bfloat16 in each 32 bits
  const i32x16 v = load<i32x16>(w);
  even = bits(v << 16), odd = bits(v & (int32_t)0xffff0000);
}

// Puts each chunk of x in the order in which `both` gives the weights.
template <class W> inline void order(const W*, float*, int64_t) {}
inline void order(const uint16_t*, float* x, int64_t padded) {
  float chunk[CHUNK];
  for (int64_t c = 0; c < padded; c += CHUNK) {
    for (int i = 0; i < LANES; i++) chunk[i] = x[c + 2 * i], chunk[LANES + i] = x[c + 2 * i + 1];
    std::memcpy(x + c, chunk, sizeof chunk);
  }
}

// R rows of x with O outputs, in U sums for each that do not wait for each other.
template <class W, int R, int O, int U> void dense_block(const Call& c, const float* x, int64_t padded, int64_t row, int64_t o) {
  const W* w = (const W*)c.weight + o * c.in;
  f32x16 sums[U][O][R] = {};
  const auto add = [&](f32x16 (&sum)[R], const W* from, int64_t i) {
    ahead(from);
    f32x16 a, b;
    both(from, a, b);
    for (int r = 0; r < R; r++) sum[r] += a * load<f32x16>(x + r * padded + i);
    for (int r = 0; r < R; r++) sum[r] += b * load<f32x16>(x + r * padded + i + LANES);
  };
  int64_t i = 0;
  for (; i + U * CHUNK <= c.in; i += U * CHUNK)
    for (int u = 0; u < U; u++)
      for (int j = 0; j < O; j++) add(sums[u][j], w + j * c.in + i + u * CHUNK, i + u * CHUNK);
  for (; i < c.in; i += CHUNK)
    for (int j = 0; j < O; j++) {
      W rest[CHUNK] = {};
      std::memcpy(rest, w + j * c.in + i, (c.in - i < CHUNK ? c.in - i : CHUNK) * sizeof(W));
      add(sums[0][j], rest, i);
    }
  for (int j = 0; j < O; j++)
    for (int r = 0; r < R; r++) {
      for (int u = 1; u < U; u++) sums[0][j][r] += sums[u][j][r];
      write(c, row + r, o + j, sum(sums[0][j][r]), c.scales);
    }
}

// Rows of weights one after another where the memory is to be kept busy, four at once where the products are.
template <class W, int R> void dense_rows(const Call& c, const float* x, int64_t padded, int64_t row, int64_t o, int64_t end) {
  constexpr int O = R <= 2 ? 1 : 4;
  for (; o + O <= end; o += O) dense_block<W, R, O, R <= 2 ? 4 / R : 1>(c, x, padded, row, o);
  for (; o < end; o++) dense_block<W, R, 1, 1>(c, x, padded, row, o);
}

template <class W> void few(const Call& c, const float* x, int64_t padded) {
  typedef void (*Rows)(const Call&, const float*, int64_t, int64_t, int64_t, int64_t);
  static constexpr Rows by_count[4] = {dense_rows<W, 1>, dense_rows<W, 2>, dense_rows<W, 3>, dense_rows<W, 4>};
  const int64_t step = (SHARE / (c.in * (int64_t)sizeof(W)) + 4) / 4 * 4;
  share(c.out, step, c.threads, [&](int64_t start, int64_t end) { by_count[c.rows - 1](c, x, padded, 0, start, end); });
}

// ---- the same for up to 64 rows, which lie side by side in V vectors: each weight is multiplied by all of them at once

// x (rows, padded) as (padded, V, 16); what lies beside the rows is never looked at.
void aside(const Call& c, const float* x, int64_t padded, int64_t width, float* to) {
  share(padded / LANES, 4, c.threads, [&](int64_t start, int64_t end) {
    for (int64_t r = 0; r < c.rows; r++)
      for (int64_t i = start * LANES; i < end * LANES; i++) to[i * width + r] = x[r * padded + i];
  });
}

template <class W, int V, int O> void wide_block(const Call& c, const float* x, int64_t o) {
  const W* w = (const W*)c.weight + o * c.in;
  constexpr int64_t EACH = O * sizeof(W);  // bytes of weights for each column
  const char* next = (const char*)(w + O * c.in);  // comes from the memory while these are multiplied
  f32x16 sums[O][V] = {};
  for (int64_t k = 0; k < c.in; k += CHUNK) {
    float wide[O][CHUNK];
    const int64_t count = c.in - k < CHUNK ? c.in - k : CHUNK;
    for (int j = 0; j < O; j++) {
      W rest[CHUNK] = {};
      const W* from = w + j * c.in + k;
      if (count < CHUNK) std::memcpy(rest, from, count * sizeof(W)), from = rest;
      f32x16 a, b;
      both(from, a, b);
      store(wide[j], a), store(wide[j] + LANES, b);
    }
    for (int i = 0; i < CHUNK; i++, next += EACH) {
      for (int64_t p = 0; p < EACH; p += 48) __builtin_prefetch(next + p, 0, 2);
      f32x16 rows[V];
      for (int v = 0; v < V; v++) rows[v] = load<f32x16>(x + ((k + i) * V + v) * LANES);
      for (int j = 0; j < O; j++)
        for (int v = 0; v < V; v++) sums[j][v] += rows[v] * wide[j][i];
    }
  }
  float y[O][V * LANES], scale[O], bias[O];
  std::memcpy(y, sums, sizeof y);
  for (int j = 0; j < O; j++) {
    scale[j] = c.scales ? ((const float*)c.scales)[o + j] : 1;
    bias[j] = c.bias ? value(c.bias, o + j, c.kind) : 0;
  }
  const int64_t count = c.rows, line = c.out;
  if (c.kind == BFLOAT16) {
    uint16_t* to = (uint16_t*)c.y + o;
    for (int64_t r = 0; r < count; r++)
      for (int j = 0; j < O; j++) to[r * line + j] = narrow(y[j][r] * scale[j] + bias[j]);
  } else {
    float* to = (float*)c.y + o;
    for (int64_t r = 0; r < count; r++)
      for (int j = 0; j < O; j++) to[r * line + j] = y[j][r] * scale[j] + bias[j];
  }
}

template <class W, int V> void many(const Call& c, const float* rows, int64_t padded) {
  constexpr int O = V == 1 ? 16 : 24 / V;
  static thread_local std::vector<float> room;
  room.resize(padded * V * LANES);
  aside(c, rows, padded, V * LANES, room.data());
  const float* x = room.data();
  const int64_t step = (c.out / (8 * c.threads) / O + 1) * O;
  share(c.out, step, c.threads, [&](int64_t o, int64_t end) {
    for (; o + O <= end; o += O) wide_block<W, V, O>(c, x, o);
    for (; o < end; o++) wide_block<W, V, 1>(c, x, o);
  });
}

template <class W> void dense(const Call& c) {
  const int64_t padded = (c.in + CHUNK - 1) / CHUNK * CHUNK;
  static thread_local std::vector<float> room;
  room.resize(c.rows * padded);
  for (int64_t r = 0; r < c.rows; r++) {
    widen_row(c, r, padded, room.data() + r * padded);
    order((const W*)nullptr, room.data() + r * padded, padded);
  }
  typedef void (*Rows)(const Call&, const float*, int64_t);
  static constexpr Rows by_vectors[5] = {few<W>, many<W, 1>, many<W, 2>, many<W, 3>, many<W, 4>};
  by_vectors[c.rows <= 4 ? 0 : (c.rows + LANES - 1) / LANES](c, room.data(), padded);
}

// ---- weights of 4 bits, in tiles of 16 outputs, one a lane; x in 16 bits with a scale for each chunk of a row

struct Fixed {
  std::vector<int32_t> values;  // (rows, chunks, 16) pairs of 16 bits
  std::vector<float> scales;    // (rows, chunks)
  std::vector<int32_t> sums;    // (rows, chunks) of the 16-bit values
  int64_t chunks;
};

void fix(const Call& c, Fixed& fixed) {
  fixed.chunks = (c.in + CHUNK - 1) / CHUNK;
  const int64_t padded = fixed.chunks * CHUNK;
  fixed.values.resize(c.rows * padded / 2), fixed.scales.resize(c.rows * fixed.chunks), fixed.sums.resize(c.rows * fixed.chunks);
  static thread_local std::vector<float> wide;
  wide.resize(padded);
  for (int64_t r = 0; r < c.rows; r++) {
    widen_row(c, r, padded, wide.data());
    for (int64_t k = 0; k < fixed.chunks; k++) {
      const float* x = wide.data() + k * CHUNK;
      int16_t* to = (int16_t*)(fixed.values.data() + (r * fixed.chunks + k) * LANES);
      float most = 0;
      for (int i = 0; i < CHUNK; i++) most = std::fabs(x[i]) > most ? std::fabs(x[i]) : most;
      const float scale = most / 32767, inverse = most > 0 ? 32767 / most : 0;
      int32_t total = 0;
      for (int i = 0; i < CHUNK; i++) {
        const float v = x[i] * inverse;
        const int32_t q = (int32_t)(v + (v < 0 ? -0.5f : 0.5f));
        to[i] = (int16_t)q, total += q;
      }
      fixed.scales[r * fixed.chunks + k] = scale, fixed.sums[r * fixed.chunks + k] = total;
    }
  }
}

// weight (tiles, columns / 8, 16 outputs), 8 in 32 bits, kept plus 8; scales (tiles, chunks, 16 outputs) in bfloat16
template <int R> void tile_rows(const Call& c, const Fixed& x, int64_t row, int64_t tile) {
  constexpr int U = R == 1 ? 4 : R <= 3 ? 2 : 1;  // sums that do not wait for each other
  f32x16 y[R] = {};
  const int32_t* w = (const int32_t*)c.weight + tile * x.chunks * 4 * LANES;
  const uint16_t* scales = (const uint16_t*)c.scales + tile * x.chunks * LANES;
  for (int64_t k = 0; k < x.chunks; k++, w += 4 * LANES, scales += LANES) {
    const int64_t at = row * x.chunks + k;
    i32x16 sums[R][U] = {};
    for (int r = 0; r < R; r++) sums[r][0] -= 8 * x.sums[at + r * x.chunks];
    for (int q = 0; q < 4; q++) {
      ahead(w + q * LANES);
      const i32x16 packed = load<i32x16>(w + q * LANES);
      for (int p = 0; p < 4; p++) {
        const i32x16 wide = (packed >> (4 * p)) & 0x000f000f;
        for (int r = 0; r < R; r++)
          sums[r][p % U] = pairs(sums[r][p % U], wide, i32x16{} + x.values[(at + r * x.chunks) * LANES + 4 * q + p]);
      }
    }
    const f32x16 scale = bits((i32x16)__builtin_convertvector(load<u16x16>(scales), i32x16) << 16);
    for (int r = 0; r < R; r++) {
      for (int u = 1; u < U; u++) sums[r][0] += sums[r][u];
      y[r] += __builtin_convertvector(sums[r][0], f32x16) * (scale * x.scales[at + r * x.chunks]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int i = 0; i < LANES && tile * LANES + i < c.out; i++) write(c, row + r, tile * LANES + i, y[r][i]);
}

void int4_rows(const Call& c) {
  static thread_local Fixed room;
  fix(c, room);
  const Fixed& x = room;
  typedef void (*Rows)(const Call&, const Fixed&, int64_t, int64_t);
  static constexpr Rows by_count[MOST] = {tile_rows<1>, tile_rows<2>, tile_rows<3>, tile_rows<4>,
                                          tile_rows<5>, tile_rows<6>, tile_rows<7>, tile_rows<8>};
  const int64_t tiles = (c.out + LANES - 1) / LANES, step = SHARE / (x.chunks * CHUNK * LANES / 2) + 1;
  share(tiles, step, c.threads, [&](int64_t start, int64_t end) {
    for (int64_t tile = start; tile < end; tile++)
      for (int64_t r = 0; r < c.rows; r += MOST) by_count[(c.rows - r < MOST ? c.rows - r : MOST) - 1](c, x, r, tile);
  });
}

void int4(const Call& c) {
  for (int64_t r = 0; r < c.rows; r += GROUP) {  // whose fixed numbers stay in the cache
    Call part = c;
    const int64_t size = c.kind == BFLOAT16 ? 2 : 4;
    part.x = (const char*)c.x + r * c.in * size, part.y = (char*)c.y + r * c.out * size;
    part.rows = c.rows - r < GROUP ? c.rows - r : GROUP;
    int4_rows(part);
  }
}

// A sum over memory, read as the products read it.
int64_t read(const int64_t* memory, int64_t count, int threads) {
  typedef int64_t i64x8 __attribute__((vector_size(64)));
  std::atomic<int64_t> total{0};
  share(count / 32, SHARE / 256, threads, [&](int64_t start, int64_t end) {
    i64x8 sums[4] = {};
    for (int64_t i = start; i < end; i++)
      for (int j = 0; j < 4; j++) sums[j] += load<i64x8>(memory + 32 * i + 8 * j);
    int64_t own = 0;
    for (int j = 0; j < 32; j++) own += sums[j / 8][j % 8];
    total += own;
  });
  return total;
}

}  // namespace

extern "C" {
void polytask_threads(void* gomp_parallel) { parallel = (Parallel)gomp_parallel; }
void polytask_float32(const Call* c) { dense<float>(*c); }
void polytask_bfloat16(const Call* c) { dense<uint16_t>(*c); }
void polytask_int8(const Call* c) { dense<int8_t>(*c); }
void polytask_int4(const Call* c) { int4(*c); }
int64_t polytask_read(const void* memory, int64_t count, int32_t threads) { return read((const int64_t*)memory, count, threads); }
}
