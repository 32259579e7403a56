// The CPU's tiles (AMX): what multiplies 16 x 32 by 32 x 16 numbers of bfloat16 in one instruction.
#pragma once

#include "activations.h"
#include "rows.h"

namespace polytask {

// Multiplies, where the machine has tiles and they fit what is multiplied; false where it was not done.
bool tiled(const Product&, Team&);

// Whether there are any, and the kernel of the system lets this process use them, which it has to be asked for.
bool tiles();

#if defined(__AMX_BF16__)

constexpr int64_t SIDE = 16, LINE = 64;  // lines of a tile, and bytes of each: 32 of bfloat16 or 16 of float32
constexpr int64_t TILE = SIDE * CHUNK;   // numbers of bfloat16 in one

struct alignas(64) Shape {
  uint8_t palette = 1, start = 0, unused[14] = {};
  uint16_t bytes[16] = {LINE, LINE, LINE, LINE, LINE, LINE, LINE, LINE};
  uint8_t lines[16] = {SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE};
};

// What GCC 12 says of these instructions leaves out that they read memory.
inline void written() { asm volatile("" ::: "memory"); }

inline void begin_tiles() {
  const Shape shape;
  written();
  _tile_loadconfig(&shape);
}

// Tiles 0 to 3: sums of as many groups of rows, += left (16, 32) times right (32, 16) in pairs. `left` stays for all groups
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

// 32 columns of 16 rows, `line` numbers apart, as a tile of pairs: what stands right.
inline void pair_rows(const uint16_t* rows, int64_t line, uint16_t* tile) {
  u32x16 lines[SIDE];
  for (int r = 0; r < SIDE; r++) lines[r] = load<u32x16>(rows + r * line);
  transpose(lines);
  for (int i = 0; i < SIDE; i++) store(tile + i * CHUNK, lines[i]);
}

// The first place in it where a line of the cache begins; LANES more numbers are to be asked for.
inline float* at_line(float* room) { return room + (-(uintptr_t)room % LINE) / sizeof *room; }

template <int G> inline void clear_sums() {
  _tile_zero(0);
  if constexpr (G > 1) _tile_zero(1);
  if constexpr (G > 2) _tile_zero(2);
  if constexpr (G > 3) _tile_zero(3);
}

// The sums of each group at y, `group` numbers apart, with `line` bytes between their rows.
template <int G> inline void keep_sums(float* y, int64_t line, int64_t group) {
  _tile_stored(0, y, line);
  if constexpr (G > 1) _tile_stored(1, y + group, line);
  if constexpr (G > 2) _tile_stored(2, y + 2 * group, line);
  if constexpr (G > 3) _tile_stored(3, y + 3 * group, line);
  written();
}

template <int G> inline void load_sums(const float* y, int64_t line, int64_t group) {
  written();
  _tile_loadd(0, y, line);
  if constexpr (G > 1) _tile_loadd(1, y + group, line);
  if constexpr (G > 2) _tile_loadd(2, y + 2 * group, line);
  if constexpr (G > 3) _tile_loadd(3, y + 3 * group, line);
}

#endif

}  // namespace polytask
