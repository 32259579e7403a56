// Attention of new tokens over a cache in blocks: softmax(scale q K^T) V for each token and head, K and V read in place.
// New keys and values are put in their places first. Few queries of a row are taken one by one, many side by side in the
// lanes of vectors (Dao 2023, "FlashAttention-2", has the sums over stretches of keys).

#include <vector>

#include "calls.h"
#include "vectors.h"

using namespace polytask;

namespace {

constexpr int64_t LITTLE = 1 << 14;  // numbers of keys and values, below which threads would wait for each other
constexpr int64_t ALONE = 3;         // queries of a row and a head of keys, up to which lanes would be empty
constexpr int64_t STRETCH = 64;      // keys that are taken together: they and their scores stay in the first cache
constexpr int64_t AHEAD = 2 * BLOCK;  // places between what is read and what is asked for
constexpr float UNSEEN = -1e30f;
constexpr int VECTORS = ROOM == 32 ? 2 : 1, SUMS = ROOM == 32 ? 8 : 4;  // of queries; sums of each that registers hold

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

// Where place p of a row with that table lies.
inline int64_t in_cache(const int32_t* table, uint64_t p) { return table[p / BLOCK] * BLOCK + p % BLOCK; }

// The first place that a token sees.
int64_t since(const Attention& c, int64_t token) {
  const int64_t near = c.window ? c.end[token] - c.window : 0;
  return near > c.first[token] ? near : c.first[token];
}

// The products of a query with the keys that lie from `key` on, a lane each; `halves` is the query in bfloat16.
template <class T> POLYTASK_INLINE f32x16::Part products(const T* key, const float* query, const uint16_t* halves, int64_t width) {
  f32x16::Part found[OWN];
  for (int k = 0; k < OWN; k++, key += width) {
    f32x16 total = {};
    int64_t i = 0;
    if constexpr (HALVES && sizeof(T) == 2)
      for (; i + 2 * LANES <= width; i += 2 * LANES) total = dot(total, load<i32x16>(key + i), load<i32x16>(halves + i));
    for (; i < width; i += LANES) total += load<f32x16>(query + i) * wide(key + i);
    for (int p = 1; p < total.PARTS; p++) total.parts[0] += total.parts[p];
    found[k] = total.parts[0];
  }
  return sums(found);
}

// One token and the query heads that share a head of keys and values.
template <class T> void attend_one(const Attention& c, int64_t token, int64_t kv, Team& team) {
  const int64_t end = c.end[token], first = since(c, token), start = first / LANES * LANES, width = c.width;
  const int64_t each = c.heads / c.kv_heads, padded = (end - start + LANES - 1) / LANES * LANES;
  const int32_t* table = c.tables + c.row[token];
  const T *keys = (const T*)c.keys + kv * c.places * width, *values = (const T*)c.values + kv * c.places * width;
  float *scores = team.own(each * (padded + 2 * width)), *queries = scores + each * padded;
  uint16_t* halves = (uint16_t*)(queries + each * width);
  const auto soon = [&](const T* from, int64_t p) {  // another block may lie anywhere
    const char* next = (const char*)(from + in_cache(table, p + AHEAD < end ? p + AHEAD : end - 1) * width);
    for (int64_t i = 0; i < width * (int64_t)sizeof(T); i += 64) __builtin_prefetch(next + i);
  };
  for (int64_t h = 0; h < each; h++) {
    turn(c, token, (const T*)c.q + (kv * each + h) * c.q_head + token * c.q_token, queries + h * width);
    if constexpr (HALVES && sizeof(T) == 2)
      for (int64_t i = 0; i < width; i += LANES) put(halves + h * width + i, load<f32x16>(queries + h * width + i));
  }
  for (int64_t p = start; p < end; p += OWN) {
    for (int k = 0; k < OWN; k++) soon(keys, p + k);
    for (int64_t h = 0; h < each; h++) {
      const auto found = products(keys + in_cache(table, p) * width, queries + h * width, halves + h * width, width) * c.scale;
      std::memcpy(scores + h * padded + p - start, &found, sizeof found);
    }
  }
  for (int64_t h = 0; h < each; h++) {
    float* s = scores + h * padded;
    for (int64_t p = start; p < start + padded; p++)
      if (p < first || p >= end || (c.seen && !c.seen[(end - 1) * c.reach + p])) s[p - start] = UNSEEN;
    f32x16 top = UNSEEN, mass = {};
    for (int64_t p = 0; p < padded; p += LANES) top = larger(load<f32x16>(s + p), top);
    const float peak = most(top);
    for (int64_t p = 0; p < padded; p += LANES) {
      const f32x16 e = exponential(load<f32x16>(s + p) - peak);
      store(s + p, e), mass += e;
    }
    const float inverse = 1 / sum(mass);
    T* y = (T*)c.y + (token * c.heads + kv * each + h) * width;
    for (int64_t i = 0; i < width; i += 4 * LANES)
      known<4>((width - i) / LANES, [&](auto count) {
        f32x16 mixed[count] = {};
        for (int64_t p = first; p < end; p++) {
          const T* value = values + in_cache(table, p) * width + i;
          if (!i && !h) soon(values, p);
          for (int j = 0; j < count; j++) mixed[j] += wide(value + j * LANES) * s[p - start];
        }
        for (int j = 0; j < count; j++) put(y + i + j * LANES, mixed[j] * inverse);
      });
  }
}

// Queries of one row and one head of keys: `count` of them from number `query` of a token on, those of a token being the
// heads that share keys.
struct Queries { int64_t token, query, count; };

// Queries in lanes, keys one after another: each number of a key or a value is multiplied by all queries at once.
template <class T, int V> void attend_many(const Attention& c, const Queries& of, int64_t kv, Team& team) {
  constexpr int64_t N = V * LANES;
  const int64_t each = c.heads / c.kv_heads, width = c.width;
  float *queries = team.own(N * (2 * width + STRETCH) + STRETCH * width), *mixed = queries + N * width;
  float *scores = mixed + N * width, *room = scores + N * STRETCH;
  const auto token = [&](int64_t j) { return of.token + (of.query + j) / each; };
  const auto head = [&](int64_t j) { return kv * each + (of.query + j) % each; };
  int32_t firsts[N] = {}, ends[N] = {};  // other lanes see nothing
  int64_t first = since(c, of.token), from = first, end = c.end[of.token], to = end;  // what any of them sees, and all
  std::memset(queries, 0, 2 * N * width * sizeof(float));
  for (int64_t j = 0; j < of.count; j++) {
    const int64_t a = since(c, token(j)), b = c.end[token(j)];
    firsts[j] = a, ends[j] = b;
    first = a < first ? a : first, from = a > from ? a : from;
    end = b > end ? b : end, to = b < to ? b : to;
    turn(c, token(j), (const T*)c.q + head(j) * c.q_head + token(j) * c.q_token, room);
    for (int64_t i = 0; i < width; i++) queries[i * N + j] = room[i] * c.scale;
  }
  const int32_t* table = c.tables + c.row[of.token];
  const auto widened_row = [&](const void* store_of, int64_t p, float* row) {
    const T* numbers = (const T*)store_of + (kv * c.places + in_cache(table, p)) * width;
    for (int64_t i = 0; i < width; i += LANES) store(row + i, wide(numbers + i));
  };
  f32x16 top[V], mass[V] = {};
  for (int v = 0; v < V; v++) top[v] = UNSEEN;
  for (int64_t start = first; start < end; start += STRETCH) {
    const int64_t count = end - start < STRETCH ? end - start : STRETCH;
    f32x16 peak[V], shrunk[V];
    std::memcpy(peak, top, sizeof peak);
    for (int64_t p = 0; p < count; p += SUMS) {
      for (int k = 0; k < SUMS; k++) widened_row(c.keys, start + p + k < end ? start + p + k : end - 1, room + k * width);
      f32x16 s[SUMS][V];
      for (int k = 0; k < SUMS; k++)
        for (int v = 0; v < V; v++) s[k][v] = 0;
      for (int64_t i = 0; i < width; i++) {
        f32x16 q[V];
        for (int v = 0; v < V; v++) q[v] = load<f32x16>(queries + i * N + v * LANES);
#pragma GCC unroll 8  // or GCC unrolls the loop around them, and has no registers left
        for (int k = 0; k < SUMS; k++)
#pragma GCC unroll 2
          for (int v = 0; v < V; v++) s[k][v] += q[v] * room[k * width + i];
      }
      for (int k = 0; k < SUMS; k++)
        for (int v = 0; v < V; v++) {
          const int32_t place = start + p + k;
          if (place < from || place >= to) {
            const i32x16 seen = (load<i32x16>(firsts + v * LANES) < place + 1) & (load<i32x16>(ends + v * LANES) > place);
            s[k][v] = pick(seen, s[k][v], UNSEEN);
          }
          store(scores + (p + k) * N + v * LANES, s[k][v]);
          peak[v] = larger(s[k][v], peak[v]);
        }
    }
    for (int v = 0; v < V; v++) shrunk[v] = exponential(top[v] - peak[v]), top[v] = peak[v], mass[v] *= shrunk[v];
    for (int64_t p = 0; p < count; p++) {
      for (int v = 0; v < V; v++) {
        const f32x16 e = exponential(load<f32x16>(scores + p * N + v * LANES) - top[v]);
        store(scores + p * N + v * LANES, e), mass[v] += e;
      }
      widened_row(c.values, start + p, room + p * width);
    }
    for (int64_t i = 0; i < width; i += SUMS) {
      f32x16 y[SUMS][V];
      for (int k = 0; k < SUMS; k++)
        for (int v = 0; v < V; v++) y[k][v] = load<f32x16>(mixed + (i + k) * N + v * LANES) * shrunk[v];
      for (int64_t p = 0; p < count; p++) {
        f32x16 e[V];
        for (int v = 0; v < V; v++) e[v] = load<f32x16>(scores + p * N + v * LANES);
#pragma GCC unroll 8
        for (int k = 0; k < SUMS; k++)
#pragma GCC unroll 2
          for (int v = 0; v < V; v++) y[k][v] += e[v] * room[p * width + i + k];
      }
      for (int k = 0; k < SUMS; k++)
        for (int v = 0; v < V; v++) store(mixed + (i + k) * N + v * LANES, y[k][v]);
    }
  }
  for (int64_t j = 0; j < of.count; j++) {
    const float inverse = 1 / mass[j / LANES][j % LANES];
    for (int64_t i = 0; i < width; i++) room[i] = mixed[i * N + j] * inverse;
    T* y = (T*)c.y + (token(j) * c.heads + head(j)) * width;
    for (int64_t i = 0; i < width; i += LANES) put(y + i, load<f32x16>(room + i));
  }
}

// The queries of all rows in parts that fill the lanes.
void divide(const Attention& c, std::vector<Queries>& parts) {
  const int64_t each = c.heads / c.kv_heads;
  parts.clear();
  for (int64_t token = 0, end; token < c.tokens; token = end) {
    for (end = token + 1; end < c.tokens && c.row[end] == c.row[token];) end++;
    const int64_t count = (end - token) * each;
    if (c.seen || count <= ALONE) {
      for (; token < end; token++) parts.push_back({token, 0, 0});
      continue;
    }
    for (int64_t q = 0; q < count; q += VECTORS * LANES)
      parts.push_back({token + q / each, q % each, count - q < VECTORS * LANES ? count - q : VECTORS * LANES});
  }
}

// The new keys and values of a token go to their place, keys turned.
template <class T> void keep(const Attention& c, int64_t token, int64_t kv, float* room) {
  const int64_t to = (kv * c.places + in_cache(c.tables + c.row[token], c.place[token])) * c.width;
  turn(c, token, (const T*)c.k + kv * c.k_head + token * c.k_token, room);
  for (int64_t i = 0; i < c.width; i += LANES) put((T*)c.keys + to + i, load<f32x16>(room + i));
  std::memcpy((T*)c.values + to, (const T*)c.v + kv * c.v_head + token * c.v_token, c.width * sizeof(T));
}

template <class T> void attend_all(const Attention& c, Team& team) {
  static thread_local std::vector<Queries> parts;
  const auto each = [&](int64_t count, const auto& work) {
    team.share(count * c.kv_heads, 1, [&](int64_t start, int64_t end) {
      for (int64_t i = start; i < end; i++) work(i / c.kv_heads, i % c.kv_heads);
    });
  };
  divide(c, parts);
  if (c.place) each(c.tokens, [&](int64_t token, int64_t kv) { keep<T>(c, token, kv, team.own(c.width)); });
  each(parts.size(), [&](int64_t part, int64_t kv) {
    const Queries& of = parts[part];
    if (!of.count) attend_one<T>(c, of.token, kv, team);
    else if (of.count <= LANES) attend_many<T, 1>(c, of, kv, team);
    else attend_many<T, VECTORS>(c, of, kv, team);
  });
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
