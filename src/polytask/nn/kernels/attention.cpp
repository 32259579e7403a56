// Attention of few new tokens over a cache in blocks: softmax(scale q K^T) V for each token and head, K and V read in
// place. New keys and values are put in their places first.

#include "calls.h"
#include "vectors.h"

using namespace polytask;

namespace {

constexpr int64_t LITTLE = 1 << 14;  // numbers of keys and values, below which threads would wait for each other

// A head of queries or keys in float32, turned by its token's angles; see Rotary of nn/position.py.
template <class T> void turn(const Attention& c, int64_t token, const T* from, float* to) {
  for (int64_t i = 0; i < c.width; i += LANES) store(to + i, wide(from + i));
  const float *cos = c.cos + token * c.turned, *sin = c.sin + token * c.turned;
  const int64_t half = c.turned / 2;
  for (int64_t p = 0; p < half; p++) {
    const int64_t i = c.neighbours ? 2 * p : p, j = c.neighbours ? i + 1 : p + half;
    const float a = to[i], b = to[j];
    to[i] = rounded<T>(a * cos[i] + b * sin[i]), to[j] = rounded<T>(b * cos[j] + a * sin[j]);
  }
}

// One token and the query heads that share a head of keys and values.
template <class T> void attend_one(const Attention& c, int64_t token, int64_t kv, Team& team) {
  const int64_t end = c.end[token], near = c.window ? end - c.window : 0, width = c.width;
  const int64_t first = near > c.first[token] ? near : c.first[token], length = end - first;
  const int64_t each = c.heads / c.kv_heads, padded = (length + LANES - 1) / LANES * LANES;
  const int32_t* table = c.tables + c.row[token];
  const T* keys = (const T*)c.keys + kv * c.places * width;
  const T* values = (const T*)c.values + kv * c.places * width;
  float *scores = team.own(each * (padded + width)), *queries = scores + each * padded;
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
  if (c.seen) {
    const uint8_t* seen = c.seen + (end - 1) * c.reach + first;
    for (int64_t p = 0; p < length; p++)
      for (int64_t h = 0; h < each && !seen[p]; h++) scores[h * padded + p] = -1e30f;
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
      for (int64_t j = 0; j < n; j++) put(y + i + j * LANES, mixed[j] * inverse);
    }
  }
}

// The new keys and values of a token go to their place, keys turned.
template <class T> void keep(const Attention& c, int64_t token, int64_t kv, float* room) {
  const int64_t last = c.end[token] - 1, block = c.tables[c.row[token] + last / BLOCK];
  const int64_t to = (kv * c.places + block * BLOCK + last % BLOCK) * c.width;
  turn(c, token, (const T*)c.k + kv * c.k_head + token * c.k_token, room);
  for (int64_t i = 0; i < c.width; i += LANES) put((T*)c.keys + to + i, load<f32x16>(room + i));
  std::memcpy((T*)c.values + to, (const T*)c.v + kv * c.v_head + token * c.v_token, c.width * sizeof(T));
}

template <class T> void attend_all(const Attention& c, Team& team) {
  const auto each = [&](const auto& work) {
    team.share(c.tokens * c.kv_heads, 1, [&](int64_t start, int64_t end) {
      for (int64_t i = start; i < end; i++) work(i / c.kv_heads, i % c.kv_heads);
    });
  };
  each([&](int64_t token, int64_t kv) { keep<T>(c, token, kv, team.own(c.width)); });
  each([&](int64_t token, int64_t kv) { attend_one<T>(c, token, kv, team); });
}

}  // namespace

void polytask::attend(const Attention& c, Team& team) {
  c.kind == BFLOAT16 ? attend_all<uint16_t>(c, team) : attend_all<float>(c, team);
}

extern "C" void polytask_attend(const Attention* c) {
  int64_t work = 0;
  for (int64_t t = 0; t < c->tokens; t++) work += (c->end[t] - c->first[t]) * c->width * c->heads;
  together(work < LITTLE ? 1 : c->threads, [&](Team& team) { attend(*c, team); });
}
