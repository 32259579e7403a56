// Rows of numbers as products take them in and give them out.
#pragma once

#include "calls.h"
#include "vectors.h"

namespace polytask {

constexpr int64_t CHUNK = 32;  // columns that are widened, scaled or multiplied together

inline float value(const void* from, int64_t i, int kind) {
  return kind == BFLOAT16 ? widen(((const uint16_t*)from)[i]) : ((const float*)from)[i];
}

inline void write(const Product& c, int64_t row, int64_t o, float y, const void* scale = nullptr) {
  const int64_t i = row * c.out + o;
  if (scale) y *= ((const float*)scale)[o];
  if (c.bias) y += value(c.bias, o, c.kind);
  if (c.kind == BFLOAT16) {
    if (c.onto) y = rounded<uint16_t>(y) + widen(((const uint16_t*)c.onto)[i]);  // as torch, which adds afterwards
    ((uint16_t*)c.y)[i] = narrow(y);
  } else {
    ((float*)c.y)[i] = c.onto ? y + ((const float*)c.onto)[i] : y;
  }
}

// A row of x in float32, filled up with zeros to whole chunks.
inline void widen_row(const Product& c, int64_t row, int64_t padded, float* to) {
  const int64_t start = row * c.in;
  if (c.kind == BFLOAT16) {
    const uint16_t* x = (const uint16_t*)c.x + start;
    for (int64_t i = 0; i < c.in; i++) to[i] = widen(x[i]);
  } else {
    std::memcpy(to, (const float*)c.x + start, c.in * sizeof(float));
  }
  std::memset(to + c.in, 0, (padded - c.in) * sizeof(float));
  if (c.norm.kind != NONE) normalize(c.norm, c.kind, c.in, to, padded);
}

// Of a row the 16 outputs from o on, or so many of them.
template <class T> inline void write_line(const Product& c, int64_t row, int64_t o, int64_t outputs, f32x16 y) {
  if (outputs < LANES) {
    for (int64_t j = 0; j < outputs; j++) write(c, row, o + j, y[j], c.weights == INT8 ? c.scales : nullptr);
    return;
  }
  const int64_t at = row * c.out + o;
  if (c.weights == INT8) y *= load<f32x16>((const float*)c.scales + o);
  if (c.bias) y += wide((const T*)c.bias + o);
  if (c.onto) y = rounded<T>(y) + wide((const T*)c.onto + at);
  put((T*)c.y + at, y);
}

// Of 16 outputs a chunk of weights in 4 bits, see `nn.quant.pack`, times their scales: pairs of bfloat16 (16, outputs).
inline void widen_fours(const int32_t* packed, const uint16_t* scales, u32x16 (&pairs)[LANES]) {
  const f32x16 scale = wide(scales);
  const auto scaled = [&](i32x16 fours) { return bits<u32x16>(convert<f32x16>((fours & 15) - 8) * scale) + 0x8000u; };
  for (int q = 0; q < 4; q++) {
    const i32x16 eights = load<i32x16>(packed + q * LANES);
    for (int p = 0; p < 4; p++) pairs[4 * q + p] = (scaled(eights >> (4 * p)) >> 16) | (scaled(eights >> (4 * p + 16)) & 0xffff0000u);
  }
}

}  // namespace polytask
