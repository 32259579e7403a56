// Whole steps of decoding, all layers in one call: what Python says once in a list of operations is done by threads that
// stay together from the embedding to the choice of the next id.

#include <algorithm>
#include <cmath>
#include <vector>

#include "activations.h"
#include "calls.h"

using namespace polytask;

namespace {

enum { EMBED, MULTIPLY, ATTEND, ACTIVATE, NORMALIZE, BEND, PICK };
enum { ID, POSITION, LEAST, BASE, PLACE, FIRST, LAST, TABLE };  // columns of the state
enum { FREE, END, NEVER };  // kinds of ids
constexpr int64_t PIECE = 4096;  // logits that are looked at together

// Numbers of a row, a vector at a time; the last one may be in part.
template <class T> inline f32x16 some(const T* from, int64_t count) {
  if (count >= LANES) return wide(from);
  T part[LANES] = {};
  std::memcpy(part, from, count * sizeof(T));
  return wide(part);
}
template <class T> inline void put_some(T* to, f32x16 v, int64_t count) {
  if (count >= LANES) return put(to, v);
  T part[LANES];
  put(part, v), std::memcpy(to, part, count * sizeof(T));
}

template <class T> void embed(const Embedding& c, const Step& s, Team& team) {
  team.share(s.rows, 1, [&](int64_t start, int64_t end) {
    for (int64_t r = start; r < end; r++) {
      const int64_t* row = s.state + r * s.columns;
      const T* from = (const T*)c.table + row[ID] * c.width;
      const T* place = (const T*)c.places + (row[POSITION] + c.offset) * c.width;
      for (int64_t i = 0; i < c.width; i += LANES) {
        f32x16 v = some(from + i, c.width - i);
        if (c.scale != 1) v = rounded<T>(v * c.scale);
        if (c.places) v += some(place + i, c.width - i);
        if (c.grid && row[PLACE] >= 0) {
          const T* line = (const T*)c.grid + row[PLACE] / c.columns * c.width + i;
          const T* column = (const T*)c.grid + (c.height + row[PLACE] % c.columns) * c.width + i;
          v = rounded<T>(v) + rounded<T>(some(line, c.width - i) + some(column, c.width - i));
        }
        put_some((T*)c.y + r * c.width + i, v, c.width - i);
      }
    }
  });
}

template <class T> void activate(const Activation& c, const Step& s, Team& team) {
  const int64_t pieces = (c.width + LANES - 1) / LANES;
  team.share(s.rows * pieces, 8, [&](int64_t start, int64_t end) {
    for (int64_t p = start; p < end; p++) {
      const int64_t r = p / pieces, i = p % pieces * LANES, left = c.width - i;
      const T* x = (const T*)c.x + r * c.width * (c.gated ? 2 : 1) + i;
      f32x16 y = rounded<T>(active<T>(some(x, left), c.activation));
      if (c.gated) y *= some(x + c.width, left);
      put_some((T*)c.y + r * c.width + i, y, left);
    }
  });
}

template <class T> void normal(const Normal& c, const Step& s, Team& team) {
  const int64_t padded = (c.width + LANES - 1) / LANES * LANES;
  team.share(s.rows * c.heads, 1, [&](int64_t start, int64_t end) {
    float* room = team.own(padded);
    for (int64_t p = start; p < end; p++) {
      const int64_t at = p / c.heads * c.line + p % c.heads * c.width;
      const T* x = (const T*)c.x + at;
      T* y = (T*)c.y + at;
      for (int64_t i = 0; i < padded; i += LANES) store(room + i, some(x + i, c.width - i));
      normalize(c.norm, s.kind, c.width, room, padded);
      for (int64_t i = 0; i < c.width; i += LANES) {
        f32x16 v = load<f32x16>(room + i);
        if (c.adds) v += some(y + i, c.width - i);
        put_some(y + i, v, c.width - i);
      }
    }
  });
}

template <class T> void bend(const Bend& c, const Step& s, Team& team) {
  const int64_t pieces = (c.width + LANES - 1) / LANES;
  team.share(s.rows * pieces, 64, [&](int64_t start, int64_t end) {
    for (int64_t p = start; p < end; p++) {
      const int64_t i = p % pieces * LANES, left = c.width - i;
      T* x = (T*)c.x + p / pieces * c.width + i;
      f32x16 v = some(x, left) * c.scale;
      if (c.bias) v = rounded<T>(v) + some((const T*)c.bias + i, left);
      if (c.cap) v = rounded<T>(hyperbolic(rounded<T>(rounded<T>(v) / c.cap))) * c.cap;
      put_some(x, v, left);
    }
  });
}

template <class T> void pick_rows(const Pick& c, const Step& s, Team& team) {
  if (s.answered == s.rows) return;
  team.share(1, 1, [&](int64_t start, int64_t end) {
    for (int64_t i = 0; start < end && i < s.answered; i++)
      std::memmove((T*)c.x + i * c.width, (const T*)c.x + s.answers[i] * c.width, c.width * sizeof(T));
  });
}

// ---- the next id

enum { TEMPERATURE, TOP_K, TOP_P, MIN_P, NUMBERS };  // columns of the dials

// Which ids may come in a row.
struct Allowed {
  const int8_t* kinds;
  int64_t first, last;
  bool ends;

  Allowed(const Step& s, const int64_t* row)
      : kinds(s.kinds), first(row[FIRST]), last(row[LAST]), ends(row[POSITION] + 1 >= row[LEAST]) {}
  bool operator()(int64_t id) const {
    if (first >= 0) return id >= first && id < last;
    return kinds[id] == FREE || (kinds[id] == END && ends);
  }
};

// A row's logits in float32, filled up with -infinity.
template <class T> void widen_logits(const Step& s, int64_t r, int64_t padded, float* to) {
  const T* from = (const T*)s.logits + r * s.vocabulary;
  for (int64_t i = 0; i < s.vocabulary; i += LANES) store(to + i, some(from + i, s.vocabulary - i));
  for (int64_t i = s.vocabulary; i < padded; i++) to[i] = -INFINITY;
}

struct Found {
  float best, second, most, mass;  // of those that may come; then of all: the largest, and the sum of e^(logit - largest)
  int64_t id;
};

inline float most_of(const float* x, int64_t padded) {
  f32x16 top = -INFINITY;
  for (int64_t i = 0; i < padded; i += LANES) top = larger(load<f32x16>(x + i), top);
  return most(top);
}

inline float mass_of(const float* x, int64_t padded, float top) {
  f32x16 mass = {};
  for (int64_t i = 0; i < padded; i += LANES) mass += exponential(load<f32x16>(x + i) - top);
  return sum(mass);
}

// The two best of some logits that may come.
template <class T> Found look(const T* logits, const Allowed& comes, int64_t start, int64_t end) {
  float x[PIECE + LANES];
  const int64_t count = end - start, padded = (count + LANES - 1) / LANES * LANES;
  for (int64_t i = 0; i < padded; i += LANES) store(x + i, some(logits + start + i, count - i));
  for (int64_t i = count; i < padded; i++) x[i] = -INFINITY;
  Found f{};
  f.most = most_of(x, padded), f.mass = mass_of(x, padded, f.most);
  for (int64_t i = 0; i < count; i++)
    if (!comes(start + i)) x[i] = -INFINITY;
  f.best = most_of(x, padded);
  int64_t at = 0;
  while (at < count - 1 && x[at] != f.best) at++;
  f.id = start + at, x[at] = -INFINITY;
  f.second = most_of(x, padded);
  return f;
}

Found join(const Found* found, int64_t pieces) {
  Found all = found[0];
  for (int64_t p = 1; p < pieces; p++) {
    const Found& f = found[p];
    const float most = f.most > all.most ? f.most : all.most;
    all.mass = all.mass * std::exp(all.most - most) + f.mass * std::exp(f.most - most), all.most = most;
    if (f.best > all.best) {
      all.second = f.second > all.best ? f.second : all.best;
      all.best = f.best, all.id = f.id;
    } else if (f.best > all.second) {
      all.second = f.best;
    }
  }
  return all;
}

// Masses in buckets by their first bits, which are in order, so that the largest are found without sorting all.
struct Ranks {
  static constexpr int SHIFT = 19, BUCKETS = (0x3f800000 >> SHIFT) + 1;  // of numbers up to 1
  int32_t counts[BUCKETS] = {};
  double masses[BUCKETS] = {};
  const float* x;
  int64_t count;

  static int bucket(float v) {
    uint32_t b;
    std::memcpy(&b, &v, sizeof b);
    return b >> SHIFT;
  }

  Ranks(const float* x, int64_t count) : x(x), count(count) {
    for (int64_t i = 0; i < count; i++)
      if (x[i] > 0) counts[bucket(x[i])]++, masses[bucket(x[i])] += x[i];
  }

  // The smallest of the largest ones of which there are `most`, or that hold `wanted`; `held` is what they hold.
  float last(int64_t most, double wanted, double& held) {
    int64_t before = 0;
    int b = BUCKETS - 1;
    held = 0;
    for (; b > 0 && before + counts[b] < most && held + masses[b] < wanted; b--) before += counts[b], held += masses[b];
    std::vector<float> inside;
    for (int64_t i = 0; i < count; i++)
      if (x[i] > 0 && bucket(x[i]) == b) inside.push_back(x[i]);
    std::sort(inside.rbegin(), inside.rend());
    float edge = 0;
    for (float v : inside) {
      if (before >= most || held >= wanted) break;
      edge = v, held += v, before++;
    }
    return edge;
  }
};

// Draws an id of a row as `Sampler.weigh` and `sampling.draw` do: by one number, from masses that fall below no bound.
template <class T> Found draw(const Step& s, int64_t r, int64_t step, Team& team) {
  const int64_t count = s.vocabulary, padded = (count + LANES - 1) / LANES * LANES, *row = s.state + r * s.columns;
  const double* dials = s.dials + r * (NUMBERS + s.span);
  const Allowed comes(s, row);
  float *logits = team.own(2 * padded), *x = logits + padded;
  widen_logits<T>(s, r, padded, logits);
  Found f{};
  f.most = most_of(logits, padded), f.mass = mass_of(logits, padded, f.most);
  for (int64_t i = 0; i < padded; i++) x[i] = i < count && comes(i) ? logits[i] : -INFINITY;
  const float top = most_of(x, padded), temperature = dials[TEMPERATURE] > 1e-30 ? dials[TEMPERATURE] : 1e-30;
  for (int64_t i = 0; i < padded; i += LANES) {
    const f32x16 v = (load<f32x16>(x + i) - top) / temperature;
    store(x + i, pick(v > -87, exponential(v), 0));
  }
  float least = 0;
  const int64_t k = dials[TOP_K] > 0 && dials[TOP_K] < count ? dials[TOP_K] : count;
  if (k < count || dials[TOP_P] < 1) {
    Ranks ranks(x, count);
    double held = 0;
    least = ranks.last(k, INFINITY, held);
    if (dials[TOP_P] < 1) least = ranks.last(k, dials[TOP_P] * held, held);
  }
  least = dials[MIN_P] > least ? dials[MIN_P] : least;
  double whole = 0;
  for (int64_t i = 0; i < padded; i += LANES) {
    const f32x16 v = load<f32x16>(x + i), kept = pick(v < least, f32x16(0), v);
    store(x + i, kept), whole += sum(kept);
  }
  const double wanted = dials[NUMBERS + step] * whole;
  double before = 0;
  f.id = -1;
  for (int64_t i = 0; i < padded; i += LANES) {
    const double part = sum(load<f32x16>(x + i));
    if (part > 0 && before + part > wanted) {
      for (int64_t j = i; j < i + LANES; j++) {
        if (x[j] > 0) f.id = j;
        if (x[j] > 0 && (before += x[j]) > wanted) break;
      }
      break;
    }
    before += part;
  }
  for (int64_t i = count; f.id < 0 && i > 0; i--)
    if (x[i - 1] > 0) f.id = i - 1;
  if (f.id < 0) f.id = 0;
  f.best = logits[f.id], f.second = -INFINITY;
  return f;
}

template <class T> void choose(const Step& s, int64_t step, Team& team) {
  const int64_t pieces = (s.vocabulary + PIECE - 1) / PIECE;
  Found* found = (Found*)team.common(s.rows * pieces * sizeof(Found) / sizeof(float));
  const auto drawn = [&](int64_t r) { return s.dials[r * (NUMBERS + s.span) + TEMPERATURE] > 0; };
  team.share(s.rows * pieces, 1, [&](int64_t start, int64_t end) {
    for (int64_t p = start; p < end; p++) {
      const int64_t r = p / pieces, from = p % pieces * PIECE, *row = s.state + r * s.columns;
      const int64_t to = from + PIECE < s.vocabulary ? from + PIECE : s.vocabulary;
      const T* logits = (const T*)s.logits + r * s.vocabulary;
      if (!drawn(r)) found[p] = look(logits, Allowed(s, row), from, to);
    }
  });
  team.share(s.rows, 1, [&](int64_t start, int64_t end) {
    for (int64_t r = start; r < end; r++) {
      const Found f = drawn(r) ? draw<T>(s, r, step, team) : join(found + r * pieces, pieces);
      int64_t* row = s.state + r * s.columns;
      float* record = s.records + (r * s.span + row[POSITION] - row[BASE]) * 3;
      const float size = std::fabs(f.best);
      record[0] = f.id, record[1] = f.best - f.most - std::log(f.mass);
      record[2] = f.best - f.second <= s.tie * (size > 1 ? size : 1);
      row[ID] = f.id, row[POSITION]++;
      if (s.cells) row[PLACE] = f.id < s.code ? -1 : (row[PLACE] + 1) % s.cells;
    }
  });
}

// ---- a step

// What attention is told of the rows, the same for all layers.
struct Rows {
  std::vector<int32_t> tables, starts, places, zeros, ends;
  std::vector<float> cos, sin;

  Rows(const Step& s)
      : starts(s.rows), places(s.rows), zeros(s.rows), ends(s.rows), cos(s.rows * s.turned), sin(s.rows * s.turned) {
    for (int64_t r = 0; r < s.rows; r++) {
      const int64_t *row = s.state + r * s.columns, blocks = (row[POSITION] + s.steps + BLOCK - 1) / BLOCK;
      starts[r] = r && follows(s, row) ? starts[r - 1] : tables.size();
      tables.insert(tables.end(), row + TABLE + (tables.size() - starts[r]), row + TABLE + blocks);
    }
  }

  // Whether a row is of the text of the row before: of the same first position, and the next. Another text's first row has
  // its own position as its first.
  static bool follows(const Step& s, const int64_t* row) {
    const int64_t* before = row - s.columns;
    return row[POSITION] == before[POSITION] + 1 && row[BASE] == before[BASE];
  }

  template <class T> void advance(const Step& s) {
    for (int64_t r = 0; r < s.rows; r++) {
      const int64_t position = s.state[r * s.columns + POSITION], half = s.turned / 2;
      places[r] = position, ends[r] = position + 1;
      for (int64_t p = 0; p < half; p++) {
        const float angle = (float)position * s.frequencies[p];
        const float c = rounded<T>(std::cos(angle) * s.size), d = rounded<T>(std::sin(angle) * s.size);
        const int64_t i = r * s.turned + (s.neighbours ? 2 * p : p), j = s.neighbours ? i + 1 : i + half;
        cos[i] = cos[j] = c, sin[i] = -d, sin[j] = d;
      }
    }
  }
};

template <class T> void go(const Step& s, Rows& rows, Team& team) {
  for (int64_t step = 0; step < s.steps; step++) {
    if (team.rank == 0) rows.advance<T>(s);
    team.wait();
    Step now = s;
    for (int64_t i = 0; i < s.count && now.rows; i++) {
      const void* call = s.calls[i];
      switch (s.names[i]) {
        case EMBED: embed<T>(*(const Embedding*)call, now, team); break;
        case ACTIVATE: activate<T>(*(const Activation*)call, now, team); break;
        case NORMALIZE: normal<T>(*(const Normal*)call, now, team); break;
        case BEND: bend<T>(*(const Bend*)call, now, team); break;
        case PICK: pick_rows<T>(*(const Pick*)call, now, team), now.rows = s.answered; break;
        case MULTIPLY: {
          Product c = *(const Product*)call;
          c.rows = now.rows;
          multiply(c, team);
          break;
        }
        default: {
          Attention c = *(const Attention*)call;
          c.tokens = now.rows, c.tables = rows.tables.data(), c.row = rows.starts.data(), c.place = rows.places.data();
          c.first = rows.zeros.data(), c.end = rows.ends.data(), c.cos = rows.cos.data(), c.sin = rows.sin.data(), c.turned = s.turned;
          attend(c, team);
        }
      }
    }
    if (s.chooses) choose<T>(s, step, team);
  }
}

}  // namespace

extern "C" void polytask_step(const Step* s) {
  Rows rows(*s);
  together(s->threads, [&](Team& team) { s->kind == BFLOAT16 ? go<uint16_t>(*s, rows, team) : go<float>(*s, rows, team); });
}
