#pragma once

#include <cstdint>

#include "exact.h"
#include "threads.h"

namespace memcore {

// Keys as the caller gave them: any strides, in bytes; rows may be unaligned.
struct KeysView {
  const uint8_t* data;
  DType dtype;
  int64_t n_rows;
  int64_t dim;
  int64_t row_stride;
  int64_t column_stride;
};

// Which keys a query may get: byte (q, r) of data is not zero. query_stride 0: the same for all
// queries.
struct MaskView {
  const uint8_t* data = nullptr;
  int64_t query_stride = 0;
  int64_t row_stride = 0;
};

// How many hits each query wants. A single number has stride 0.
struct CountsView {
  const int64_t* data;
  int64_t stride;
  int64_t operator[](int64_t q) const { return data[q * stride]; }
};

// Whether the certified int8 pass is used. It changes the time, never the answer.
enum class FirstPass { kAuto, kOff, kOn };

struct SearchOptions {
  CountsView k;
  ScoreRange range;
  MaskView mask;
  // (n_queries, n_candidates) ids that a query may find, -1 pads; nullptr: all.
  const int64_t* candidates = nullptr;
  int64_t n_candidates = 0;
  // One per key, or nullptr.
  const float* scale = nullptr;
  const float* bias = nullptr;
  FirstPass first_pass = FirstPass::kAuto;
};

// The k best keys of each query. With offsets, query q looks at keys offsets[segments[q]] …
// offsets[segments[q] + 1] only. scores and ids are (n_queries, width).
void search(Queries& queries, const KeysView& keys, const int64_t* offsets, const int64_t* segments,
            const SearchOptions& options, Interrupt& interrupt, int64_t width, float* scores,
            int64_t* ids);

// The k best of each row of scores (n_queries, n) float32 with byte strides.
void topk(const uint8_t* scores, int64_t n_queries, int64_t n, int64_t query_stride,
          int64_t item_stride, CountsView k, Interrupt& interrupt, int64_t width, float* best,
          int64_t* ids);

}  // namespace memcore
