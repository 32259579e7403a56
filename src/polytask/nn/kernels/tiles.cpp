// Products of bfloat16 by the CPU's tiles (AMX). Up to 64 rows: a tile of weights is read, or widened, once and multiplied
// by all rows, 16 at a time. More: 32 outputs by 32 rows, which is one tile read for one product of tiles.

#include "tiles.h"

#if defined(__AMX_BF16__)

#include <sys/syscall.h>
#include <unistd.h>

namespace polytask {

namespace {

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

// Of 16 outputs; what lies from `next` to `last`, whose turn comes then, is asked for meanwhile, in order.
template <class W, int G>
void dense_outputs(const Product& c, const char* x, int64_t padded, int64_t o, int64_t outputs, const char* next, const char* last) {
  alignas(64) uint16_t tile[2][TILE];
  alignas(64) float y[G][SIDE][SIDE];
  const W* w = (const W*)c.weight + o * c.in;
  const int64_t group = padded / 2 * LINE;
  clear_sums<G>();
  const auto ask = [&] {
    for (const char* until = next + TILE * sizeof(W); next < until && next < last; next += LINE) __builtin_prefetch(next, 0, 2);
  };
  for (int64_t k = 0; k < c.in; k += CHUNK, x += SIDE * LINE) {
    const int64_t columns = c.in - k < CHUNK ? c.in - k : CHUNK;
    if (sizeof(W) == 2 && columns == CHUNK && outputs == SIDE) {
      multiply_tiles<G, true>(w + k, c.in * sizeof(W), x, LINE, group);
    } else {
      uint16_t* to = tile[k / CHUNK % 2];
      widen_tile(w + k, c.in, outputs, columns, to);
      multiply_tiles<G, true>(to, LINE, x, LINE, group);
    }
    ask();
  }
  keep_sums<G>(y[0][0], LINE, SIDE * SIDE);
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
      pair_rows(rows + tile / chunks * SIDE * padded + tile % chunks * CHUNK, padded, to + tile * TILE);
    }
  });
}

template <class W, int G> void dense(const Product& c, const char* x, int64_t padded, Team& team) {
  team.share(c.out, SIDE, [&](int64_t o, int64_t end) {
    begin_tiles();
    const char *weights = (const char*)c.weight, *last = weights + end * c.in * sizeof(W);
    for (; o < end; o += SIDE) {
      const int64_t outputs = end - o < SIDE ? end - o : SIDE;
      dense_outputs<W, G>(c, x, padded, o, outputs, weights + (o + SIDE) * c.in * sizeof(W), last);
    }
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
  clear_sums<G>();
  for (int64_t k = 0; k < chunks; k++, w += 4 * LANES, scales += LANES, x += LINE) {
    for (int q = 0; q < 4; q++) ahead<false>(w + q * LANES);
    widen_fours(w, scales, pairs);
    multiply_tiles<G, false>(pairs, LINE, x, padded * 2, SIDE * padded * 2);
  }
  keep_sums<G>(y[0][0], LINE, SIDE * SIDE);
  for (int64_t r = 0; r < G * SIDE && r < c.rows; r++)
    write_line<uint16_t>(c, r, o, c.out - o < SIDE ? c.out - o : SIDE, load<f32x16>(y[r / SIDE][r % SIDE]));
}

template <int G> void int4(const Product& c, const char* x, int64_t padded, Team& team) {
  team.share((c.out + SIDE - 1) / SIDE, 1, [&](int64_t tile, int64_t end) {
    begin_tiles();
    for (; tile < end; tile++) int4_outputs<G>(c, x, padded, tile);
    _tile_release();
  });
}

// ---- many rows

constexpr int64_t PANEL = 2 * SIDE;           // outputs, and rows, that are taken together
constexpr int64_t DEEP = 8;  // chunks of columns whose weights stay in the first cache
constexpr int64_t NEAR = 1 << 19;             // numbers of rows that stay in the second one

inline void fill(const Product& c, const int32_t*, int64_t o, int64_t k, uint16_t* tile) {
  const int64_t chunks = (c.in + CHUNK - 1) / CHUNK, at = o / SIDE * chunks + k;
  u32x16 pairs[SIDE];
  widen_fours((const int32_t*)c.weight + at * 4 * LANES, (const uint16_t*)c.scales + at * LANES, pairs);
  transpose(pairs);
  for (int j = 0; j < SIDE; j++) store(tile + j * CHUNK, pairs[j]);
}
template <class W> inline void fill(const Product& c, const W* w, int64_t o, int64_t k, uint16_t* tile) {
  const int64_t columns = c.in - k * CHUNK;
  w += o * c.in + k * CHUNK;
  if (columns < CHUNK || c.out - o < SIDE) return widen_tile(w, c.in, c.out - o < SIDE ? c.out - o : SIDE, columns < CHUNK ? columns : CHUNK, tile);
  for (int64_t j = 0; j < SIDE; j++) _mm512_store_si512(tile + j * CHUNK, halves(w + j * c.in));
}

// Sums of 16 outputs, from o on, by 16 rows as rows, with scales and biases.
inline void squared(const Product& c, const float* sums, int64_t o, f32x16 (&lines)[SIDE]) {
  const bool whole = c.out - o >= SIDE;
  const f32x16 scale = whole && c.weights == INT8 ? load<f32x16>((const float*)c.scales + o) : f32x16(1);
  const f32x16 bias = whole && c.bias ? wide((const uint16_t*)c.bias + o) : f32x16(0);
  for (int j = 0; j < SIDE; j++) lines[j] = load<f32x16>(sums + j * SIDE);
  transpose(lines);
  for (int r = 0; r < SIDE; r++) lines[r] = lines[r] * scale + bias;
}

// They go to their places, after an activation, and times `gated` ones where there are some.
void write_square(const Product& c, int64_t row, int64_t o, const float* sums, const float* gated, int64_t width) {
  f32x16 lines[SIDE], others[SIDE];
  const int64_t outputs = width - o, rows = c.rows - row < SIDE ? c.rows - row : SIDE;
  squared(c, sums, o, lines);
  if (outputs < SIDE) {
    for (int64_t r = 0; r < rows; r++) write_line<uint16_t>(c, row + r, o, outputs, lines[r]);
    return;
  }
  if (gated) squared(c, gated, width + o, others);
  const auto each = [&](auto bent) {
    for (int64_t r = 0; r < rows; r++) {
      const int64_t at = (row + r) * width + o;
      f32x16 y = bent(lines[r]);
      if (gated) y = rounded<uint16_t>(y) * rounded<uint16_t>(others[r]);
      if (c.onto) y = rounded<uint16_t>(y) + wide((const uint16_t*)c.onto + at);
      put((uint16_t*)c.y + at, y);
    }
  };
  if (!c.activation) return each([](f32x16 y) { return y; });
  known<RELU_SQUARED + 1>(c.activation, [&](auto which) {  // of what is rounded, as one token's is
    each([](f32x16 y) { return active<uint16_t>(rounded<uint16_t>(y), decltype(which)::value - 1); });
  });
}

// Sums of 32 outputs by 32 rows: `count` chunks of weights, two tiles each, by those of two groups of rows. ask(k) asks for
// memory that is needed later, while tiles are multiplied.
template <class F>
inline void multiply_panel(const uint16_t* w, const uint16_t* x, int64_t group, int64_t count, float* sums, bool first, const F& ask) {
  first ? clear_sums<4>() : load_sums<4>(sums, LINE, SIDE * SIDE);
  for (int64_t k = 0; k < count; k++, w += 2 * TILE, x += TILE) {
    written();
    _tile_loadd(4, w, LINE);
    _tile_loadd(6, x, LINE);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, x + group, LINE);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, w + TILE, LINE);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    ask(k);
  }
  keep_sums<4>(sums, LINE, SIDE * SIDE);
}

template <class W> void panels(const Product& c, const uint16_t* x, int64_t chunks, Team& team) {
  const int64_t blocks = (c.rows + PANEL - 1) / PANEL, width = c.gated ? c.out / 2 : c.out;
  const int64_t step = c.gated ? SIDE : PANEL, other = c.gated ? width : SIDE;  // from one tile of a panel to its second
  const int64_t bytes = (c.weights == INT4 ? chunks * 4 * LANES : SIDE * c.in) * sizeof(W);  // of the weights of 16 outputs
  const int64_t each = (bytes / LINE + blocks * chunks - 1) / (blocks * chunks) * LINE;  // that are asked for at a time
  team.share((width + step - 1) / step, 1, [&](int64_t start, int64_t end) {
    float* room = at_line(team.own(blocks * 4 * SIDE * SIDE + DEEP * TILE + LANES));
    uint16_t* w = (uint16_t*)(room + blocks * 4 * SIDE * SIDE);
    const auto write_block = [&](int64_t block, int64_t o) {
      for (int g = 0; g < 2; g++) {
        const int64_t row = block * PANEL + g * SIDE;
        const float *first = room + (4 * block + g) * SIDE * SIDE, *second = first + PANEL * SIDE;
        write_square(c, row, o, first, c.gated ? second : nullptr, width);
        if (!c.gated && o + SIDE < width) write_square(c, row, o + SIDE, second, nullptr, width);
      }
    };
    begin_tiles();
    for (int64_t o = start * step; o < end * step; o += step) {
      const char *next = (const char*)c.weight + (o + step) / SIDE * bytes, *second = next + other / SIDE * bytes;
      const char* last = next + (o + step < end * step ? bytes : 0);  // another thread may take what comes then
      for (int64_t k = 0; k < chunks; k += DEEP) {
        const int64_t count = chunks - k < DEEP ? chunks - k : DEEP;
        const bool done = k + count == chunks;
        for (int64_t i = 0; i < count; i++) {
          fill(c, (const W*)c.weight, o, k + i, w + 2 * i * TILE);
          if (o + other < c.out) fill(c, (const W*)c.weight, o + other, k + i, w + (2 * i + 1) * TILE);
        }
        for (int64_t block = 0; block < blocks; block++) {
          const int64_t lines = done ? (PANEL + count - 1) / count : 0;
          multiply_panel(w, x + (2 * block * chunks + k) * TILE, chunks * TILE, count, room + block * 4 * SIDE * SIDE, k == 0, [&](int64_t i) {
            for (int64_t at = 0; at < each && next < last; at += LINE, next += LINE, second += LINE)
              __builtin_prefetch(next, 0, 2), __builtin_prefetch(second, 0, 2);
            for (int64_t row = block * PANEL + i * lines; row < block * PANEL + (i + 1) * lines && row < c.rows; row++) {
              __builtin_prefetch((uint16_t*)c.y + row * width + o, 1);
              if (c.onto) __builtin_prefetch((const uint16_t*)c.onto + row * width + o);
            }
          });
          if (done && block > 0) write_block(block - 1, o);  // while the next sums are made
        }
        if (done) write_block(blocks - 1, o);
      }
    }
    _tile_release();
  });
}

// Groups of 16 rows from x as tiles of pairs, (groups, chunks, 16, 16), normalised where that is asked for.
void pairs_of(const Product& c, uint16_t* to, int64_t groups, int64_t chunks, Team& team) {
  const int64_t padded = chunks * CHUNK;
  const bool plain = c.norm.kind == NONE && padded == c.in;
  team.share(groups, 1, [&](int64_t group, int64_t end) {
    float* wide = team.own(padded + SIDE * padded / 2);
    uint16_t* rows = (uint16_t*)(wide + padded);
    for (; group < end; group++) {
      const int64_t start = group * SIDE, count = c.rows - start < SIDE ? c.rows - start : SIDE;
      const uint16_t* from = (const uint16_t*)c.x + start * c.in;
      if (!plain || count < SIDE) {
        std::memset(rows, 0, SIDE * padded * sizeof *rows);
        for (int64_t r = 0; r < count; r++) {
          widen_row(c, start + r, padded, wide);
          for (int64_t i = 0; i < padded; i += LANES) put(rows + r * padded + i, load<f32x16>(wide + i));
        }
        from = rows;
      }
      for (int64_t k = 0; k < chunks; k++) pair_rows(from + k * CHUNK, padded, to + (group * chunks + k) * TILE);
    }
  });
}

void many(Product c, Team& team) {
  const int64_t chunks = (c.in + CHUNK - 1) / CHUNK, near = NEAR / (chunks * CHUNK) / PANEL * PANEL, most = near > 4 * PANEL ? near : 4 * PANEL;
  for (int64_t left = c.rows; left > 0; left -= c.rows) {
    c.rows = left < most ? left : most;
    const int64_t groups = (c.rows + PANEL - 1) / PANEL * 2;
    uint16_t* x = (uint16_t*)at_line(team.common(groups * chunks * TILE / 2 + LANES));
    pairs_of(c, x, groups, chunks, team);
    if (c.weights == INT4) panels<int32_t>(c, x, chunks, team);
    else if (c.weights == INT8) panels<int8_t>(c, x, chunks, team);
    else panels<uint16_t>(c, x, chunks, team);
    const int64_t numbers = c.rows * (c.gated ? c.out / 2 : c.out);
    c.x = (const uint16_t*)c.x + c.rows * c.in, c.y = (uint16_t*)c.y + numbers;
    if (c.onto) c.onto = (const uint16_t*)c.onto + numbers;
  }
}

}  // namespace

bool tiles() {
  constexpr int ASK = 0x1023, TILES = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool allowed = syscall(SYS_arch_prctl, ASK, TILES) == 0;
  return allowed;
}

bool tiled(const Product& c, Team& team) {
  const int64_t chunks = (c.in + CHUNK - 1) / CHUNK, padded = chunks * CHUNK, groups = (c.rows + SIDE - 1) / SIDE;
  if (c.kind != BFLOAT16 || c.weights == FLOAT32 || !tiles()) return false;
  if (groups > 4 || c.activation) return many(c, team), true;
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
bool polytask::tiles() { return false; }

#endif
