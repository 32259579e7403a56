// Attention of new tokens over a cache in blocks: softmax(scale q K^T) V for each token and head, K and V read in place.
// New keys and values are put in their places first. Few queries of a row are taken one by one, many side by side in the
// lanes of vectors (Dao 2023, "FlashAttention-2", has the sums over stretches of keys).

#include <algorithm>
#include <vector>

#include "tiles.h"

using namespace polytask;

namespace {

constexpr int64_t LITTLE = 1 << 14;  // numbers of keys and values, below which threads would wait for each other
constexpr int64_t ALONE = 3;         // queries of a row and a head of keys, up to which lanes would be empty
constexpr int64_t STRETCH = 64;      // keys that are taken together: they and their scores stay in the first cache
constexpr float UNSEEN = -1e30f;
constexpr int GROUPS = 2;  // of 16 queries, by tiles
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

// Where a head's key or value at place p of a row with that table lies in a store, and how far from there the next place.
template <class T> inline T* place(const Attention& c, const void* store, const int32_t* table, int64_t kv, uint64_t p) {
  return (T*)store + (in_cache(table, p) * c.kv_heads + kv) * c.width;
}
inline int64_t step(const Attention& c) { return c.kv_heads * c.width; }

// Asks for numbers that are needed soon. Few at a time, while others are multiplied: the machine waits for so many lines of
// memory and no more, and a burst of requests holds up what is read from the cache, too.
template <class T> POLYTASK_INLINE void soon(const T* from, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / sizeof(T)) __builtin_prefetch(from + i, 0, 2);
}

// The products of a query with so many keys, `step` apart, a lane each; `halves` is the query in bfloat16. Those at `next`
// are asked for.
template <class T>
POLYTASK_INLINE f32x16::Part products(const T* key, const T* next, int64_t step, const float* query, const uint16_t* halves, int64_t width) {
  f32x16::Part found[OWN];
  for (int k = 0; k < OWN; k++, key += step, next += step) {
    soon(next, width);
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

// Scores become e^(score - largest), next to nothing where a token does not see the place. Returns their sum.
inline float soften(const Attention& c, int64_t token, float* scores, int64_t start, int64_t padded) {
  const int64_t first = since(c, token), end = c.end[token];
  for (int64_t p = start; p < first; p++) scores[p - start] = UNSEEN;
  for (int64_t p = end; p < start + padded; p++) scores[p - start] = UNSEEN;
  for (int64_t p = first; c.seen && p < end; p++)
    if (!c.seen[(end - 1) * c.reach + p]) scores[p - start] = UNSEEN;
  f32x16 top = UNSEEN, mass = {};
  for (int64_t p = 0; p < padded; p += LANES) top = larger(load<f32x16>(scores + p), top);
  const float peak = most(top);
  for (int64_t p = 0; p < padded; p += LANES) {
    const f32x16 e = exponential(load<f32x16>(scores + p) - peak);
    store(scores + p, e), mass += e;
  }
  return sum(mass);
}

// Adds so many values, `step` apart, times their probabilities to y. Those at `next` are asked for.
template <class T>
inline void add_values(const T* value, const T* next, int64_t step, const float* by, int64_t count, int64_t width, float* y) {
  for (int64_t i = 0; i < width; i += 4 * LANES)
    known<4>((width - i) / LANES, [&](auto vectors) {
      f32x16 sum[vectors];
      for (int j = 0; j < vectors; j++) sum[j] = load<f32x16>(y + i + j * LANES);
      for (int64_t k = 0; k < count; k++) {
        soon(next + k * step + i, vectors * LANES);
        for (int j = 0; j < vectors; j++) sum[j] += wide(value + k * step + i + j * LANES) * by[k];
      }
      for (int j = 0; j < vectors; j++) store(y + i + j * LANES, sum[j]);
    });
}

// The same with probabilities in bfloat16, two values at once.
inline void add_pairs(const uint16_t* value, const uint16_t* next, int64_t step, const uint16_t* by, int64_t count, int64_t width, float* y) {
#if defined(__AVX512BF16__)
  const __m512i firsts = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i lasts = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
  for (int64_t i = 0; i < width; i += CHUNK) {
    f32x16 near = {}, far = {};
    for (int64_t k = 0; k < count; k += 2) {
      soon(next + k * step + i, CHUNK), soon(next + (k + 1) * step + i, CHUNK);
      const __m512i a = load<__m512i>(value + k * step + i), b = k + 1 < count ? load<__m512i>(value + (k + 1) * step + i) : _mm512_setzero_si512();
      const i32x16 two = load<int32_t>(by + k);
      i32x16 low, high;
      low.parts[0] = (i32x16::Part)_mm512_unpacklo_epi16(a, b), high.parts[0] = (i32x16::Part)_mm512_unpackhi_epi16(a, b);
      near = dot(near, two, low), far = dot(far, two, high);
    }
    const __m512 first = _mm512_permutex2var_ps((__m512)near.parts[0], firsts, (__m512)far.parts[0]);
    const __m512 last = _mm512_permutex2var_ps((__m512)near.parts[0], lasts, (__m512)far.parts[0]);
    _mm512_storeu_ps(y + i, _mm512_add_ps(_mm512_loadu_ps(y + i), first));
    _mm512_storeu_ps(y + i + LANES, _mm512_add_ps(_mm512_loadu_ps(y + i + LANES), last));
  }
#endif
}

// One token and the query heads of heads of keys `from` to `to`: block after block, as what a block holds of all heads lies
// side by side.
template <class T> void attend_one(const Attention& c, int64_t token, int64_t from, int64_t to, Team& team) {
  const int64_t end = c.end[token], first = since(c, token), start = first / BLOCK * BLOCK, width = c.width, line = step(c);
  const int64_t each = c.heads / c.kv_heads, count = (to - from) * each, padded = (end - start + BLOCK - 1) / BLOCK * BLOCK;
  const int32_t* table = c.tables + c.row[token];
  const bool paired = HALVES && sizeof(T) == 2 && width % CHUNK == 0;
  float *queries = team.own(count * (padded + 3 * width + 1)), *mixed = queries + count * width, *scores = mixed + count * width;
  float* inverses = scores + count * padded;
  uint16_t* halves = (uint16_t*)(inverses + count);
  const auto key = [&](int64_t kv, int64_t p) { return place<const T>(c, c.keys, table, kv, p); };
  const auto value = [&](int64_t kv, int64_t p) { return place<const T>(c, c.values, table, kv, p); };
  for (int64_t h = 0; h < count; h++) {
    turn(c, token, (const T*)c.q + (from * each + h) * c.q_head + token * c.q_token, queries + h * width);
    for (int64_t i = 0; HALVES && sizeof(T) == 2 && i < width; i += LANES) put(halves + h * width + i, load<f32x16>(queries + h * width + i));
  }
  for (int64_t p = start; p < end; p += BLOCK)
    for (int64_t h = 0; h < count; h++) {
      const int64_t kv = from + h / each;
      const T *keys = key(kv, p), *next = p + BLOCK < end ? key(kv, p + BLOCK) : value(kv, start);
      for (int64_t k = 0; k < BLOCK; k += OWN) {
        const auto found = products(keys + k * line, next + k * line, line, queries + h * width, halves + h * width, width) * c.scale;
        std::memcpy(scores + h * padded + p + k - start, &found, sizeof found);
      }
    }
  for (int64_t h = 0; h < count; h++) {
    float* s = scores + h * padded;
    inverses[h] = 1 / soften(c, token, s, start, padded);
    for (int64_t p = 0; paired && p < padded; p += LANES) put((uint16_t*)s + p, load<f32x16>(s + p));
  }
  std::memset(mixed, 0, count * width * sizeof(float));
  for (int64_t p = start; p < end; p += BLOCK)
    for (int64_t h = 0; h < count; h++) {
      const int64_t kv = from + h / each, seen = p < first ? first : p, places = (end - p < BLOCK ? end : p + BLOCK) - seen;
      const T *values = value(kv, seen), *next = p + BLOCK < end ? value(kv, p + BLOCK) : values;
      const float* s = scores + h * padded;
      if constexpr (HALVES && sizeof(T) == 2)
        if (paired) {
          add_pairs(values, next, line, (const uint16_t*)s + seen - start, places, width, mixed + h * width);
          continue;
        }
      add_values(values, next, line, s + seen - start, places, width, mixed + h * width);
    }
  for (int64_t h = 0; h < count; h++) {
    T* y = (T*)c.y + (token * c.heads + from * each + h) * width;
    for (int64_t i = 0; i < width; i += LANES) put(y + i, load<f32x16>(mixed + h * width + i) * inverses[h]);
  }
}

// Queries of one row and one head of keys: `count` of them from number `query` of a token on, those of a token being the
// heads that share keys.
struct Queries { int64_t token, query, count; };

// Which keys up to N of them see, a lane each, and where they lie.
template <int N> struct Lanes {
  const Attention& c;
  const Queries& of;
  const int64_t kv, each;
  int32_t firsts[N] = {}, ends[N] = {};  // other lanes see nothing
  int64_t first, from, end, to;  // what any of them sees, and all

  Lanes(const Attention& c, const Queries& of, int64_t kv)
      : c(c), of(of), kv(kv), each(c.heads / c.kv_heads), first(since(c, of.token)), from(first), end(c.end[of.token]), to(end) {
    for (int64_t j = 0; j < of.count; j++) {
      const int64_t a = since(c, token(j)), b = c.end[token(j)];
      firsts[j] = a, ends[j] = b;
      first = a < first ? a : first, from = a > from ? a : from;
      end = b > end ? b : end, to = b < to ? b : to;
    }
  }
  int64_t token(int64_t j) const { return of.token + (of.query + j) / each; }
  int64_t head(int64_t j) const { return kv * each + (of.query + j) % each; }
  template <class T> void query(int64_t j, float* room) const {
    turn(c, token(j), (const T*)c.q + head(j) * c.q_head + token(j) * c.q_token, room);
  }
  template <class T> void answer(int64_t j, const float* y, float inverse) const {
    T* to = (T*)c.y + (token(j) * c.heads + head(j)) * c.width;
    for (int64_t i = 0; i < c.width; i += LANES) put(to + i, load<f32x16>(y + i) * inverse);
  }
  // Scores of the 16 queries from `lane` on with the key at a place, where they see it.
  POLYTASK_INLINE f32x16 seen(f32x16 scores, int64_t lane, int32_t place) const {
    if (place >= from && place < to) return scores;
    const i32x16 sees = (load<i32x16>(firsts + lane) < place + 1) & (load<i32x16>(ends + lane) > place);
    return pick(sees, scores, UNSEEN);
  }
};

// Two values number by number side by side.
template <class T> inline void pair_lines(const T* first, const T* second, int64_t width, int32_t* to) {
  for (int64_t i = 0; i < width; i += LANES)
    store(to + i, (bits<u32x16>(wide(first + i)) >> 16) | bits<u32x16>(wide(second + i)));
}

// The same of two vectors, rounded to bfloat16.
POLYTASK_INLINE u32x16 pair(f32x16 a, f32x16 b) {
  return ((bits<u32x16>(a) + 0x8000u) >> 16) | ((bits<u32x16>(b) + 0x8000u) & 0xffff0000u);
}

// Queries in lanes, keys one after another: each number of a key or a value is multiplied by all queries at once, and of
// bfloat16 two numbers of a key or of two values, with probabilities rounded to it, where that is one instruction.
template <class T, int V> void attend_many(const Attention& c, const Queries& of, int64_t kv, Team& team) {
  constexpr int64_t N = V * LANES, AT_ONCE = HALVES && sizeof(T) == 2 ? 2 : 1;
  typedef std::conditional_t<AT_ONCE == 2, int32_t, float> Number;
  const auto add = [](f32x16& sum, Vector<Number> x, Number w) __attribute__((always_inline)) {
    if constexpr (AT_ONCE == 2) sum = dot(sum, x, w);
    else sum += x * w;
  };
  const int64_t width = c.width, numbers = width / AT_ONCE;
  const Lanes<N> lanes(c, of, kv);
  const int64_t end = lanes.end;
  float* mixed = team.own(N * (2 * width + STRETCH) + STRETCH * width);
  float *scores = mixed + N * width, *room = scores + N * STRETCH;
  Number *queries = (Number*)(room + STRETCH * width), *odds = (Number*)scores, *values = (Number*)room;
  std::memset(mixed, 0, N * width * sizeof(float));
  std::memset(queries, 0, N * numbers * sizeof(Number));
  for (int64_t j = 0; j < of.count; j++) {
    lanes.template query<T>(j, room);
    if constexpr (AT_ONCE == 2)
      for (int64_t i = 0; i < width; i += LANES) put((uint16_t*)room + i, load<f32x16>(room + i));
    for (int64_t i = 0; i < numbers; i++) std::memcpy(queries + i * N + j, (Number*)room + i, sizeof(Number));
  }
  const int32_t* table = c.tables + c.row[of.token];
  const auto line = [&](const void* store_of, int64_t p) {
    if (p + STRETCH < end) soon(place<T>(c, store_of, table, kv, p + STRETCH), width);
    return place<T>(c, store_of, table, kv, p < end ? p : end - 1);
  };
  const auto widened_line = [&](const T* from, float* row) {
    for (int64_t i = 0; i < width; i += LANES) store(row + i, wide(from + i));
  };
  f32x16 top[V], mass[V] = {};
  for (int v = 0; v < V; v++) top[v] = UNSEEN;
  for (int64_t start = lanes.first; start < end; start += STRETCH) {
    const int64_t count = end - start < STRETCH ? end - start : STRETCH;
    f32x16 peak[V], shrunk[V];
    std::memcpy(peak, top, sizeof peak);
    for (int64_t p = 0; p < count; p += SUMS) {
      const char* keys[SUMS];
      for (int k = 0; k < SUMS; k++) {
        const T* key = line(c.keys, start + p + k);
        keys[k] = AT_ONCE == 2 ? (const char*)key : (const char*)(room + k * width);
        if (AT_ONCE == 1) widened_line(key, room + k * width);
      }
      f32x16 s[SUMS][V];
      for (int k = 0; k < SUMS; k++)
        for (int v = 0; v < V; v++) s[k][v] = 0;
      for (int64_t i = 0; i < numbers; i++) {
        Vector<Number> q[V];
        for (int v = 0; v < V; v++) q[v] = load<Vector<Number>>(queries + i * N + v * LANES);
#pragma GCC unroll 8  // or GCC unrolls the loop around them, and has no registers left
        for (int k = 0; k < SUMS; k++) {
          const Number number = load<Number>(keys[k] + i * sizeof(Number));
#pragma GCC unroll 2
          for (int v = 0; v < V; v++) add(s[k][v], q[v], number);
        }
      }
      for (int k = 0; k < SUMS; k++)
        for (int v = 0; v < V; v++) {
          s[k][v] = lanes.seen(s[k][v] * c.scale, v * LANES, start + p + k);
          store(scores + (p + k) * N + v * LANES, s[k][v]);
          peak[v] = larger(s[k][v], peak[v]);
        }
    }
    for (int v = 0; v < V; v++) shrunk[v] = exponential(top[v] - peak[v]), top[v] = peak[v], mass[v] *= shrunk[v];
    const int64_t steps = (count + AT_ONCE - 1) / AT_ONCE;
    for (int64_t n = 0; n < steps; n++) {
      const T* value = line(c.values, start + n * AT_ONCE);
      if constexpr (AT_ONCE == 2) pair_lines(value, line(c.values, start + n * 2 + 1), width, values + n * width);
      else widened_line(value, values + n * width);
      for (int v = 0; v < V; v++) {
        const float* s = scores + n * AT_ONCE * N + v * LANES;
        const f32x16 e = exponential(load<f32x16>(s) - top[v]);
        mass[v] += e;
        if constexpr (AT_ONCE == 2) {
          const f32x16 f = exponential(load<f32x16>(s + N) - top[v]);
          mass[v] += f, store(odds + n * N + v * LANES, pair(e, f));
        } else {
          store(odds + n * N + v * LANES, e);
        }
      }
    }
    for (int64_t i = 0; i < width; i += SUMS) {
      f32x16 y[SUMS][V];
      for (int k = 0; k < SUMS; k++)
        for (int v = 0; v < V; v++) y[k][v] = load<f32x16>(mixed + (i + k) * N + v * LANES) * shrunk[v];
      for (int64_t n = 0; n < steps; n++) {
        Vector<Number> e[V];
        for (int v = 0; v < V; v++) e[v] = load<Vector<Number>>(odds + n * N + v * LANES);
#pragma GCC unroll 8
        for (int k = 0; k < SUMS; k++)
#pragma GCC unroll 2
          for (int v = 0; v < V; v++) add(y[k][v], e[v], load<Number>(values + n * width + i + k));
      }
      for (int k = 0; k < SUMS; k++)
        for (int v = 0; v < V; v++) store(mixed + (i + k) * N + v * LANES, y[k][v]);
    }
  }
  for (int64_t j = 0; j < of.count; j++) {
    for (int64_t i = 0; i < width; i++) room[i] = mixed[i * N + j];
    lanes.template answer<T>(j, room, 1 / mass[j / LANES][j % LANES]);
  }
}

#if defined(__AMX_BF16__)

// Two values number by number side by side; zeros where there is none.
inline void pair_values(const uint16_t* first, const uint16_t* second, int64_t width, uint16_t* to) {
  const __m512i zero = _mm512_setzero_si512();
  const __m512i near = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), far = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  for (int64_t i = 0; i < width; i += CHUNK) {
    const __m512i a = first ? load<__m512i>(first + i) : zero, b = second ? load<__m512i>(second + i) : zero;
    const __m512i low = _mm512_unpacklo_epi16(a, b), high = _mm512_unpackhi_epi16(a, b);  // of each 128 bits
    _mm512_store_si512(to + 2 * i, _mm512_permutex2var_epi64(low, near, high));
    _mm512_store_si512(to + 2 * i + CHUNK, _mm512_permutex2var_epi64(low, far, high));
  }
}

// The same by tiles, for G groups of 16 queries: a block of keys is a tile as it lies. Probabilities are rounded to
// bfloat16.
template <int G> void attend_tiles(const Attention& c, const Queries& of, int64_t kv, Team& team) {
  constexpr int64_t N = G * SIDE, HALF = CHUNK;  // keys of a tile of probabilities
  constexpr int64_t PARTS = STRETCH / HALF;
  const int64_t width = c.width, chunks = width / CHUNK;
  const Lanes<N> lanes(c, of, kv);
  const int64_t end = lanes.end;
  const int32_t* table = c.tables + c.row[of.token];
  float* room = at_line(team.own(N * (2 * width + STRETCH) + STRETCH * width + N * STRETCH + SIDE * width + LANES));
  float *mixed = room + width, *scores = mixed + N * width;
  uint16_t *queries = (uint16_t*)(scores + N * STRETCH), *rows = queries + N * width, *pairs = rows + SIDE * width;
  uint16_t* odds = pairs + STRETCH * width;
  for (int g = 0; g < G; g++) {
    std::memset(rows, 0, SIDE * width * sizeof(uint16_t));
    for (int64_t j = g * SIDE; j < (g + 1) * SIDE && j < of.count; j++) {
      lanes.template query<uint16_t>(j, room);
      for (int64_t i = 0; i < width; i += LANES) put(rows + j % SIDE * width + i, load<f32x16>(room + i));
    }
    for (int64_t chunk = 0; chunk < chunks; chunk++)
      pair_rows(rows + chunk * CHUNK, width, queries + (g * chunks + chunk) * TILE);
  }
  std::memset(mixed, 0, N * width * sizeof(float));
  f32x16 top[G], mass[G] = {};
  for (int g = 0; g < G; g++) top[g] = UNSEEN;
  begin_tiles();
  for (int64_t start = lanes.first / BLOCK * BLOCK; start < end; start += STRETCH) {
    const int64_t left = end - start < STRETCH ? end - start : STRETCH, halves = (left + HALF - 1) / HALF, count = halves * HALF;
    for (int64_t p = 0; p < left; p += SIDE) {
      const auto* block = place<const uint16_t>(c, c.keys, table, kv, start + p);
      clear_sums<G>();
      for (int64_t chunk = 0; chunk < chunks; chunk++)
        multiply_tiles<G, true>(block + chunk * CHUNK, step(c) * 2, (const char*)(queries + chunk * TILE), LINE, chunks * TILE * 2);
      keep_sums<G>(scores + p * N, N * sizeof(float), SIDE);
    }
    for (int g = 0; g < G; g++) {
      const int64_t lane = g * SIDE;
      f32x16 peak = top[g];
      for (int64_t p = 0; p < count; p++) {
        float* s = scores + p * N + lane;
        const f32x16 v = p < left ? lanes.seen(load<f32x16>(s) * c.scale, lane, start + p) : f32x16(UNSEEN);
        store(s, v), peak = larger(v, peak);
      }
      const f32x16 shrunk = exponential(top[g] - peak);
      top[g] = peak, mass[g] *= shrunk;
      for (int64_t q = 0; q < SIDE; q++)
        for (int64_t i = 0; i < width; i += LANES) {
          float* y = mixed + (lane + q) * width + i;
          store(y, load<f32x16>(y) * shrunk[q]);
        }
      for (int64_t h = 0; h < halves; h++) {
        u32x16 lines[SIDE];
        for (int k = 0; k < SIDE; k++) {
          const float* s = scores + (h * HALF + 2 * k) * N + lane;
          const f32x16 a = exponential(load<f32x16>(s) - peak), b = exponential(load<f32x16>(s + N) - peak);
          mass[g] += a + b;
          lines[k] = pair(a, b);
        }
        transpose(lines);
        for (int q = 0; q < SIDE; q++) store(odds + (g * PARTS + h) * TILE + q * HALF, lines[q]);
      }
    }
    for (int64_t p = 0; p < count; p += 2) {
      const auto* v = p < left ? place<const uint16_t>(c, c.values, table, kv, start + p) : nullptr;
      pair_values(v, p + 1 < left ? v + step(c) : nullptr, width, pairs + p * width);
    }
    for (int64_t i = 0; i < width; i += SIDE) {
      load_sums<G>(mixed + i, width * sizeof(float), SIDE * width);
      for (int64_t h = 0; h < halves; h++)
        multiply_tiles<G, false>(pairs + h * HALF * width + 2 * i, width * 4, (const char*)(odds + h * TILE), LINE, PARTS * TILE * 2);
      keep_sums<G>(mixed + i, width * sizeof(float), SIDE * width);
    }
  }
  _tile_release();
  for (int64_t j = 0; j < of.count; j++) lanes.template answer<uint16_t>(j, mixed + j * width, 1 / mass[j / LANES][j % LANES]);
}

#endif

// How many queries are taken together at most; by tiles where `tiled`.
struct Way { int64_t most; bool tiled; };
Way way(const Attention& c) {
#if defined(__AMX_BF16__)
  if (c.kind == BFLOAT16 && c.width % CHUNK == 0 && tiles()) return {GROUPS * SIDE, true};
#endif
  return {VECTORS * LANES, false};
}

// The queries of all rows in parts that fill the lanes.
void divide(const Attention& c, int64_t most, std::vector<Queries>& parts) {
  const int64_t each = c.heads / c.kv_heads;
  parts.clear();
  for (int64_t token = 0, end; token < c.tokens; token = end) {
    for (end = token + 1; end < c.tokens && c.row[end] == c.row[token];) end++;
    const int64_t count = (end - token) * each;
    if (c.seen || count <= ALONE) {
      for (; token < end; token++) parts.push_back({token, 0, 0});
      continue;
    }
    for (int64_t q = 0; q < count; q += most) parts.push_back({token + q / each, q % each, count - q < most ? count - q : most});
  }
}

// The new keys and values of a token go to their place, keys turned.
template <class T> void keep(const Attention& c, int64_t token, int64_t kv, float* room) {
  const int32_t* table = c.tables + c.row[token];
  T* key = place<T>(c, c.keys, table, kv, c.place[token]);
  turn(c, token, (const T*)c.k + kv * c.k_head + token * c.k_token, room);
  for (int64_t i = 0; i < c.width; i += LANES) put(key + i, load<f32x16>(room + i));
  std::memcpy(place<T>(c, c.values, table, kv, c.place[token]), (const T*)c.v + kv * c.v_head + token * c.v_token, c.width * sizeof(T));
}

template <class T> void attend_all(const Attention& c, Team& team) {
  static thread_local std::vector<Queries> parts;
  const auto share = [&](int64_t count, int64_t least, const auto& work) {  // work(part, from, to) for some heads of keys
    team.share(count * c.kv_heads, least, [&](int64_t start, int64_t end) {
      for (int64_t next; start < end; start = next) {
        const int64_t part = start / c.kv_heads, before = part * c.kv_heads;
        next = before + c.kv_heads < end ? before + c.kv_heads : end;
        work(part, start - before, next - before);
      }
    });
  };
  const Way by = way(c);
  divide(c, by.most, parts);
  if (c.place)
    share(c.tokens, 1, [&](int64_t token, int64_t kv, int64_t to) {
      for (; kv < to; kv++) keep<T>(c, token, kv, team.own(c.width));
    });
  // Of single queries as many heads side by side as leave work for all.
  const bool single = std::all_of(parts.begin(), parts.end(), [](const Queries& of) { return !of.count; });
  share(parts.size(), single ? (c.kv_heads + team.size - 1) / team.size : 1, [&](int64_t part, int64_t kv, int64_t to) {
    const Queries& of = parts[part];
    if (!of.count) return attend_one<T>(c, of.token, kv, to, team);
    for (; kv < to; kv++) {
#if defined(__AMX_BF16__)
      if (by.tiled) {
        known<GROUPS>((of.count + SIDE - 1) / SIDE, [&](auto g) { attend_tiles<g>(c, of, kv, team); });
        continue;
      }
#endif
      if (of.count <= LANES) attend_many<T, 1>(c, of, kv, team);
      else attend_many<T, VECTORS>(c, of, kv, team);
    }
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
