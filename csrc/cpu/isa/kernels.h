#pragma once

#include <cstdint>

#include "dtype.h"
#include "hamming_kernels.h"
#include "lsh_kernels.h"
#include "metric.h"

namespace memcore {

// Rows of the shadow come in blocks of 16, one row per vector lane.
inline constexpr int kBlockRows = 16;

// The int8 multiply takes four components at a time.
constexpr int64_t quads(int64_t dim) { return (dim + 3) / 4; }

// A block is [quads][16 rows][4 components] uint8 (int8 + 128), then scale[16], error[16], norm[16]
// float32. Row r is about scale[r] * (code - 128); error bounds the norm of what that leaves out;
// norm is canonical.
constexpr int64_t block_codes_bytes(int64_t dim) { return quads(dim) * 64; }
constexpr int64_t block_bytes(int64_t dim) { return block_codes_bytes(dim) + 3 * kBlockRows * 4; }

// Beyond this dim the int32 sums of the first pass could overflow.
inline constexpr int64_t kMaxScanDim = 32768;

// Blocks that one scan call looks at.
inline constexpr int64_t kScanBlocks = 4;

// Queries that one estimate call takes.
inline constexpr int64_t kEstimateQueries = 64;

// One query as the first pass sees it. A row is kept unless
//   slope * (scale * idot) + error_weight * error + norm_weight * norm + square_weight * norm^2 +
//   offset < 0.
struct ScanQuery {
  const int8_t* codes;  // [quads][4]
  // Instead of codes, for all queries of a scan or for none: [quads][4], components of a four in
  // the order 0 2 1 3.
  const int16_t* wide_codes;
  int32_t start;  // -128 * sum(codes): undoes the offset of the rows
  float slope;
  float inverse_slope;
  float error_weight;
  float norm_weight;
  float square_weight;
  float offset;
};

// The same query as a pair of bounds on the canonical score: docs/score.md derives the weights.
struct BoundQuery {
  Metric metric;
  float slope;
  float error_weight;
  float norm_weight;
  float underflow;
  float norm;
  float slack;
};

// The inner loops of attend: attend.inl. A panel is the right side of a product, [n_steps][16].
struct AttendKernels {
  // out[r][c] (+)= sum over i of a[r * a_stride + i] * panel[i][c], for n_rows rows and 16 columns.
  // The one place where multiply and add are fused: its sums are no scores.
  void (*multiply)(const float* a, int64_t a_stride, const float* panel, int64_t n_rows,
                   int64_t n_steps, float* out, int64_t out_stride, bool adds);

  // values[i] = beta * values[i] (+ bias[i]), NaN turned into -inf; returns the largest. n is a
  // multiple of 16, also below.
  float (*logits)(float* values, int64_t n, float beta, const float* bias);

  // values[i] = exp(values[i] - shift), 0 below exp(-88); returns their sum.
  float (*exponentials)(float* values, int64_t n, float shift);

  // out (dim,) = sum over j of weights[j] * rows[j], in the order of j, each step rounded.
  void (*weighted_sum)(const void* const* rows, DType dtype, const float* weights, int64_t n_rows,
                       int64_t dim, float* out);
};

// The inner loops, compiled once per instruction set from kernels.inl. Rows may be unaligned.
struct Kernels {
  const char* name;

  // sums[i] = the canonical dot (or sum of squared differences) of query (dim,) float32 and
  // rows[i].
  void (*dot_rows)(const float* query, const void* const* rows, DType dtype, int64_t n_rows,
                   int64_t dim, float* sums);
  void (*l2_rows)(const float* query, const void* const* rows, DType dtype, int64_t n_rows,
                  int64_t dim, float* sums);

  // sums[i] = the canonical dot of rows[i] with itself.
  void (*square_rows)(const void* const* rows, DType dtype, int64_t n_rows, int64_t dim,
                      float* sums);

  // out (dim,) float32 = the row, widened.
  void (*widen)(const void* row, DType dtype, int64_t dim, float* out);

  // Write rows[i] into lane i of a block: codes, scale, error, norm; nullptr leaves a lane alone. A
  // row beyond the bounds' reach gets an infinite error: it is always a candidate. `later`, if not
  // null, names 16 rows of which one is fetched for each row written.
  void (*shadow_rows)(const void* const* rows, DType dtype, int64_t dim, uint8_t* block,
                      const void* const* later);

  // codes [dim, in whole 16s] = the query in steps of *scale, zero where dim ends: int8, or int16
  // in the order of wide_codes. *error bounds the norm of what that leaves out; *sum is the sum of
  // the codes. Returns false, and writes nothing, for a query too small for the bounds.
  bool (*quantize_query)(const float* query, int64_t dim, float norm, bool is_wide, void* codes,
                         float* scale, float* error, int32_t* sum);

  // out[0 … n) = the positions of the values >= threshold (NaN counts), in order. Returns how many.
  int64_t (*at_least)(const float* values, int64_t n_blocks, float threshold, int32_t* out);

  // out[i] = the largest of values[i], values[16 + i], …
  void (*lane_tops)(const float* values, int64_t n_blocks, float* out);

  // The k-th largest of 16 n_blocks values, none of them NaN. For small k.
  float (*kth_largest)(const float* values, int64_t n_blocks, int64_t k);

  // First pass: masks[q * n_blocks + b] has bit r set if row r of block b may matter to query q.
  // Where any bit of a mask is set, dots[(q * n_blocks + b) * 16 + r] holds the int8 dot products
  // of the block. Without masks, all dot products are wanted and nothing is tested. n_blocks is at
  // most kScanBlocks. The n_blocks blocks of `next`, if not null, are fetched meanwhile.
  void (*scan)(const uint8_t* const* blocks, const uint8_t* const* next, int64_t n_blocks,
               int64_t dim, const ScanQuery* queries, int64_t n_queries, uint16_t* masks,
               int32_t* dots);

  // lower[r] <= canonical score of row r of the block <= upper[r].
  void (*bounds)(const uint8_t* block, int64_t dim, const int32_t* dots, const BoundQuery& query,
                 float* lower, float* upper);

  // estimates[(q * n_blocks + b) * 16 + r] = slope * (scale * idot) - norm^2: the l2 score of row r
  // of block b, less the query's square, if the slope is twice that of the dot product. tops[q]:
  // the largest of a query. Blocks lie block_stride bytes apart; n_queries is at most
  // kEstimateQueries.
  void (*estimate)(const uint8_t* blocks, int64_t block_stride, int64_t n_blocks, int64_t dim,
                   const ScanQuery* queries, int64_t n_queries, float* estimates, float* tops);

  AttendKernels attend;
  LshKernels lsh;
  HammingKernels hamming;
};

// The table in use. Chosen once at start-up: the best that runs here, or MEMCORE_ISA.
const Kernels& kernels();

}  // namespace memcore
