// Attention of few new tokens over a cache in blocks: softmax(scale q K^T) V for each token and head, K and V read in
// place. New keys and values are put in their places first.

#include <vector>

#include "vectors.h"

using namespace polytask;

namespace {

constexpr int64_t BLOCK = 16;          // places of a block, as in nn/paged.py
constexpr int64_t LITTLE = 1 << 14;    // numbers of keys and values, below which threads would wait for each other

// The same as in kernels/library.py. Strides count elements. A token's row begins at `tables[row]`; it sees places from
// `first` to `end`, of which the last is its own.
struct Attend {
  const void *q, *k, *v;
  void *keys, *values, *y;
  const int32_t* tables;
  const int32_t *row, *first, *end;
  const float *cos, *sin;  // (tokens, turned): by which the first channels of queries and keys are turned
  int64_t tokens, heads, kv_heads, width, places;
  int64_t q_head, q_token, k_head, k_token, v_head, v_token;
  int64_t turned;
  float scale;
  int32_t neighbours, threads, kind;  // whether neighbouring channels are pairs, or those of the two halves
};

inline f32x16 wide(const float* from) { return load<f32x16>(from); }
inline f32x16 wide(const uint16_t* from) {
  return bits(__builtin_convertvector(load<u16x16>(from), i32x16) << 16);
}
inline void put(float* to, float value) { *to = value; }
inline void put(uint16_t* to, float value) { *to = narrow(value); }

// As torch rounds it, so that few tokens and many differ little.
template <class T> inline float rounded(float value) {
  T to;
  return put(&to, value), sizeof(T) == 2 ? widen((uint16_t)to) : value;
}

// A head of queries or keys in float32, turned by its token's angles; see Rotary of nn/position.py.
template <class T> void turn(const Attend& c, int64_t token, const T* from, float* to) {
  for (int64_t i = 0; i < c.width; i += LANES) store(to + i, wide(from + i));
  const float *cos = c.cos + token * c.turned, *sin = c.sin + token * c.turned;
  const int64_t half = c.turned / 2;
  for (int64_t p = 0; p < half; p++) {
    const int64_t i = c.neighbours ? 2 * p : p, j = c.neighbours ? i + 1 : p + half;
    const float a = to[i], b = to[j];
    to[i] = rounded<T>(a * cos[i] + b * sin[i]), to[j] = rounded<T>(b * cos[j] + a * sin[j]);
  }
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

// One token and the query heads that share a head of keys and values.
template <class T> void attend_one(const Attend& c, int64_t token, int64_t kv) {
  const int64_t first = c.first[token], end = c.end[token], length = end - first, width = c.width;
  const int64_t each = c.heads / c.kv_heads, padded = (length + LANES - 1) / LANES * LANES;
  const int32_t* table = c.tables + c.row[token];
  const T* keys = (const T*)c.keys + kv * c.places * width;
  const T* values = (const T*)c.values + kv * c.places * width;
  static thread_local std::vector<float> room;
  room.resize(each * (padded + width));
  float *scores = room.data(), *queries = scores + each * padded;
  const auto place = [&](int64_t p) { return (table[p / BLOCK] * BLOCK + p % BLOCK) * width; };
  for (int64_t h = 0; h < each; h++) {
    const T* q = (const T*)c.q + (kv * each + h) * c.q_head + token * c.q_token;
    turn(c, token, q, queries + h * width);
    for (int64_t i = 0; i < width; i++) queries[h * width + i] *= c.scale;
  }
  for (int64_t p = 0; p < length; p++) {
    const T* key = keys + place(first + p);
    for (int64_t h = 0; h < each; h++) {
      f32x16 total = {};
      for (int64_t i = 0; i < width; i += LANES) total += load<f32x16>(queries + h * width + i) * wide(key + i);
      scores[h * padded + p] = sum(total);
    }
  }
  for (int64_t h = 0; h < each; h++) {
    float* s = scores + h * padded;
    float most = s[0];
    for (int64_t p = 1; p < length; p++) most = s[p] > most ? s[p] : most;
    for (int64_t p = length; p < padded; p++) s[p] = -1e30f;
    f32x16 mass = {};
    for (int64_t p = 0; p < padded; p += LANES) {
      const f32x16 e = exponential(load<f32x16>(s + p) - most);
      store(s + p, e), mass += e;
    }
    const float inverse = 1 / sum(mass);
    T* y = (T*)c.y + (token * c.heads + kv * each + h) * width;
    for (int64_t i = 0; i < width; i += 4 * LANES) {
      const int64_t n = width - i < 4 * LANES ? (width - i) / LANES : 4;
      f32x16 mixed[4] = {};
      for (int64_t p = 0; p < length; p++) {
        const T* value = values + place(first + p) + i;
        for (int64_t j = 0; j < n; j++) mixed[j] += wide(value + j * LANES) * s[p];
      }
      for (int64_t j = 0; j < n; j++)
        for (int l = 0; l < LANES; l++) put(y + i + j * LANES + l, mixed[j][l] * inverse);
    }
  }
}

template <class T> void attend(const Attend& c) {
  int64_t work = 0;
  static thread_local std::vector<float> room;
  room.resize(c.width);
  for (int64_t t = 0; t < c.tokens; t++) {
    const int64_t last = c.end[t] - 1;
    const int64_t to = (c.tables[c.row[t] + last / BLOCK] * BLOCK + last % BLOCK) * c.width;
    for (int64_t kv = 0; kv < c.kv_heads; kv++) {
      turn(c, t, (const T*)c.k + kv * c.k_head + t * c.k_token, room.data());
      for (int64_t i = 0; i < c.width; i++) put((T*)c.keys + kv * c.places * c.width + to + i, room[i]);
      std::memcpy((T*)c.values + kv * c.places * c.width + to, (const T*)c.v + kv * c.v_head + t * c.v_token, c.width * sizeof(T));
    }
    work += (c.end[t] - c.first[t]) * c.width * c.heads;
  }
  share(c.tokens * c.kv_heads, 1, work < LITTLE ? 1 : c.threads, [&](int64_t start, int64_t end) {
    for (int64_t i = start; i < end; i++) attend_one<T>(c, i / c.kv_heads, i % c.kv_heads);
  });
}

}  // namespace

extern "C" void polytask_attend(const Attend* c) { c->kind == BFLOAT16 ? attend<uint16_t>(*c) : attend<float>(*c); }
