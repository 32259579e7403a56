// What the functions are called with; `kernels/library.py`, `kernels/attention.py` and `kernels/step.py` have the same.
#pragma once

#include <cstdint>

#include "team.h"

namespace polytask {

enum { FLOAT32, BFLOAT16, INT8, INT4 };  // what goes in and comes out is of the first two, weights of any
enum { NONE, LAYER, RMS };
constexpr int64_t BLOCK = 16;  // places of a block of the cache, as in nn/paged.py

struct Norm {
  const void *scale, *bias;
  float eps, offset;
  int32_t kind, unused;
};

// y (rows, out) = norm(x) (rows, in) times weight (out, in) plus bias, added to `onto` where there is one. By tiles alone, and
// of five rows or more, an activation comes in between; where it is `gated`, of the first half times the second, (rows, out / 2).
struct Product {
  const void *x, *weight, *scales, *bias, *onto;
  void* y;
  int64_t rows, in, out;
  Norm norm;
  int32_t kind, weights, threads, activation, gated, unused;  // kind of x, biases, norm and y; activation: 0, or its number plus 1
};
void multiply(const Product&, Team&);

// to (out, in) of bfloat16 = weight in 8 or 4 bits, times its scales.
struct Wide {
  const void *weight, *scales;
  void* to;
  int64_t in, out;
  int32_t weights, threads;
};

// x, its end filled up with zeros, normalised in place and rounded to `kind`.
void normalize(const Norm&, int kind, int64_t count, float* x, int64_t padded);

// Keys and values are (places, kv_heads, width), strides count elements. A token's row begins at `tables[row]`, its own
// place being `place` of it where it brings a key and a value; tokens of a row follow each other. It sees places from
// `first`, or the last `window`, to `end`. cos and sin (tokens, turned) turn the first channels of queries and keys.
struct Attention {
  const void *q, *k, *v;
  void *keys, *values, *y;
  const int32_t *tables, *row, *place, *first, *end;
  const float *cos, *sin;
  const uint8_t* seen;  // (places of queries, `reach`): which keys a query of each place sees; all where it is none
  int64_t tokens, heads, kv_heads, width;
  int64_t q_head, q_token, k_head, k_token, v_head, v_token;
  int64_t turned, window, reach;
  float scale;
  int32_t neighbours, threads, kind;  // whether neighbouring channels are pairs, or those of the two halves
};
void attend(const Attention&, Team&);

// Rows of `width` numbers, y (rows, width), of the kinds that `Step` lists.
struct Embedding {  // y = scale x table[id], plus places[position + offset] where there are places, plus what a code of
  const void *table, *places, *grid;  // a picture has of its row and its column, which come behind `height` rows
  void* y;
  int64_t width, offset, height, columns;
  float scale;
  int32_t unused;
};
struct Activation {  // y = activation(x); gated: times what lies behind in x (rows, 2 width)
  const void* x;
  void* y;
  int64_t width;
  int32_t activation, gated;
};
struct Normal {  // y = norm(x), added to y where `adds`; of each row `heads` pieces by themselves, rows `line` apart
  const void* x;
  void* y;
  int64_t width, heads, line;
  Norm norm;
  int32_t adds, unused;
};
struct Bend {  // x = cap tanh(x / cap), plus bias, after being multiplied by scale
  void* x;
  const void* bias;
  int64_t width;
  float scale, cap;
};
struct Pick {  // the rows that have answers come first, and go on alone
  void* x;
  int64_t width;
};

// `steps` steps of decoding for `rows` rows: what is done in each stands in `names` and `calls`. Rows of one text that come
// one after another, as of a prompt, see each other; then there is one step. Of `answered` rows, whose numbers stand in
// `answers` in order, logits are wanted.
// state (rows, columns): of each row its id, its position, from which position on it may end, its first position, which
// code of its picture its id is (-1: none), the first id that may come and the one behind the last (-1: those that kinds
// let) and its table of blocks. Steps that choose take ids from logits (rows, vocabulary), kinds (vocabulary) saying which may
// come, move the state on and leave records (rows, span, 3); see `inference.steps.choose`. dials (rows, 4 + span): of
// each row its temperature, top_k, top_p and min_p (see `sampling.Sampling`), and a number in [0, 1) for each step.
struct Step {
  int64_t *state, columns, rows, steps, count, answered;
  const int64_t* answers;
  const int32_t* names;
  const void* const* calls;
  const float* frequencies;  // (turned / 2): of rotary positions
  int64_t turned;
  const void* logits;
  const int8_t* kinds;
  float* records;
  const double* dials;
  int64_t vocabulary, span, code, cells;  // code: the first id that is of a picture, which has so many cells, 0 for none
  float size, tie;  // of cosines and sines; see `sampling.TIE`
  int32_t neighbours, chooses, threads, kind;
};

}  // namespace polytask
