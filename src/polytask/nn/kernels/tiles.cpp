// Products of up to 64 rows of bfloat16 by the CPU's tiles (AMX): a tile of weights is read, or widened, once and
// multiplied by all rows, 16 at a time.

#include "tiles.h"

#if defined(__AMX_BF16__)

#include <sys/syscall.h>
#include <unistd.h>

namespace polytask {

namespace {

constexpr int64_t SIDE = 16, LINE = 64;  // lines of a tile, and bytes of each: 32 of bfloat16 or 16 of float32

struct alignas(64) Shape {
  uint8_t palette = 1, start = 0, unused[14] = {};
  uint16_t bytes[16] = {LINE, LINE, LINE, LINE, LINE, LINE, LINE, LINE};
  uint8_t lines[16] = {SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE};
};

// What GCC 12 says of these instructions leaves out that they read memory.
inline void written() { asm volatile("" ::: "memory"); }

inline void begin() {
  const Shape shape;
  written();
  _tile_loadconfig(&shape);
}

// Tile 0 to 3: sums of as many groups of rows, += left (16, 32) times right (32, 16) in pairs. `left` stays for all groups
// where it is weights, and `right` where they are.
template <int G, bool LEFT> inline void multiply_tiles(const void* weights, int64_t stride, const char* x, int64_t line, int64_t group) {
  written();
  _tile_loadd(4, weights, stride);
#define POLYTASK_GROUP(g)                          \
  if constexpr (G > g) {                           \
    _tile_loadd(5, x + g * group, line);           \
    if constexpr (LEFT) _tile_dpbf16ps(g, 4, 5);   \
    else _tile_dpbf16ps(g, 5, 4);                  \
  }
  POLYTASK_GROUP(0)
  POLYTASK_GROUP(1)
  POLYTASK_GROUP(2)
  POLYTASK_GROUP(3)
#undef POLYTASK_GROUP
  written();
}

template <int G> inline void clear() {
  _tile_zero(0);
  if constexpr (G > 1) _tile_zero(1);
  if constexpr (G > 2) _tile_zero(2);
  if constexpr (G > 3) _tile_zero(3);
}

template <int G> inline void keep(float (*y)[SIDE][SIDE]) {
  _tile_stored(0, y[0], LINE);
  if constexpr (G > 1) _tile_stored(1, y[1], LINE);
  if constexpr (G > 2) _tile_stored(2, y[2], LINE);
  if constexpr (G > 3) _tile_stored(3, y[3], LINE);
  written();
}

// ---- weights a row an output: they are what stands left, (outputs, columns), and sums are (outputs, rows)

inline __m512i halves(const int8_t* w) {  // which bfloat16 holds exactly
  const auto wide = [](__m128i v) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(v)); };
  return (__m512i)_mm512_cvtne2ps_pbh(wide(load<__m128i>(w + 16)), wide(load<__m128i>(w)));
}
inline __m512i halves(const uint16_t* w) { return load<__m512i>(w); }

// The tile of 16 outputs at w, or of `outputs` and `columns` of them, and zeros.
template <class W> inline void widen_tile(const W* w, int64_t in, int64_t outputs, int64_t columns, uint16_t* to) {
  for (int64_t j = 0; j < SIDE; j++) {
    W line[CHUNK] = {};
    const bool whole = j < outputs && columns == CHUNK;
    if (j < outputs && !whole) std::memcpy(line, w + j * in, columns * sizeof(W));
    _mm512_store_si512(to + j * CHUNK, halves(whole ? w + j * in : line));
  }
}

template <class W, int G> void dense_outputs(const Product& c, const char* x, int64_t padded, int64_t o, int64_t outputs) {
  alignas(64) uint16_t tile[SIDE * CHUNK];
  alignas(64) float y[G][SIDE][SIDE];
  const W* w = (const W*)c.weight + o * c.in;
  const int64_t group = padded / 2 * LINE;
  clear<G>();
  for (int64_t k = 0; k < c.in; k += CHUNK, x += SIDE * LINE) {
    const int64_t columns = c.in - k < CHUNK ? c.in - k : CHUNK;
    for (int64_t j = 0; j < outputs; j++) __builtin_prefetch((const char*)(w + j * c.in + k) + 256, 0, 2);
    if (sizeof(W) == 2 && columns == CHUNK && outputs == SIDE) {
      multiply_tiles<G, true>(w + k, c.in * sizeof(W), x, LINE, group);
    } else {
      widen_tile(w + k, c.in, outputs, columns, tile);
      multiply_tiles<G, true>(tile, LINE, x, LINE, group);
    }
  }
  keep<G>(y);
  for (int64_t g = 0; g < G; g++) {
    u32x16 lines[SIDE];
    for (int j = 0; j < SIDE; j++) lines[j] = load<u32x16>(y[g][j]);
    transpose(lines);
    for (int r = 0; r < SIDE && g * SIDE + r < c.rows; r++) write_line<uint16_t>(c, g * SIDE + r, o, outputs, bits<f32x16>(lines[r]));
  }
}

// Rows (groups, 16, padded) as (groups, padded / 2, 16) of pairs, `tiles` of 16 pairs in all.
void aside(const uint16_t* rows, uint16_t* to, int64_t padded, int64_t tiles, Team& team) {
  const int64_t chunks = padded / CHUNK;
  team.share(tiles, 1, [&](int64_t tile, int64_t end) {
    for (; tile < end; tile++) {
      u32x16 lines[SIDE];
      const uint16_t* from = rows + tile / chunks * SIDE * padded + tile % chunks * CHUNK;
      for (int r = 0; r < SIDE; r++) lines[r] = load<u32x16>(from + r * padded);
      transpose(lines);
      for (int i = 0; i < SIDE; i++) store(to + (tile * SIDE + i) * CHUNK, lines[i]);
    }
  });
}

template <class W, int G> void dense(const Product& c, const char* x, int64_t padded, Team& team) {
  team.share(c.out, SIDE, [&](int64_t o, int64_t end) {
    begin();
    for (; o < end; o += SIDE) dense_outputs<W, G>(c, x, padded, o, end - o < SIDE ? end - o : SIDE);
    _tile_release();
  });
}

// ---- weights of 4 bits, 16 outputs side by side: they stand right, (columns in pairs, outputs), and sums are (rows, outputs)

template <int G> void int4_outputs(const Product& c, const char* x, int64_t padded, int64_t tile) {
  u32x16 pairs[SIDE];
  alignas(64) float y[G][SIDE][SIDE];
  const int64_t chunks = padded / CHUNK, o = tile * SIDE;
  const int32_t* w = (const int32_t*)c.weight + tile * chunks * 4 * LANES;
  const uint16_t* scales = (const uint16_t*)c.scales + tile * chunks * LANES;
  clear<G>();
  for (int64_t k = 0; k < chunks; k++, w += 4 * LANES, scales += LANES, x += LINE) {
    for (int q = 0; q < 4; q++) ahead<false>(w + q * LANES);
    widen_fours(w, scales, pairs);
    multiply_tiles<G, false>(pairs, LINE, x, padded * 2, SIDE * padded * 2);
  }
  keep<G>(y);
  for (int64_t r = 0; r < G * SIDE && r < c.rows; r++)
    write_line<uint16_t>(c, r, o, c.out - o < SIDE ? c.out - o : SIDE, load<f32x16>(y[r / SIDE][r % SIDE]));
}

template <int G> void int4(const Product& c, const char* x, int64_t padded, Team& team) {
  team.share((c.out + SIDE - 1) / SIDE, 1, [&](int64_t tile, int64_t end) {
    begin();
    for (; tile < end; tile++) int4_outputs<G>(c, x, padded, tile);
    _tile_release();
  });
}

// Whether the kernel lets this process use tiles, which it has to be asked for.
bool allowed() {
  constexpr int ASK = 0x1023, TILES = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool found = syscall(SYS_arch_prctl, ASK, TILES) == 0;
  return found;
}

}  // namespace

bool tiled(const Product& c, Team& team) {
  const int64_t chunks = (c.in + CHUNK - 1) / CHUNK, padded = chunks * CHUNK, groups = (c.rows + SIDE - 1) / SIDE;
  if (c.kind != BFLOAT16 || c.weights == FLOAT32 || groups > 4 || !allowed()) return false;
  uint16_t* rows = (uint16_t*)team.common(groups * SIDE * padded);
  uint16_t* x = c.weights == INT4 ? rows : rows + groups * SIDE * padded;
  float* wide = team.own(padded);
  team.share(c.rows, 1, [&](int64_t r, int64_t end) {
    for (; r < end; r++) {
      widen_row(c, r, padded, wide);
      for (int64_t i = 0; i < padded; i += LANES) put(rows + r * padded + i, load<f32x16>(wide + i));
    }
  });
  if (c.weights != INT4) aside(rows, x, padded, groups * chunks, team);
  known<4>(groups, [&](auto G) {
    if (c.weights == INT4) int4<G>(c, (const char*)x, padded, team);
    else if (c.weights == INT8) dense<int8_t, G>(c, (const char*)x, padded, team);
    else dense<uint16_t, G>(c, (const char*)x, padded, team);
  });
  return true;
}

}  // namespace polytask

#else

bool polytask::tiled(const Product&, Team&) { return false; }

#endif
