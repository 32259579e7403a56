// Products of few rows by a large matrix, y = x W^T + bias: what decoding consists of.
//
// Such a product reads each weight once, so its time is that of the memory: weights are read in order, by all threads,
// and widened in registers. Only what is said for a kind of machine by name needs its instructions.

#include <cmath>

#include "tiles.h"

using namespace polytask;

namespace {

constexpr int64_t FEW = 4;           // rows that each thread prepares for itself
constexpr int64_t GROUP = 128;       // rows that go through all weights together
constexpr int MOST = ROOM / 4;       // rows that share one reading of weights in 4 bits
constexpr int64_t SHARE = 1 << 15;   // bytes of weights that a thread takes at least

// Lane by lane: sum + w.low * x.low + w.high * x.high, of 16-bit halves.
inline i32x16 pairs(i32x16 sum, i32x16 w, i32x16 x) {
  typedef i32x16::Part Part;
  for (int p = 0; p < sum.PARTS; p++) {
    Part& part = sum.parts[p];
    const Part a = w.parts[p], b = x.parts[p];
#if defined(__AVX512VNNI__)
    part = (Part)_mm512_dpwssd_epi32((__m512i)part, (__m512i)a, (__m512i)b);
#elif defined(__AVX512BW__)
    part += (Part)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVXVNNI__) && !defined(__AVX512F__)
    part = (Part)_mm256_dpwssd_avx_epi32((__m256i)part, (__m256i)a, (__m256i)b);
#elif defined(__AVX2__) && !defined(__AVX512F__)
    part += (Part)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
    part += ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#endif
  }
  return sum;
}

// ---- weights in float32, bfloat16 or whole numbers of 8 bits with a scale for each output, a row an output

inline void both(const float* w, f32x16& first, f32x16& second) {
  first = load<f32x16>(w), second = load<f32x16>(w + LANES);
}
inline f32x16 whole(const int8_t* w) {
#if defined(__AVX2__)  // which GCC 12 does not find by itself
  f32x16 v;
  for (int p = 0; p < v.PARTS; p++) {
#if defined(__AVX512F__)
    v.parts[p] = (f32x16::Part)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load<__m128i>(w)));
#else
    v.parts[p] = (f32x16::Part)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(w + p * OWN))));
#endif
  }
  return v;
#else
  return convert<f32x16>(convert<i32x16>(convert<i16x16>(load<i8x16>(w))));
#endif
}
inline void both(const int8_t* w, f32x16& first, f32x16& second) { first = whole(w), second = whole(w + LANES); }
inline void both(const uint16_t* w, f32x16& even, f32x16& odd) {  // two of bfloat16 in each 32 bits
  const i32x16 v = load<i32x16>(w);
  even = bits<f32x16>(v << 16), odd = bits<f32x16>(v & (int32_t)0xffff0000);
}

// Puts x in the order in which `both` gives the weights or, with PAIRS, in bfloat16.
template <class W, bool PAIRS> inline void order(float* x, int64_t padded) {
  if (sizeof(W) != 2) return;
  float chunk[CHUNK];
  for (int64_t c = 0; c < padded; c += CHUNK) {
    if (PAIRS) {
      for (int i = 0; i < CHUNK; i += LANES) put((uint16_t*)x + c + i, load<f32x16>(x + c + i));
      continue;
    }
    for (int i = 0; i < LANES; i++) chunk[i] = x[c + 2 * i], chunk[LANES + i] = x[c + 2 * i + 1];
    std::memcpy(x + c, chunk, sizeof chunk);
  }
}

// R rows of x with O outputs, in U sums for each that do not wait for each other.
template <class W, bool PAIRS, int R, int O, int U>
void dense_block(const Product& c, const float* x, int64_t padded, int64_t o) {
  const W* w = (const W*)c.weight + o * c.in;
  f32x16 sums[U][O][R] = {};
  const auto add = [&](f32x16 (&sum)[R], const W* from, int64_t i) {
    ahead<R == 1>(from);
    if constexpr (PAIRS) {
      const i32x16 pairs = load<i32x16>(from);
      for (int r = 0; r < R; r++) sum[r] = dot(sum[r], load<i32x16>((const uint16_t*)(x + r * padded) + i), pairs);
    } else {
      f32x16 a, b;
      both(from, a, b);
      for (int r = 0; r < R; r++) sum[r] += a * load<f32x16>(x + r * padded + i);
      for (int r = 0; r < R; r++) sum[r] += b * load<f32x16>(x + r * padded + i + LANES);
    }
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
      write(c, r, o + j, sum(sums[0][j][r]), c.scales);
    }
}

// Rows of weights one after another where the memory is to be kept busy, four at once where the products are.
template <class W, bool PAIRS, int R> void dense_rows(const Product& c, const float* x, int64_t padded, int64_t o, int64_t end) {
  constexpr int O = ROOM < 32 || PAIRS || R <= 2 ? 1 : 4, U = R == 1 ? 4 : (PAIRS && ROOM == 32) || R == 2 ? 2 : 1;
  for (; o + O <= end; o += O) dense_block<W, PAIRS, R, O, U>(c, x, padded, o);
  for (; o < end; o++) dense_block<W, PAIRS, R, 1, 1>(c, x, padded, o);
}

template <class W, bool PAIRS> void few(const Product& c, int64_t padded, Team& team) {
  float* x = team.own(c.rows * padded);
  for (int64_t r = 0; r < c.rows; r++) {
    widen_row(c, r, padded, x + r * padded);
    order<W, PAIRS>(x + r * padded, padded);
  }
  const int64_t least = (SHARE / (c.in * (int64_t)sizeof(W)) + 4) / 4 * 4;
  team.share(c.out, least, [&](int64_t start, int64_t end) {
    known<FEW>(c.rows, [&](auto rows) { dense_rows<W, PAIRS, rows>(c, x, padded, start, end); });
  });
}

// ---- the same for up to 64 rows, which lie side by side in groups of V vectors: each weight is multiplied by a group at
// once, by all of them where registers have room for their sums

// A chunk of weights as pairs of bfloat16, which hold whole numbers of 8 bits exactly.
inline const void* paired(const uint16_t* w, int32_t*) { return w; }
inline const void* paired(const float* w, int32_t*) { return w; }  // never
inline const void* paired(const int8_t* w, int32_t* to) {
  const i32x16 both = convert<i32x16>(load<u16x16>(w));
  const u32x16 even = bits<u32x16>(convert<f32x16>((both << 24) >> 24)), odd = bits<u32x16>(convert<f32x16>((both << 16) >> 24));
  store(to, (even >> 16) | (odd & 0xffff0000u));
  return to;
}

// x (rows, padded) as (groups, padded, width) or, of pairs, as (groups, padded / 2, width), with zeros beside the rows.
template <bool PAIRS> void aside(const Product& c, const float* x, int64_t padded, int64_t groups, int64_t width, float* to, Team& team) {
  const int64_t lines = PAIRS ? padded / 2 : padded;
  team.share(padded / CHUNK, 2, [&](int64_t start, int64_t end) {
    for (int64_t g = 0; g < groups; g++)
      for (int64_t i = start * CHUNK; i < end * CHUNK; i += PAIRS ? 2 : 1) {
        float* line = to + (g * lines + (PAIRS ? i / 2 : i)) * width;
        for (int64_t r = 0; r < width; r++) {
          const float* from = x + (g * width + r) * padded + i;
          if (g * width + r >= c.rows) line[r] = 0;
          else if (PAIRS) ((uint32_t*)line)[r] = narrow(from[0]) | (uint32_t)narrow(from[1]) << 16;
          else line[r] = *from;
        }
      }
  });
}

template <class T, int V, int O> void write_block(const Product& c, const float (&y)[O][V * LANES], int64_t row, int64_t o) {
  float scale[O], bias[O];
  for (int j = 0; j < O; j++) {
    scale[j] = c.scales ? ((const float*)c.scales)[o + j] : 1;
    bias[j] = c.bias ? value(c.bias, o + j, c.kind) : 0;
  }
  for (int64_t r = 0; r < V * LANES && row + r < c.rows; r++) {
    const int64_t at = (row + r) * c.out + o;
    T *to = (T*)c.y + at, line[O];
    for (int j = 0; j < O; j++) put(line + j, y[j][r] * scale[j] + bias[j]);
    if (c.onto)
      for (int j = 0; j < O; j++) put(line + j, widened(line[j]) + widened(((const T*)c.onto)[at + j]));
    std::memcpy(to, line, sizeof line);
  }
}

template <class W, int V, int O, bool PAIRS> void wide_block(const Product& c, const float* x, int64_t row, int64_t o) {
  const W* w = (const W*)c.weight + o * c.in;
  constexpr int64_t LINES = O * CHUNK * sizeof(W) / 64, STEPS = PAIRS ? CHUNK / 2 : CHUNK;
  const char* next = (const char*)(w + O * c.in);  // comes from the memory while these are multiplied
  f32x16 sums[O][V] = {};
  for (int64_t k = 0; k < c.in; k += CHUNK, next += 64 * LINES, x += STEPS * V * LANES) {
    float wide[O][CHUNK];
    const int32_t* pairs[O];
    W rest[O][CHUNK];
    for (int j = 0; j < O; j++) {
      const W* from = w + j * c.in + k;
      if (c.in - k < CHUNK) {
        std::memset(rest[j], 0, sizeof rest[j]), std::memcpy(rest[j], from, (c.in - k) * sizeof(W));
        from = rest[j];
      }
      if constexpr (PAIRS) {
        pairs[j] = (const int32_t*)paired(from, (int32_t*)wide[j]);
      } else {
        f32x16 a, b;
        both(from, a, b);
        store(wide[j], a), store(wide[j] + LANES, b);
      }
    }
    for (int i = 0; i < STEPS; i++) {
      for (int64_t p = i * LINES / STEPS; p < (i + 1) * LINES / STEPS; p++) __builtin_prefetch(next + 64 * p, 0, 2);
      f32x16 rows[V];
      for (int v = 0; v < V; v++) rows[v] = load<f32x16>(x + (i * V + v) * LANES);
      for (int j = 0; j < O; j++)
        for (int v = 0; v < V; v++)
          if constexpr (PAIRS) sums[j][v] = dot(sums[j][v], bits<i32x16>(rows[v]), load<int32_t>(pairs[j] + i));
          else sums[j][v] += rows[v] * wide[j][i];
    }
  }
  float y[O][V * LANES];
  for (int j = 0; j < O; j++)
    for (int v = 0; v < V; v++) store(y[j] + v * LANES, sums[j][v]);
  c.kind == BFLOAT16 ? write_block<uint16_t, V, O>(c, y, row, o) : write_block<float, V, O>(c, y, row, o);
}

template <class W, bool PAIRS, int V> void many_in(const Product& c, const float* rows, int64_t padded, float* x, Team& team) {
  constexpr int O = ROOM < 32 ? ROOM / 2 + 1 : V == 1 ? 16 : 24 / V, width = V * LANES;
  const int64_t groups = (c.rows + width - 1) / width, size = (PAIRS ? padded / 2 : padded) * width;
  aside<PAIRS>(c, rows, padded, groups, width, x, team);
  team.share(c.out, O, [&](int64_t o, int64_t end) {
    for (; o + O <= end; o += O)
      for (int64_t g = 0; g < groups; g++) wide_block<W, V, O, PAIRS>(c, x + g * size, g * width, o);
    for (; o < end; o++)
      for (int64_t g = 0; g < groups; g++) wide_block<W, V, 1, PAIRS>(c, x + g * size, g * width, o);
  });
}

template <class W, bool PAIRS> void many(const Product& c, int64_t padded, Team& team) {
  const int64_t vectors = (c.rows + LANES - 1) / LANES;
  float* rows = team.common((c.rows + vectors * LANES) * padded);
  team.share(c.rows, 1, [&](int64_t start, int64_t end) {
    for (int64_t r = start; r < end; r++) {
      widen_row(c, r, padded, rows + r * padded);
      if (!PAIRS) order<W, false>(rows + r * padded, padded);
    }
  });
  known<ROOM == 32 ? 4 : 1>(vectors, [&](auto V) { many_in<W, PAIRS, V>(c, rows, padded, rows + c.rows * padded, team); });
}

template <class W> void dense(const Product& c, Team& team) {
  const int64_t padded = (c.in + CHUNK - 1) / CHUNK * CHUNK;
  const bool halves = HALVES && c.kind == BFLOAT16;
  if (c.rows <= FEW) {
    if constexpr (HALVES && sizeof(W) == 2)
      if (halves) return few<W, true>(c, padded, team);
    return few<W, false>(c, padded, team);
  }
  if constexpr (HALVES && sizeof(W) < 4)
    if (halves) return many<W, true>(c, padded, team);
  many<W, false>(c, padded, team);
}

// ---- weights of 4 bits, in tiles of 16 outputs, one a lane; x in 16 bits with a scale for each chunk of a row

struct Fixed {
  int32_t* values;  // (rows, chunks, 16) pairs of 16 bits
  float* scales;    // (rows, chunks)
  int32_t* sums;    // (rows, chunks) of the 16-bit values
  int64_t chunks;

  Fixed(float* room, int64_t rows, int64_t chunks)
      : values((int32_t*)room), scales(room + rows * chunks * LANES), sums((int32_t*)scales + rows * chunks), chunks(chunks) {}
};

// A row of x in whole numbers, in two halves of 16 columns to each chunk.
void fix(const Product& c, int64_t row, float* wide, Fixed& to) {
  widen_row(c, row, to.chunks * CHUNK, wide);
  const auto nearest = [](f32x16 v) { return convert<i32x16>(v + pick(v < 0, f32x16(-0.5f), 0.5f)); };
  for (int64_t k = 0; k < to.chunks; k++) {
    const f32x16 a = load<f32x16>(wide + k * CHUNK), b = load<f32x16>(wide + k * CHUNK + LANES);
    const float top = most(larger(magnitude(a), magnitude(b))), inverse = top > 0 ? 32767 / top : 0;
    const i32x16 first = nearest(a * inverse), second = nearest(b * inverse);
    const int64_t at = row * to.chunks + k;
    int16_t* values = (int16_t*)(to.values + at * LANES);
    store(values, convert<i16x16>(first)), store(values + LANES, convert<i16x16>(second));
    to.scales[at] = top / 32767, to.sums[at] = sum(first + second);
  }
}

// weight (tiles, columns / 8, 16 outputs), 8 in 32 bits, kept plus 8; scales (tiles, chunks, 16 outputs) in bfloat16
template <int R> void tile_rows(const Product& c, const Fixed& x, int64_t row, int64_t tile) {
  constexpr int U = R == 1 ? 4 : R <= 3 ? 2 : 1;  // sums that do not wait for each other
  f32x16 y[R] = {};
  const int32_t* w = (const int32_t*)c.weight + tile * x.chunks * 4 * LANES;
  const uint16_t* scales = (const uint16_t*)c.scales + tile * x.chunks * LANES;
  for (int64_t k = 0; k < x.chunks; k++, w += 4 * LANES, scales += LANES) {
    const int64_t at = row * x.chunks + k;
    i32x16 sums[R][U] = {};
    for (int r = 0; r < R; r++) sums[r][0] -= 8 * x.sums[at + r * x.chunks];
    for (int q = 0; q < 4; q++) {
      ahead<R == 1>(w + q * LANES);
      const i32x16 packed = load<i32x16>(w + q * LANES);
      for (int p = 0; p < 4; p++) {
        const i32x16 wide = (packed >> (4 * p)) & 0x000f000f;
        for (int r = 0; r < R; r++)
          sums[r][p % U] = pairs(sums[r][p % U], wide, x.values[(at + r * x.chunks) * LANES + 4 * q + p]);
      }
    }
    const f32x16 scale = polytask::wide(scales);
    for (int r = 0; r < R; r++) {
      for (int u = 1; u < U; u++) sums[r][0] += sums[r][u];
      y[r] += convert<f32x16>(sums[r][0]) * (scale * x.scales[at + r * x.chunks]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int i = 0; i < LANES && tile * LANES + i < c.out; i++) write(c, row + r, tile * LANES + i, y[r][i]);
}

void int4_rows(const Product& c, Team& team) {
  const int64_t chunks = (c.in + CHUNK - 1) / CHUNK, padded = chunks * CHUNK, size = c.rows * chunks * (LANES + 2);
  float* wide = team.own(c.rows == 1 ? padded + size : padded);
  Fixed x(c.rows == 1 ? wide + padded : team.common(size), c.rows, chunks);
  if (c.rows == 1) {
    fix(c, 0, wide, x);
  } else {
    team.share(c.rows, 1, [&](int64_t start, int64_t end) {
      for (int64_t r = start; r < end; r++) fix(c, r, wide, x);
    });
  }
  const int64_t tiles = (c.out + LANES - 1) / LANES, least = SHARE / (padded * LANES / 2) + 1;
  team.share(tiles, least, [&](int64_t start, int64_t end) {
    for (int64_t tile = start; tile < end; tile++)
      for (int64_t r = 0; r < c.rows; r += MOST) known<MOST>(c.rows - r, [&](auto rows) { tile_rows<rows>(c, x, r, tile); });
  });
}

void int4(const Product& c, Team& team) {
  for (int64_t r = 0; r < c.rows; r += GROUP) {  // whose fixed numbers stay in the cache
    Product part = c;
    const int64_t size = c.kind == BFLOAT16 ? 2 : 4;
    part.x = (const char*)c.x + r * c.in * size, part.y = (char*)c.y + r * c.out * size;
    if (c.onto) part.onto = (const char*)c.onto + r * c.out * size;
    part.rows = c.rows - r < GROUP ? c.rows - r : GROUP;
    int4_rows(part, team);
  }
}

// ---- weights (out, in) in bfloat16 times their scales, as torch takes them, which is faster for many rows

void widen_bytes(const int8_t* w, const float* scales, uint16_t* to, int64_t in, int64_t start, int64_t end) {
  for (int64_t o = start; o < end; o++) {
    const int8_t* from = w + o * in;
    uint16_t* line = to + o * in;
    int64_t i = 0;
    for (; i + LANES <= in; i += LANES) put(line + i, whole(from + i) * scales[o]);
    for (; i < in; i++) line[i] = narrow(from[i] * scales[o]);
  }
}

void widen_tiles(const int32_t* w, const uint16_t* scales, uint16_t* to, int64_t out, int64_t in, int64_t start, int64_t end) {
  const int64_t chunks = (in + CHUNK - 1) / CHUNK;
  for (int64_t at = start * chunks; at < end * chunks; at++) {
    const int64_t o = at / chunks * LANES, k = at % chunks * CHUNK, columns = in - k < CHUNK ? in - k : CHUNK;
    u32x16 pairs[LANES];
    ahead<true>(w + at * 4 * LANES);
    widen_fours(w + at * 4 * LANES, scales + at * LANES, pairs);
    transpose(pairs);
    for (int64_t j = 0; j < LANES && o + j < out; j++) std::memcpy(to + (o + j) * in + k, &pairs[j], columns * sizeof *to);
  }
}

void widen_weights(const Wide& c, Team& team) {
  if (c.weights == INT8)
    return team.share(c.out, SHARE / c.in + 1, [&](int64_t start, int64_t end) { widen_bytes((const int8_t*)c.weight, (const float*)c.scales, (uint16_t*)c.to, c.in, start, end); });
  team.share((c.out + LANES - 1) / LANES, SHARE / (c.in * LANES) + 1, [&](int64_t start, int64_t end) {
    widen_tiles((const int32_t*)c.weight, (const uint16_t*)c.scales, (uint16_t*)c.to, c.out, c.in, start, end);
  });
}

// A sum over memory, read as the products read it.
int64_t read(const int64_t* memory, int64_t count, int threads) {
  typedef int64_t Part __attribute__((vector_size(4 * OWN)));
  constexpr int64_t PARTS = 32 * sizeof(int64_t) / sizeof(Part);
  std::atomic<int64_t> total{0};
  together(threads, [&](Team& team) {
    team.share(count / 32, SHARE / 256, [&](int64_t start, int64_t end) {
      Part sums[PARTS] = {};
      for (const Part* at = (const Part*)(memory + 32 * start); at < (const Part*)(memory + 32 * end); at += PARTS) {
        for (int j = 0; j < 4; j++) ahead<true>((const char*)at + 64 * j);
        for (int j = 0; j < PARTS; j++) sums[j] += load<Part>(at + j);
      }
      int64_t own = 0;
      for (int j = 1; j < PARTS; j++) sums[0] += sums[j];
      for (int i = 0; i < OWN / 2; i++) own += sums[0][i];
      total += own;
    });
  });
  return total;
}

template <class T> void normalize_as(const Norm& n, int64_t count, float* x, int64_t padded) {
  const int64_t whole = count / LANES * LANES;
  f32x16 total = {}, squares = {};
  if (n.kind == LAYER) {
    for (int64_t i = 0; i < padded; i += LANES) total += load<f32x16>(x + i);
    const float mean = sum(total) / count;
    for (int64_t i = 0; i < whole; i += LANES) store(x + i, load<f32x16>(x + i) - mean);
    for (int64_t i = whole; i < count; i++) x[i] -= mean;
  }
  for (int64_t i = 0; i < padded; i += LANES) squares += load<f32x16>(x + i) * load<f32x16>(x + i);
  const float inverse = 1 / std::sqrt(sum(squares) / count + n.eps);
  const T *scale = (const T*)n.scale, *bias = (const T*)n.bias;
  for (int64_t i = 0; i < whole; i += LANES) {
    f32x16 v = load<f32x16>(x + i) * inverse;
    if (scale) v *= wide(scale + i) + n.offset;
    if (bias) v += wide(bias + i);
    store(x + i, rounded<T>(v));  // as torch rounds it, so that few rows and many differ little
  }
  for (int64_t i = whole; i < count; i++) {
    float v = x[i] * inverse;
    if (scale) v *= widened(scale[i]) + n.offset;
    if (bias) v += widened(bias[i]);
    x[i] = rounded<T>(v);
  }
}

}  // namespace

void polytask::normalize(const Norm& n, int kind, int64_t count, float* x, int64_t padded) {
  kind == BFLOAT16 ? normalize_as<uint16_t>(n, count, x, padded) : normalize_as<float>(n, count, x, padded);
}

void polytask::multiply(const Product& c, Team& team) {
  if (c.rows > FEW && tiled(c, team)) return;
  switch (c.weights) {
    case FLOAT32: return dense<float>(c, team);
    case BFLOAT16: return dense<uint16_t>(c, team);
    case INT8: return dense<int8_t>(c, team);
    default: return int4(c, team);
  }
}

extern "C" {
void polytask_threads(void* gomp_parallel, void* omp_get_num_threads, void* omp_get_thread_num) {
  parallel = (decltype(parallel))gomp_parallel;
  members = (decltype(members))omp_get_num_threads, number = (decltype(number))omp_get_thread_num;
}
int32_t polytask_tiles() { return tiles(); }
void polytask_product(const Product* c) { together(c->threads, [&](Team& team) { multiply(*c, team); }); }
void polytask_widen(const Wide* c) { together(c->threads, [&](Team& team) { widen_weights(*c, team); }); }
int64_t polytask_read(const void* memory, int64_t count, int32_t threads) { return read((const int64_t*)memory, count, threads); }
}
